"""
llms.py: every family of LLMs with a tokenizer of its kind, through the scripts; special tokens; and
what is refused.
"""

import json
import runpy
import shutil
import sys

import pytest
import tiny_models
import torch
import transformers
from conftest import ROOT, TINY, configured, flags
from tiny_models import cases
from tiny_tokenizers import CUE, QUESTIONS, TOKENIZERS
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from llms import FAMILIES, load_llm
from nanopalm.checkpoint import build, load_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.generate import generate_texts
from nanopalm.prompts import encode_prompt, encode_targets

# ---- every family --------------------------------------------------------------------------------

ROTARY = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    initializer_range=0.1,
)
OPT = dict(
    hidden_size=64,
    ffn_dim=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=128,
    word_embed_proj_dim=64,
    init_std=0.2,
)
# as OPT-350m
POSTNORM = dict(word_embed_proj_dim=32, do_layer_norm_before=False)
# {name: (kind of tokenizer, config, rows that the embedding has beyond the tokenizer's tokens)}
LLMS = dict(
    llama=('llama', LlamaConfig(**ROTARY), 0),
    llama_gqa=('llama3', LlamaConfig(**ROTARY, num_key_value_heads=2), 8),
    llama_tied=(
        'llama3',
        LlamaConfig(**ROTARY, num_key_value_heads=1, tie_word_embeddings=True),
        0,
    ),
    mistral=('prepended', MistralConfig(**ROTARY, num_key_value_heads=2), 0),
    qwen2=('qwen', Qwen2Config(**ROTARY, num_key_value_heads=2, tie_word_embeddings=True), 40),
    qwen3=('qwen', Qwen3Config(**ROTARY, num_key_value_heads=2, head_dim=32), 40),
    opt=('opt', OPTConfig(**OPT), 7),
    opt_postnorm=('opt', OPTConfig(**OPT | POSTNORM), 7),
)


@pytest.fixture(scope='session')
def llms(tmp_path_factory):
    """A folder with a folder for each of LLMS."""
    folder = tmp_path_factory.mktemp('llms')
    for name, (kind, config, n_more) in LLMS.items():
        make_tokenizer, _, _, _ = TOKENIZERS[kind]
        tokenizer = make_tokenizer()
        config.vocab_size = len(tokenizer) + n_more
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(0)
        llm = transformers.AutoModelForCausalLM.from_config(config)
        llm.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope='session')
def questions(pictures):
    """The pictures, with two questions of different length about each."""
    lines = []
    for split in ('train', 'val', 'test'):
        for line in (pictures / f'{split}.jsonl').read_text().splitlines():
            example = json.loads(line)
            # 'A red circle.'
            _, colour, shape = example['caption'][0].strip('.').split()
            answers = (colour, 'yes' if shape == 'square' else 'no')
            for question, answer in zip(QUESTIONS, answers):
                asked = dict(question=question, answers=answer, split=split)
                lines.append(json.dumps(asked | dict(image=example['image'])) + '\n')
    path = pictures / 'questions.jsonl'
    path.write_text(''.join(lines))
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """call(script, *args) returns what the script printed, as `run` does, but runs it in this
    process."""

    def call(script, *args):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        # the script sets its own
        monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
        capsys.readouterr()
        runpy.run_path(str(ROOT / script), run_name='__main__')
        return capsys.readouterr().out

    return call


SMALL = TINY | dict(
    texts_per_input=2,
    log_interval=100,
    eval_interval=100,
    warmup=0.0,
    learning_rate=2e-2,
    max_iters=16,
    llm_bias_tuning=True,
)
ASKED = dict(instruction='{prompt}' + CUE)


def test_every_known_family_is_tested():
    assert {config.model_type for _, config, _ in LLMS.values()} == set(FAMILIES)
    assert {config.model_type for config in tiny_models.LLMS.values()} == set(FAMILIES)


ANSWERING = ('llama', 'llama_tied', 'qwen2', 'opt_postnorm')


