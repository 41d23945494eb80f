"""
Half precision: what is in it and what is not, every script in it, and tools/precision.py.

bfloat16 runs on every CPU, if slowly. Texts are compared in float32 alone: in half precision two
ways to batch may differ in the last bit of a logit, and a near-tie then falls either way. Logits
are compared within a tolerance.
"""

import json
import warnings
import wave

import numpy as np
import pytest
import torch
from conftest import TINY, flags
from tiny_models import (
    LLMS,
    cases,
    every_mechanism,
    greedy_or_beams,
    inputs,
    make,
    rotary_or_learned,
)
from transformers import WhisperConfig, WhisperModel

every_llm = pytest.mark.parametrize('llm', LLMS)
half_precisions = pytest.mark.parametrize(
    'dtype', [torch.bfloat16, torch.float16], ids=['bfloat16', 'float16']
)


# ---- the model -----------------------------------------------------------------------------------


@half_precisions
@every_llm
def test_matrices_are_half_and_norms_and_the_residual_stream_are_float32(llm, dtype):
    palm = make(llm, 'inner_to_end', dtype)
    features, ids, labels, _ = inputs()
    stream = []

    def note_dtype(layer, args, output):
        stream.append(output.dtype)

    for layer in palm.decoder.layers:
        layer.register_forward_hook(note_dtype)
    with torch.autocast('cpu', dtype):
        palm(ids, labels, features=features)
    for name, parameter in palm.llm.named_parameters():
        assert parameter.dtype == (torch.float32 if 'norm' in name else dtype), name
    assert stream
    assert set(stream) == {torch.float32}


@every_mechanism
def test_half_precision_is_close_and_warns_of_nothing(llm, mechanism):
    """What is trained is in full precision all the same."""
    full = make(llm, mechanism)
    half = make(llm, mechanism, torch.bfloat16)
    features, ids, labels, mask = inputs(padding='right')
    with warnings.catch_warnings(), torch.autocast('cpu', torch.bfloat16):
        warnings.simplefilter('error')
        loss = half(ids, labels, mask, features=features)
        text = half.generate(ids, features=features, num_beams=3, max_new_tokens=4)
    assert text.shape == (2, 4)
    expected = full(ids, labels, mask, features=features).item()
    assert 0 < abs(loss.item() / expected - 1) < 0.05
    for name, parameter in half.trained().items():
        (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        assert gradient.dtype == torch.float32, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@every_mechanism
def test_half_precision_computes_what_autocast_over_float32_weights_does(llm, mechanism):
    """So nothing is lost by the smaller weights but what rounding them loses; here they are exact
    in bfloat16."""
    half = make(llm, mechanism, torch.bfloat16)
    full = make(llm, mechanism)
    full.llm.load_state_dict(half.llm.state_dict())
    full.adapter.load_state_dict(half.adapter.state_dict())
    loss, gradients = loss_and_gradients(half)
    expected_loss, expected_gradients = loss_and_gradients(full)
    assert loss == expected_loss
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected_gradients[name]), name


def loss_and_gradients(palm):
    """Returns the loss under autocast, and {name: gradient} of the adapter's tensors."""
    features, ids, labels, mask = inputs(padding='right')
    with torch.autocast('cpu', torch.bfloat16):
        loss = palm(ids, labels, mask, features=features)
    trained = {name: p for name, p in palm.trained().items() if name.startswith('adapter.')}
    gradients = torch.autograd.grad(loss, trained.values())
    return loss.item(), dict(zip(trained, gradients))


@every_mechanism
def test_questions_in_a_padded_batch_have_the_logits_they_have_alone(llm, mechanism):
    palm = make(llm, mechanism, torch.bfloat16)
    features, ids, _, mask = inputs(padding='left')
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        together = palm.logits(ids, mask, features=features)[0, 3:]
        alone = palm.logits(ids[:1, 3:], features=features[:1])[0]
    exact = make(llm, mechanism).logits(ids[:1, 3:], features=features[:1])[0]
    size = exact.abs().max()
    assert (together - alone).abs().max() < 0.03 * size
    assert (together - exact).abs().max() < 0.06 * size


def test_gradients_in_half_precision_are_closer_to_float32_than_those_of_the_stock_llm():
    """A residual stream in bfloat16, as a model in bfloat16 has by itself, is further off."""
    exact = make('llama', 'limber_all')
    # its weights are rounded: the question is what the arithmetic loses
    rounded = {name: w.bfloat16().float() for name, w in exact.llm.state_dict().items()}
    exact.llm.load_state_dict(rounded)
    expected = flat_gradient(exact, autocast=False)

    ours = flat_gradient(make('llama', 'limber_all', torch.bfloat16))
    stock = flat_gradient(make_stock_bfloat16())
    our_error = (ours - expected).norm() / expected.norm()
    stock_error = (stock - expected).norm() / expected.norm()
    assert our_error < 0.05
    assert our_error < stock_error


