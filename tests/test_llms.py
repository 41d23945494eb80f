"""
The language models: every family, with a tokenizer of its kind, through the scripts; refused ones.
`pytest tests/test_llms.py`
"""
import json
import runpy
import shutil
import sys

import pytest
import torch
import transformers
from conftest import ROOT, configured, flags
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
from nanopalm import datasets as rows
from nanopalm.checkpoint import build, load_checkpoint
from nanopalm.generate import generate_texts
from nanopalm.prompts import encode_prompt, encode_targets

# ---- every family ---------------------------------------------------------------------------------------------------

rope = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.1)
opt = dict(hidden_size=64, ffn_dim=96, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=64, init_std=0.2)
LLMS = dict(                            # name -> (kind of tokenizer, config, rows of the embedding beyond the tokenizer's)
    llama=('llama', LlamaConfig(**rope), 0),
    llama_gqa=('llama3', LlamaConfig(**rope, num_key_value_heads=2), 8),
    llama_tied=('llama3', LlamaConfig(**rope, num_key_value_heads=1, tie_word_embeddings=True), 0),
    mistral=('prepended', MistralConfig(**rope, num_key_value_heads=2), 0),
    qwen2=('qwen', Qwen2Config(**rope, num_key_value_heads=2, tie_word_embeddings=True), 40),
    qwen3=('qwen', Qwen3Config(**rope, num_key_value_heads=2, head_dim=32), 40),
    opt=('opt', OPTConfig(**opt), 7),
    opt_postnorm=('opt', OPTConfig(**opt | dict(word_embed_proj_dim=32, do_layer_norm_before=False)), 7))     # as OPT-350m


@pytest.fixture(scope='session')
def llms(tmp_path_factory):
    """A folder with a folder for each of LLMS."""
    folder = tmp_path_factory.mktemp('llms')
    for name, (kind, config, beyond) in LLMS.items():
        tokenizer = TOKENIZERS[kind][0]()
        config.vocab_size = len(tokenizer) + beyond
        config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    """call(script, *args) -> its stdout, as `run` does it, but in this process."""
    def call(script, *args):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / script), run_name='__main__')
        return capsys.readouterr().out
    return call


@pytest.fixture(scope='session')
def asked(pictures):
    """The pictures with two questions each, of different lengths."""
    path = pictures / 'questions.jsonl'
    with open(path, 'w') as f:
        for split in ('train', 'val', 'test'):
            for line in (pictures / f'{split}.jsonl').read_text().splitlines():
                image, (caption, _) = (json.loads(line)[k] for k in ('image', 'caption'))
                _, colour, shape = caption.strip('.').split()
                for question, answer in zip(QUESTIONS, (colour, 'yes' if shape == 'square' else 'no')):
                    f.write(json.dumps(dict(image=image, question=question, answers=answer, split=split)) + '\n')
    return path


TINY = dict(device='cpu', dtype='float32', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=8, texts_per_input=2, num_workers=0, n_samples=1,
            log_interval=100, eval_interval=100, warmup=0.0, learning_rate=2e-2, max_iters=16, llm_bias_tuning=True)


def test_every_known_family_is_tested():
    assert {config.model_type for _, config, _ in LLMS.values()} == set(FAMILIES)