@cases('name', LLMS, quick=['opt', 'llama_tied'])
def test_an_llm_is_trained_evaluated_and_asked_and_its_texts_end(
    name, llms, encoder, pictures, questions, call, tmp_path
):
    """On questions, or on captions."""
    out_dir = tmp_path / 'run'
    options = dict(out_dir=out_dir, device='cpu', dtype='float32', max_new_tokens=12)
    if name in ANSWERING:
        task = ASKED | dict(dataset=questions)
        script, key, n_texts = ('eval_vqa.py', 'answer', 8)
    else:
        task = dict(dataset=pictures, instruction='', answer_prompt='Answer: ')
        script, key, n_texts = ('eval_caption.py', 'caption', 4)
    models = dict(llm=llms / name, encoder=encoder)
    call('train.py', *flags(**SMALL | task | models, out_dir=out_dir))
    call(script, *flags(**options, batch_size=3))
    result = json.loads((out_dir / 'eval_test.json').read_text())
    texts = [row[key] for row in result['rows']]
    assert len(texts) == n_texts
    for text in texts:
        # no special token is left in it
        assert '<' not in text
        assert '>' not in text

    model, tokenizer, config = load_checkpoint(out_dir, 'best', 'cpu', 'float32')
    example = load_examples(config, 'test')[1]
    image = example['image']
    if name in ANSWERING:
        options |= dict(question=example['question'])
    assert call('sample.py', *flags(**options, input=image)) == f'{image}: {texts[1]}\n'

    _, bos, eos, pad = TOKENIZERS[LLMS[name][0]]
    assert tokenizer.eos_token == eos
    assert tokenizer.pad_token == pad
    assert (tokenizer.bos_token or eos) == bos
    question = QUESTIONS[0] if name in ANSWERING else ''
    ids = torch.tensor([encode_prompt(tokenizer, config, question)])
    black = torch.zeros(1, 3, 32, 32)
    new = model.generate(ids, pixels=black, max_new_tokens=30)[0].tolist()
    assert new.index(tokenizer.eos_token_id) == len(new) - 1


@pytest.mark.parametrize('name', LLMS)
def test_questions_of_different_length_are_answered_in_a_batch_as_they_are_alone(
    name, llms, encoder, questions
):
    """Nothing is trained: a constant answer would hide what a padded batch gets wrong."""
    torch.manual_seed(0)
    models = dict(llm=llms / name, encoder=encoder)
    config = configured(*flags(**SMALL | ASKED | models, dataset=questions))
    model, tokenizer = build(config, 'cpu', 'float32')
    examples = load_examples(config, 'test')
    options = dict(progress=False, num_beams=3, max_new_tokens=8)
    lengths = {len(encode_prompt(tokenizer, config, question)) for question in QUESTIONS}
    assert len(lengths) == 2
    together = generate_texts(model, tokenizer, config, examples, 3, **options)
    alone = []
    for example in examples:
        alone += generate_texts(model, tokenizer, config, [example], 1, **options)
    assert together == alone
    assert together[0] != together[1]


# ---- pad token and end of text -------------------------------------------------------------------


@pytest.fixture
def copied(llms, tmp_path):
    """copied(name, token=...) returns a copy of one of LLMS whose tokenizer has another special
    token."""

    def copied(name, **special_tokens):
        folder = shutil.copytree(llms / name, tmp_path / 'llm')
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for token, text in special_tokens.items():
            setattr(tokenizer, token, text)
        tokenizer.save_pretrained(folder)
        return folder

    return copied