def make_stock_bfloat16():
    """Returns a PALM whose LLM is in bfloat16 throughout, its norms and its stream included."""
    palm = make('llama', 'limber_all', torch.bfloat16)
    for parameter in palm.llm.parameters():
        parameter.data = parameter.data.bfloat16()
    palm.llm.get_input_embeddings()._forward_hooks.clear()
    adapter_forward = palm.adapter.forward

    def forward_in_bfloat16(sources):
        return {layer: z.bfloat16() for layer, z in adapter_forward(sources).items()}

    palm.adapter.forward = forward_in_bfloat16
    return palm


def flat_gradient(palm, autocast=True):
    """Returns the gradient of all that is trained, as one vector."""
    features, ids, labels, _ = inputs()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = palm(ids, labels, features=features)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in palm.trained().values()])


@greedy_or_beams
@rotary_or_learned
def test_generation_with_the_cache_of_compile_is_the_same_in_half_precision(
    llm, num_beams, monkeypatch
):
    def same(function):
        return function

    monkeypatch.setattr(torch, 'compile', same)
    features, ids, _, mask = inputs(padding='left')
    options = dict(features=features, num_beams=num_beams, max_new_tokens=6)
    texts = []
    for compiled in (False, True):
        palm = make(llm, 'inner_to_end', torch.bfloat16)
        with torch.autocast('cpu', torch.bfloat16):
            new = palm.generate(ids, mask, compile=compiled, **options)
        texts.append(new.tolist())
    assert texts[0] == texts[1]


# ---- the scripts ---------------------------------------------------------------------------------

SMALL = TINY | dict(max_iters=2, eval_interval=100, log_interval=10, n_samples=2)
either_dtype = cases('dtype', ['float32', 'bfloat16'], quick=['bfloat16'])


def trained_here(tmp_path, dtype):
    """Returns the hyperparameters of a script that reads the run in this test's folder."""
    return dict(out_dir=tmp_path / 'run', device='cpu', dtype=dtype, max_new_tokens=4)


@either_dtype
@cases('cache_features', [False, True], quick=[True])
def test_pictures_are_captioned(dtype, cache_features, run, llm, encoder, pictures, tmp_path):
    script = trained_here(tmp_path, dtype)
    options = SMALL | dict(
        dtype=dtype,
        out_dir=script['out_dir'],
        dataset=pictures,
        cache_features=cache_features,
        cache_dir=tmp_path / 'cache',
    )
    run('train.py', *flags(**options, llm=llm, encoder=encoder))
    assert 'CIDEr' in run('eval_caption.py', *flags(**script))
    lines = run('sample.py', *flags(**script, input=pictures / 'images')).splitlines()
    assert len(lines) == 24


@either_dtype
def test_questions_are_answered(dtype, run, llm, encoder, pictures, tmp_path):
    path = pictures / 'questions_of_precision.jsonl'
    lines = []
    for i in range(24):
        image = f'images/{i}.png'
        lines.append(json.dumps(dict(question='is it red?', answers=['yes'], image=image)) + '\n')
    path.write_text(''.join(lines))
    script = trained_here(tmp_path, dtype)
    options = SMALL | dict(dtype=dtype, out_dir=script['out_dir'], dataset=path)
    run('train.py', *flags(**options, llm=llm, encoder=encoder))
    assert 'accuracy' in run('eval_vqa.py', *flags(**script))


@either_dtype
def test_sound_is_described(dtype, run, llm, tmp_path):
    """It has another rate than the encoder's, and is resampled in float32."""
    lines = []
    for i in range(12):
        write_tone(tmp_path / f'{i}.wav', pitch=i + 1)
        lines.append(json.dumps(dict(audio=f'{i}.wav', caption='A tone.')) + '\n')
    path = tmp_path / 'sounds.jsonl'
    path.write_text(''.join(lines))
    script = trained_here(tmp_path, dtype)
    options = SMALL | dict(
        dtype=dtype,
        out_dir=script['out_dir'],
        dataset=path,
        batch_size=4,
        connector='linear',
        audio_seconds=1,
    )
    run('train.py', *flags(**options, llm=llm, encoder=make_whisper(tmp_path / 'whisper')))
    assert 'CIDEr' in run('eval_caption.py', *flags(**script))
    assert 'wav' in run('sample.py', *flags(**script, input=tmp_path / '0.wav'))


def write_tone(path, pitch):
    samples = np.sin(np.arange(11025) * 0.02 * pitch) * 9999
    with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, 22050, 0, 'NONE', ''))
        file.writeframes(samples.astype(np.int16).tobytes())


def make_whisper(folder):
    """Writes a random Whisper into the folder, and returns it."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(folder)
    return folder


# ---- tools/precision.py --------------------------------------------------------------------------


def test_the_tool_compares_gradients(llm, encoder, pictures, run, tmp_path):
    out_dir = tmp_path / 'run'
    options = SMALL | dict(out_dir=out_dir, dataset=pictures)
    run('train.py', *flags(**options, llm=llm, encoder=encoder))
    lines = run('tools/precision.py', *flags(out_dir=out_dir, rows=8, device='cpu')).splitlines()
    errors = {}
    for line in lines[1:]:
        way, _, error, cosine, _ = line.rsplit(maxsplit=4)
        errors[way] = float(error.rstrip('%')) / 100
        assert float(cosine) > 0.95
    assert errors.pop('float32') == 0
    assert len(errors) == 3
    assert all(0 < error < 0.2 for error in errors.values())