@pytest.mark.parametrize('name', LLMS)
def test_scripts(name, llms, encoder, pictures, asked, call, tmp_path):
    """Trained, evaluated and asked on questions or captions; texts end."""
    vqa = name in ('llama', 'llama_tied', 'qwen2', 'opt_postnorm')
    task = dict(dataset=asked, instruction='{prompt}' + CUE) if vqa else dict(dataset=pictures, instruction='', answer_prompt='Answer: ')
    call('train.py', *flags(**TINY | task, llm=llms / name, encoder=encoder, out_dir=tmp_path / 'run'))
    call('eval_vqa.py' if vqa else 'eval_caption.py', *flags(out_dir=tmp_path / 'run', device='cpu', dtype='float32', batch_size=3, max_new_tokens=12))
    result = json.loads((tmp_path / 'run/eval_test.json').read_text())
    texts = [row['answer' if vqa else 'caption'] for row in result['rows']]
    assert len(texts) == (8 if vqa else 4) and not any(special in text for text in texts for special in ('<', '>'))

    model, tokenizer, config = load_checkpoint(tmp_path / 'run', 'best', 'cpu', 'float32')
    bos, eos, pad = TOKENIZERS[LLMS[name][0]][1:]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (eos, pad) and (tokenizer.bos_token or eos) == bos
    row = rows.load_examples(config, 'test')[1]
    path, question = row['image'], flags(question=row['question']) if vqa else []
    assert call('sample.py', *flags(out_dir=tmp_path / 'run', device='cpu', dtype='float32', input=path, max_new_tokens=12), *question) == f'{path}: {texts[1]}\n'

    ids = torch.tensor([encode_prompt(tokenizer, config, QUESTIONS[0] if vqa else '')])
    new = model.generate(ids, pixels=torch.zeros(1, 3, 32, 32), max_new_tokens=30)[0].tolist()
    assert new[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in new[:-1]


@pytest.mark.parametrize('name', LLMS)
def test_questions_of_different_length_are_answered_as_alone(name, llms, encoder, asked):
    """Nothing is trained: a constant answer would hide what a padded batch gets wrong."""
    torch.manual_seed(0)
    config = configured(*flags(**TINY, llm=llms / name, encoder=encoder, dataset=asked, instruction='{prompt}' + CUE))
    model, tokenizer = build(config, 'cpu', 'float32')
    test, knobs = rows.load_examples(config, 'test'), dict(progress=False, num_beams=3, max_new_tokens=8)
    assert len({len(encode_prompt(tokenizer, config, q)) for q in QUESTIONS}) == 2
    together = generate_texts(model, tokenizer, config, test, 3, **knobs)
    assert together == [generate_texts(model, tokenizer, config, [row], 1, **knobs)[0] for row in test]
    assert together[0] != together[1]


# ---- pad token and EOS ----------------------------------------------------------------------------------------------

def test_padding_with_eos_changes_nothing(llms, encoder, asked, call, tmp_path):
    """Its labels are -100 and nothing attends to it: an LLM without a pad token trains and answers as one that has one."""
    shutil.copytree(llms / 'llama_gqa', tmp_path / 'padded')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'padded')
    tokenizer.pad_token = '<|eot_id|>'
    tokenizer.save_pretrained(tmp_path / 'padded')
    assert load_llm(tmp_path / 'padded', 'float32')[1].pad_token_id != load_llm(llms / 'llama_gqa', 'float32')[1].pad_token_id
    said = []
    for folder in (llms / 'llama_gqa', tmp_path / 'padded'):
        out_dir = tmp_path / f'run{len(said)}'
        call('train.py', *flags(**TINY, dataset=asked, instruction='{prompt}' + CUE, llm=folder, encoder=encoder, out_dir=out_dir))
        call('eval_vqa.py', *flags(out_dir=out_dir, device='cpu', dtype='float32', batch_size=3, max_new_tokens=12))
        losses = [json.loads(line).get('val_loss') for line in (out_dir / 'metrics.jsonl').read_text().splitlines()]
        said.append((losses, [row['answer'] for row in json.loads((out_dir / 'eval_test.json').read_text())['rows']]))
    assert said[0] == said[1]


def test_a_pad_token_that_the_weights_do_not_have(llms, tmp_path):
    """A tokenizer with one more token than the LLM, which is not: [PAD] would be an index out of range."""
    shutil.copytree(llms / 'llama', tmp_path / 'llm')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'llm')
    tokenizer.add_special_tokens(dict(pad_token='[PAD]'))
    tokenizer.save_pretrained(tmp_path / 'llm')
    assert tokenizer.pad_token_id == LLMS['llama'][1].vocab_size
    llm, tokenizer = load_llm(tmp_path / 'llm', 'float32')
    assert tokenizer.pad_token == '<unk>' and llm.generation_config.pad_token_id == 0
    llm.resize_token_embeddings(LLMS['llama'][1].vocab_size + 1, mean_resizing=False)               # as Alpaca: 32001, [PAD] the last
    llm.save_pretrained(tmp_path / 'llm')
    assert load_llm(tmp_path / 'llm', 'float32')[1].pad_token == '[PAD]'


@pytest.mark.parametrize('eos', ['<|end_of_text|>', '<|eot_id|>'])
def test_eos_is_the_tokenizers(eos, llms, tmp_path):
    """A base model ends its texts with another token than the same one tuned to chat; generation ends with what targets end with."""
    shutil.copytree(llms / 'llama_gqa', tmp_path / 'llm')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'llm')
    tokenizer.eos_token = eos
    tokenizer.save_pretrained(tmp_path / 'llm')
    llm, tokenizer = load_llm(tmp_path / 'llm', 'float32')
    assert tokenizer.convert_ids_to_tokens([encode_targets(tokenizer, ['red'], 9)[0][-1], llm.generation_config.eos_token_id]) == [eos, eos]


def test_a_tokenizer_without_eos(llms, tmp_path):
    shutil.copytree(llms / 'llama_gqa', tmp_path / 'llm')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'llm')
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / 'llm')
    with pytest.raises(ValueError, match='no eos_token'):
        load_llm(tmp_path / 'llm', 'float32')


# ---- refused families -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('family', ['gpt2', 'gemma2', 'phi', 'falcon', 'some_new_one'])
def test_refused_families(family, llms, tmp_path):
    """By name, from config.json alone: the folder has no weights, and no code that it names is run."""
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type=family, auto_map=dict(AutoConfig='evil.Evil'))))
    with pytest.raises(ValueError, match=f"'{family}' models cannot be given a prefix; known: {', '.join(FAMILIES)}"):
        load_llm(str(tmp_path), 'float32')


def test_a_refused_family_is_an_error_in_words(run, encoder, pictures, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='gpt2')))
    said = run('train.py', *flags(**TINY, llm=tmp_path, encoder=encoder, dataset=pictures, out_dir=tmp_path / 'run'), fails=True)
    assert f"llm='{tmp_path}': the layers of 'gpt2' models cannot be given a prefix; known: {', '.join(FAMILIES)}" in said


@pytest.mark.parametrize('text', [None, '{}', 'not JSON'])
def test_no_llm_there(text, tmp_path):
    if text:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(FileNotFoundError, match='could not be loaded'):
        load_llm(str(tmp_path), 'float32')