@pytest.mark.slow
def test_to_pad_with_the_end_of_text_changes_nothing(
    llms, encoder, questions, call, copied, tmp_path
):
    """Its labels are -100 and nothing attends to it: an LLM without a pad token trains and answers
    as one that has one."""
    without = llms / 'llama_gqa'
    padded = copied('llama_gqa', pad_token='<|eot_id|>')
    _, tokenizer = load_llm(without, 'float32')
    _, padded_tokenizer = load_llm(padded, 'float32')
    assert padded_tokenizer.pad_token_id != tokenizer.pad_token_id
    results = []
    for name, folder in (('without', without), ('padded', padded)):
        out_dir = tmp_path / name
        paths = dict(llm=folder, encoder=encoder, dataset=questions, out_dir=out_dir)
        call('train.py', *flags(**SMALL | ASKED | paths))
        options = dict(device='cpu', dtype='float32', batch_size=3, max_new_tokens=12)
        call('eval_vqa.py', *flags(**options, out_dir=out_dir))
        losses = []
        for line in (out_dir / 'metrics.jsonl').read_text().splitlines():
            losses.append(json.loads(line).get('val_loss'))
        rows = json.loads((out_dir / 'eval_test.json').read_text())['rows']
        results.append((losses, [row['answer'] for row in rows]))
    assert results[0] == results[1]


def test_a_pad_token_that_the_weights_do_not_have_is_not_used(llms, tmp_path):
    """The tokenizer has one token more than the LLM: [PAD] would be an index out of range."""
    folder = shutil.copytree(llms / 'llama', tmp_path / 'llm')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(dict(pad_token='[PAD]'))
    tokenizer.save_pretrained(folder)
    vocabulary = LLMS['llama'][1].vocab_size
    assert tokenizer.pad_token_id == vocabulary
    llm, tokenizer = load_llm(folder, 'float32')
    assert tokenizer.pad_token == '<unk>'
    assert llm.generation_config.pad_token_id == 0

    # as Alpaca: 32001 tokens, [PAD] the last
    llm.resize_token_embeddings(vocabulary + 1, mean_resizing=False)
    llm.save_pretrained(folder)
    _, tokenizer = load_llm(folder, 'float32')
    assert tokenizer.pad_token == '[PAD]'


@pytest.mark.parametrize('eos', ['<|end_of_text|>', '<|eot_id|>'])
def test_generation_ends_with_the_token_that_targets_end_with(eos, copied):
    """It is the tokenizer's. A base model ends its texts with another token than the same model
    tuned to chat does."""
    llm, tokenizer = load_llm(copied('llama_gqa', eos_token=eos), 'float32')
    (target,) = encode_targets(tokenizer, ['red'], 9)
    assert tokenizer.convert_ids_to_tokens(target[-1]) == eos
    assert tokenizer.convert_ids_to_tokens(llm.generation_config.eos_token_id) == eos


def test_a_tokenizer_without_an_end_of_text_is_refused(copied):
    with pytest.raises(ValueError, match='no eos_token'):
        load_llm(copied('llama_gqa', eos_token=None), 'float32')


# ---- what is refused -----------------------------------------------------------------------------

KNOWN = f'models cannot be given a prefix; known: {", ".join(FAMILIES)}'


@pytest.mark.parametrize('family', ['gpt2', 'gemma2', 'phi', 'falcon', 'some_new_one'])
def test_an_unknown_family_is_refused_by_its_name(family, tmp_path):
    """By config.json alone: the folder has no weights, and no code that it names is run."""
    config = dict(model_type=family, auto_map=dict(AutoConfig='evil.Evil'))
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"'{family}' {KNOWN}"):
        load_llm(str(tmp_path), 'float32')


def test_train_py_explains_that_a_family_is_unknown(run, encoder, pictures, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='gpt2')))
    paths = dict(llm=tmp_path, encoder=encoder, dataset=pictures, out_dir=tmp_path / 'run')
    message = run('train.py', *flags(**SMALL | paths), fails=True)
    assert f"llm='{tmp_path}': the layers of 'gpt2' {KNOWN}" in message


@pytest.mark.parametrize('text', [None, '{}', 'not JSON'])
def test_a_folder_without_an_llm_is_named(text, tmp_path):
    if text:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(FileNotFoundError, match='could not be loaded'):
        load_llm(str(tmp_path), 'float32')
