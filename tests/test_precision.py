"""
Half precision: what is in it and what is not, and every script in it. `pytest tests/test_precision.py`

bfloat16 runs on every CPU, if slowly. Texts are compared in float32 alone: in half precision two ways of batching may differ in
the last bit of a logit, and a near-tie then falls either way. Logits are compared within a tolerance.
"""
import json
import wave

import numpy as np
import pytest
import torch
from conftest import flags
from test_model import LLMS, MECHANISMS, both_kinds, inputs, make
from transformers import AutoModelForCausalLM

from nanopalm.checkpoint import pick_device_and_dtype

EVERY_LLM = pytest.mark.parametrize('llm', LLMS)
EVERY_MECHANISM = pytest.mark.parametrize('mechanism', MECHANISMS)
HALF = pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bfloat16', 'float16'])


# ---- the model ------------------------------------------------------------------------------------------------------

@HALF
@EVERY_LLM
def test_matrices_are_half_the_stream_and_its_norms_are_float32(llm, dtype):
    palm = make(llm, 'inner_to_end', dtype)
    features, ids, labels, _ = inputs()
    seen = []
    for layer in palm.decoder.layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast('cpu', dtype):
        palm(ids, labels, features=features)
    for name, p in palm.llm.named_parameters():
        assert p.dtype == (torch.float32 if 'norm' in name else dtype), name
    assert seen and set(seen) == {torch.float32}


@EVERY_MECHANISM
@both_kinds
def test_half_precision_computes_what_autocast_over_float32_weights_does(llm, mechanism):
    """So nothing is lost by the smaller weights but what rounding them loses; here they are exact in bfloat16."""
    half = make(llm, mechanism, torch.bfloat16)
    full = make(llm, mechanism)
    full.llm.load_state_dict(half.llm.state_dict())
    full.adapter.load_state_dict(half.adapter.state_dict())
    features, ids, labels, mask = inputs(padding='right')
    losses, gradients = [], []
    for palm in (half, full):
        with torch.autocast('cpu', torch.bfloat16):
            loss = palm(ids, labels, mask, features=features)
        names = [name for name in palm.trained() if name.startswith('adapter.')]
        gradients.append(torch.autograd.grad(loss, [palm.trained()[name] for name in names]))
        losses.append(loss.item())
    assert losses[0] == losses[1]
    for name, a, b in zip(names, *gradients):
        assert torch.equal(a, b), name


@EVERY_MECHANISM
@both_kinds
def test_questions_in_a_padded_batch_have_the_logits_they_have_alone(llm, mechanism):
    palm = make(llm, mechanism, torch.bfloat16)
    features, ids, _, mask = inputs(padding='left')
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        together = palm.logits(ids, mask, features=features)[0, 3:]
        alone = palm.logits(ids[:1, 3:], features=features[:1])[0]
    exact = make(llm, mechanism).logits(ids[:1, 3:], features=features[:1])[0]
    size = exact.abs().max()
    assert (together - alone).abs().max() < 0.03 * size and (together - exact).abs().max() < 0.06 * size


def test_gradients_in_half_precision_are_those_of_float32():
    """A residual stream in bfloat16, as a model in bfloat16 has by itself, is further off."""
    errors = {}
    features, ids, labels, _ = inputs()
    for way in ('float32', 'ours', 'stock'):
        palm = make('llama', 'limber_all', torch.float32 if way == 'float32' else torch.bfloat16)
        if way == 'float32':
            # its weights rounded: the question is what the arithmetic loses
            palm.llm.load_state_dict({k: v.bfloat16().float() for k, v in palm.llm.state_dict().items()})
        if way == 'stock':
            for p in palm.llm.parameters():
                p.data = p.data.bfloat16()
            palm.llm.get_input_embeddings()._forward_hooks.clear()
            given = palm.adapter.forward
            palm.adapter.forward = lambda sources: {i: z.bfloat16() for i, z in given(sources).items()}
        with torch.autocast('cpu', torch.bfloat16, enabled=way != 'float32'):
            loss = palm(ids, labels, features=features)
        loss.backward()
        errors[way] = torch.cat([p.grad.flatten() for p in palm.trained().values()])
    exact = errors.pop('float32')
    ours, stock = [float((g - exact).norm() / exact.norm()) for g in errors.values()]
    assert ours < 0.05 and ours < stock


@pytest.mark.parametrize('num_beams', [1, 3])
@both_kinds
def test_compiled_generation_in_half_precision_is_the_same(llm, num_beams, monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda function: function)
    features, ids, _, mask = inputs(padding='left')
    texts = []
    for compiled in (False, True):
        palm = make(llm, 'inner_to_end', torch.bfloat16)
        with torch.autocast('cpu', torch.bfloat16):
            new = palm.generate(ids, mask, features=features, num_beams=num_beams, max_new_tokens=6, compile=compiled)
        texts.append(new.tolist())
    assert texts[0] == texts[1]


# ---- which one is taken ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('published, bf16, expected', [
    ('float16', True, 'float16'), ('bfloat16', True, 'bfloat16'), ('float32', True, 'bfloat16'), ('bfloat16', False, 'float16')])
def test_auto_is_float32_on_a_cpu_and_on_a_gpu_as_the_llm_was_published(llm, published, bf16, expected, tmp_path, monkeypatch):
    assert pick_device_and_dtype('cpu', 'auto', str(llm)) == ('cpu', 'float32')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: bf16)
    AutoModelForCausalLM.from_config(LLMS['llama']).to(getattr(torch, published)).save_pretrained(tmp_path)
    assert pick_device_and_dtype('auto', 'auto', str(tmp_path)) == ('cuda', expected)
    assert pick_device_and_dtype('cuda', 'float32', str(tmp_path)) == ('cuda', 'float32')


# ---- the scripts ----------------------------------------------------------------------------------------------------

TINY = dict(device='cpu', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=8, max_iters=2, num_workers=0, n_samples=2)
EVERY_DTYPE = pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])


@EVERY_DTYPE
@pytest.mark.parametrize('cache_features', [False, True])
def test_pictures_are_captioned(dtype, cache_features, run, llm, encoder, pictures, tmp_path):
    out = dict(out_dir=tmp_path / 'run')
    data = dict(dataset=pictures, cache_features=cache_features, cache_dir=tmp_path / 'cache')
    run('train.py', *flags(**TINY, **out, **data, llm=llm, encoder=encoder, dtype=dtype))
    assert 'CIDEr' in run('eval_caption.py', *flags(**out, device='cpu', dtype=dtype, max_new_tokens=4))
    lines = run('sample.py', *flags(**out, device='cpu', dtype=dtype, input=pictures / 'images', max_new_tokens=4)).splitlines()
    assert len(lines) == 24


@EVERY_DTYPE
def test_questions_are_answered(dtype, run, llm, encoder, pictures, tmp_path):
    path = pictures / 'questions_of_precision.jsonl'
    row = dict(question='is it red?', answers=['yes'])
    path.write_text(''.join(json.dumps(dict(row, image=f'images/{i}.png')) + '\n' for i in range(24)))
    out = dict(out_dir=tmp_path / 'run')
    run('train.py', *flags(**TINY, **out, dataset=path, llm=llm, encoder=encoder, dtype=dtype))
    assert 'accuracy' in run('eval_vqa.py', *flags(**out, device='cpu', dtype=dtype, max_new_tokens=4))


@EVERY_DTYPE
def test_sound_is_described(dtype, run, llm, tmp_path):
    """At another rate than the encoder's: it is resampled, in float32."""
    lines = []
    for i in range(12):
        with wave.open(str(tmp_path / f'{i}.wav'), 'wb') as f:
            f.setparams((1, 2, 22050, 0, 'NONE', ''))
            f.writeframes((np.sin(np.arange(11025) * 0.02 * (i + 1)) * 9999).astype(np.int16).tobytes())
        lines.append(json.dumps(dict(audio=f'{i}.wav', caption='A tone.')) + '\n')
    path = tmp_path / 'sounds.jsonl'
    path.write_text(''.join(lines))
    encoder = whisper(tmp_path / 'whisper')
    out = dict(out_dir=tmp_path / 'run')
    knobs = TINY | dict(batch_size=4, connector='linear')
    run('train.py', *flags(**knobs, **out, dataset=path, llm=llm, encoder=encoder, audio_seconds=1, dtype=dtype))
    assert 'CIDEr' in run('eval_caption.py', *flags(**out, device='cpu', dtype=dtype, max_new_tokens=4))
    assert 'wav' in run('sample.py', *flags(**out, device='cpu', dtype=dtype, input=tmp_path / '0.wav', max_new_tokens=4))


def whisper(folder):
    from transformers import WhisperConfig, WhisperModel
    torch.manual_seed(0)
    config = WhisperConfig(d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                           encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                           decoder_start_token_id=1)
    WhisperModel(config).save_pretrained(folder)
    return folder


def test_the_tool_compares_gradients(llm, encoder, pictures, run, tmp_path, monkeypatch):
    out = dict(out_dir=tmp_path / 'run')
    run('train.py', *flags(**TINY, **out, dataset=pictures, llm=llm, encoder=encoder, dtype='float32'))
    lines = run('tools/precision.py', *flags(**out, rows=8, device='cpu')).splitlines()
    errors = {}
    for line in lines[1:]:
        way, _, error, cosine, _ = line.rsplit(maxsplit=4)
        errors[way] = float(error.rstrip('%')) / 100
        assert float(cosine) > 0.95
    assert errors.pop('float32') == 0 and len(errors) == 3 and all(0 < error < 0.2 for error in errors.values())
