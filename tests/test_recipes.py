"""
The configs against the papers' released runs, value by value. `pytest tests/test_recipes.py`

depalm_runs.json holds what DePALM's 183 scripts say; eP-ALM's ten are written out below.
"""
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, config_file, configured
from tokenizers import ByteLevelBPETokenizer
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

import config.papers
from adapters import Adapter, AdapterConfig
from configurator import script_scope
from data import split_captions, tokenize_examples
from nanopalm.examples import BadData
from nanopalm.prompts import check_prompt_end, encode_prompt, encode_targets
from tools.import_checkpoint import epalm_text

TRAIN = script_scope(ROOT / 'train.py')


# ---- DePALM: every run ---------------------------------------------------------------------------

RUNS = json.loads((ROOT / 'tests/depalm_runs.json').read_text())['runs']
DATA_FILES = dict(vqa='vqav2')
ENCODERS = {'eva-clip-L': 'eva_clip_l', 'dinov2-L': 'dinov2_l', 'clap': 'clap',
            'timesformer': 'timesformer_k400', None: 'clip_l',
            # never published: config/data/audiocaps.py says what stands in its place
            'mavil': 'ast_last'}
LLMS = {'opt': 'facebook/opt-6.7b', 'llama': 'huggyllama/llama-7b', None: 'huggyllama/llama-7b'}
# of the json's `other`: what none of our knobs stands for, as the mechanism's file is it
SAID_BY_THE_FILE = {
    'experiment', 'mod', 'resampler.type', 'resampler.reduction_fact',
    'adapter.source.keep_features.n_elements', 'dataset',
    # CLAP is read in float32 whatever the LLM is in
    'dataset.audio_model_type', 'feat_model.load_float16',
    # of MAViL alone
    'feat_model.global_pool'}
CONNECTORS = dict(qp_l0='qpmapper', qp_inner='qpmapper', mapl='qpmapper', limber_1='linear',
                  limber_all='linear', epalm='linear')


def arguments_of(run):
    """Returns the two config files of a run, and the flags that say which part and encoder."""
    dataset, *parts = run['group'].split('_')
    flags = []
    if '1%' in parts:
        flags.append('--train_rows=0.01')
    if 'dinov2-L' in parts:
        flags.append('--encoder=dinov2_l')
    if 'clap' in parts:
        flags.append('--encoder=clap')
    if 'bias-ft' in parts:
        flags.append('--encoder_bias_tuning=True')
    return [DATA_FILES.get(dataset, dataset), run['mechanism'], *flags]


def expected_of(run):
    """Returns {knob: value} that the facts of a run stand for."""
    other = dict(run['other'])
    video = run['encoder'] == 'timesformer'
    expected = dict(
        learning_rate=run['learning_rate'], grad_clip=run['grad_clip'], epochs=run['epochs'],
        batch_size=run['micro_batch_per_gpu'], accumulate=run['accumulate'],
        train_rows=0.0 if run['train_rows'] == 'all' else float(run['train_rows']),
        encoder=ENCODERS[run['encoder']], llm=LLMS[run['llm']],
        connector=CONNECTORS.get(run['mechanism'], run['mechanism']),
        # the defaults behind all runs
        weight_decay=0.1, adam_eps=1e-4, beta2=0.999, label_smoothing=2e-3, warmup=0.2,
        min_lr=1e-4, warmup_from=1e-4, schedule_by='step', prompt_rate=0.0, prompt_schedule=True,
        token_init_std=1.0, llm_train_mode=True, row_per_caption=False, loss_on_prompt=False,
        test_checkpoint='last', test_new_tokens=50, restval=False, resize='squash',
        prompt_end='</a>' if run['llm'] == 'opt' else '', target_space=run['llm'] != 'opt',
        video_frames=16 if video else 0,
        video_tokens='mean' if other.pop('feat_model.average_time', '') == 'true' else 'all',
        encoder_bias_tuning=other.pop('finetune.feat_model.bias_tuning.enable', '') == 'true')
    layers, queries = (other.pop(f'adapter.transformer.n_{x}', None) for x in ('layers', 'tokens'))
    if layers:
        expected['mapper_layers'] = int(layers)
    elif run['mechanism'] in ('r_qpmapper', 'mapl'):
        expected['mapper_layers'] = 4
    if expected['connector'] == 'qpmapper':
        expected['n_queries'] = int(queries or 32)
    width = other.pop('adapter.embed_dim', None)
    if width not in (None, 'auto'):
        expected['adapter_dim'] = 0 if width == 'llm_dim' else int(width)
    prompt = other.pop('finetune.prompt_tuning.new_tokens', None)
    if prompt:
        expected['n_prompt'] = int(prompt)
    assert set(other) <= SAID_BY_THE_FILE
    return expected


def name_of(run):
    return f'{run["group"]}-{run["mechanism"]}'


@pytest.mark.parametrize('run', RUNS, ids=name_of)
def test_two_config_files_are_the_released_run(run):
    knobs = configured(*arguments_of(run))
    expected = expected_of(run)
    assert {key: knobs[key] for key in expected} == expected


PROMPTS = dict(coco='', textcaps='', msrvtt='', audiocaps='Answer: ', textvqa='why?',
               vqa='why?\n\nAnswer:', okvqa='why?\n\nAnswer:', aokvqa='why?\n\nAnswer:')


@pytest.mark.parametrize('run', RUNS, ids=name_of)
def test_two_config_files_ask_as_the_released_run_asked(run):
    dataset = run['group'].split('_')[0]
    knobs = configured(*arguments_of(run))
    question = 'why?' if 'vqa' in dataset else ''
    assert knobs['instruction'].format(prompt=question) + knobs['answer_prompt'] == PROMPTS[dataset]


def test_there_are_183_runs_and_the_table_has_these_and_no_others():
    assert len(RUNS) == 183
    ours = {(folder, m) for folder, (_, runs) in config.papers.RUNS.items() for m in runs}
    assert ours == {(run['group'], run['mechanism']) for run in RUNS}


def test_a_changed_number_is_noticed(monkeypatch):
    """The comparison is one: a learning rate, a clip, a batch, an accumulation, epochs."""
    run = next(run for run in RUNS if name_of(run) == 'vqa_1%-c_attn')
    _, runs = config.papers.RUNS['vqa_1%']
    for position in range(4):
        wrong = list(runs['c_attn'])
        wrong[position] *= 2
        table = {'vqa_1%': (30, runs | dict(c_attn=tuple(wrong)))}
        monkeypatch.setattr(config.papers, 'RUNS', table)
        with pytest.raises(AssertionError):
            test_two_config_files_are_the_released_run(run)
    monkeypatch.setattr(config.papers, 'RUNS', {'vqa_1%': (31, runs)})
    with pytest.raises(AssertionError):
        test_two_config_files_are_the_released_run(run)


def test_flagship_file_is_its_two_files():
    one, two = configured('coco_depalm'), configured('coco', 'qp_l0')
    assert {key for key in one if one[key] != two[key]} == {'out_dir'}


def test_what_follows_wins_and_the_place_of_the_part_does_not_matter():
    knobs = configured('coco', 'qp_l0', '--train_rows=0.01', '--learning_rate=1e-5', '--epochs=3')
    assert (knobs['learning_rate'], knobs['epochs'], knobs['batch_size']) == (1e-5, 3, 16)
    first, last = configured('--train_rows=0.01', 'coco', 'qp_l0'), configured(
        'coco', 'qp_l0', '--train_rows=0.01')
    assert first == last and first['learning_rate'] == 8e-4 and first['epochs'] == 30


def test_other_data_has_the_mechanisms_own_values():
    knobs = configured('demo', 'c_attn')
    assert knobs['test_checkpoint'] == 'best' and not knobs['llm_train_mode']
    assert knobs['learning_rate'] == 1e-3 and knobs['grad_clip'] == 0.05


def test_eight_gpus_have_eight_times_the_released_batch():
    knobs = configured('audiocaps', 'qp_l0', 'eight_gpus')
    assert (knobs['batch_size'], knobs['accumulate']) == (32, 4)


@pytest.mark.parametrize('llm, prompt, end', [
    ('llama_7b', '', ''), ('llama2_7b', 'Answer: ', ''), ('llama2_7b_chat', 'Answer: ', ''),
    ('alpaca_7b', 'Answer: ', ''), ('vicuna_7b', 'Answer: ', ''), ('opt_6_7b', 'Answer: ', '</a>')])
@pytest.mark.parametrize('dataset', ['coco', 'audiocaps'])
def test_captions_are_asked_for_as_depalm_did_of_each_llm(dataset, llm, prompt, end):
    knobs = configured(dataset, llm, 'qp_l0')
    assert knobs['instruction'].format(prompt='') + knobs['answer_prompt'] == prompt
    assert knobs['prompt_end'] == end and knobs['target_space'] == (not end)


def test_every_released_run_has_a_command():
    text = subprocess.run([sys.executable, '-m', 'config.papers'], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout
    commands = text.splitlines()
    assert len(commands) == len(set(commands)) == 183 + 10
    released = set()
    for run in RUNS:
        files_and_flags = []
        for argument in arguments_of(run):
            is_flag = argument.startswith('--')
            files_and_flags.append(argument if is_flag else str(Path(config_file(argument)).relative_to(ROOT)))
        released.add(' '.join(['python train.py', *files_and_flags]))
    assert released <= set(commands)


# ---- eP-ALM's ten --------------------------------------------------------------------------------

BOTH_SIZES = dict(
    connector='linear', source_tokens='cls', source_layers=6, n_targets=12, last_target=-2,
    keep_to_end=False, n_prompt=10, prompt_positions=False, token_init_std=1.0,
    llm_train_mode=True, prompt_schedule=False, schedule_by='epoch', warmup_epochs=4,
    weight_decay=0.02, adam_eps=1e-8, beta2=0.999, grad_clip=0.0, label_smoothing=0.0,
    row_per_caption=True, loss_on_prompt=True, target_space=False, accumulate=1, answer_prompt='',
    test_checkpoint='best', test_new_tokens=30)
BASE = BOTH_SIZES | dict(
    llm='facebook/opt-2.7b', encoder='vit_b_in21k_ft_clipnorm', n_connectors=6, prompt_mlp=True,
    learning_rate=2e-5, prompt_rate=1e-5)
LARGE = BOTH_SIZES | dict(
    llm='facebook/opt-6.7b', encoder='vit_l_in21k_clipnorm', n_connectors=1, prompt_mlp=False,
    learning_rate=2e-4, prompt_rate=1e-3, epochs=35)
CAPTION = dict(instruction='{prompt}', prompt_end='')
QUESTION = dict(instruction='{prompt}?', prompt_end='</a>')
TEN = {
    'coco epalm_original': BASE | CAPTION | dict(epochs=8, batch_size=64, restval=True),
    'vqav2 epalm_original': BASE | QUESTION | dict(epochs=8, batch_size=256),
    'gqa epalm_original': BASE | QUESTION | dict(epochs=8, batch_size=256),
    'audiocaps epalm_original': BASE | CAPTION | dict(epochs=30, batch_size=32, encoder='ast_cls'),
    'msrvtt epalm_original': BASE | CAPTION | dict(
        epochs=26, batch_size=64, encoder='timesformer_k600', video_frames=16,
        dataset='msrvtt_7k'),
    'msrvtt_qa epalm_original': BASE | QUESTION | dict(
        epochs=26, batch_size=32, encoder='timesformer_k600', video_frames=8),
    'msvd_qa epalm_original': BASE | QUESTION | dict(
        epochs=26, batch_size=32, encoder='timesformer_k600', video_frames=8),
    'coco epalm_original_l': LARGE | CAPTION | dict(batch_size=16, restval=True),
    'vqav2 epalm_original_l': LARGE | QUESTION | dict(batch_size=16, dataset='vqav2'),
    'gqa epalm_original_l': LARGE | QUESTION | dict(batch_size=64)}


@pytest.mark.parametrize('name', TEN)
def test_two_config_files_are_epalms_run(name):
    knobs = configured(*name.split())
    assert {key: knobs[key] for key in TEN[name]} == TEN[name]
    assert math.isclose(knobs['learning_rate'] * knobs['warmup_from'], knobs['learning_rate'] / 2)
    assert math.isclose(knobs['learning_rate'] * knobs['min_lr'], knobs['learning_rate'] / 20)


@pytest.mark.parametrize('mechanism, d_encoder, d_llm, millions', [
    ('epalm_original', 768, 2560, '24.95'), ('epalm_original_l', 1024, 4096, '4.24')])
def test_epalms_parameters_at_its_own_sizes(mechanism, d_encoder, d_llm, millions):
    knobs = configured('coco', mechanism)
    cfg = AdapterConfig(**{key: knobs[key] for key in AdapterConfig.__dataclass_fields__})
    with torch.device('meta'):
        adapter = Adapter(cfg, d_encoder, (14, 14), d_llm, 32)
    assert f'{sum(p.numel() for p in adapter.parameters()) / 1e6:.2f}' == millions


# ---- the schedules -------------------------------------------------------------------------------

def rates(monkeypatch, knobs, steps, last, steps_per_epoch):
    """Returns the learning rates of train.py at these steps."""
    for key in ('warmup', 'warmup_from', 'warmup_epochs', 'min_lr', 'schedule_by', 'epochs'):
        monkeypatch.setitem(TRAIN, key, knobs[key])
    scheduled = []
    for step in steps:
        scheduled.append(knobs['learning_rate'] * TRAIN['schedule'](step, last, steps_per_epoch))
    return scheduled


def test_epalms_schedule_is_its_codes(monkeypatch):
    """From 1e-5 to 2e-5 in four stairs of a hundred steps, then one step of a cosine to 1e-6 at the
    start of each of eight epochs."""
    knobs = configured('coco', 'epalm_original')
    got = rates(monkeypatch, knobs, (0, 100, 101, 201, 301, 400, 401, 999), 8000, 1000)
    warmup = [1e-5, 1e-5, 1.25e-5, 1.5e-5, 1.75e-5, 1.75e-5, 2e-5, 2e-5]
    assert got == pytest.approx(warmup)
    got = rates(monkeypatch, knobs, range(1500, 8000, 1000), 8000, 1000)
    cosine = [1e-6 + 0.5 * (2e-5 - 1e-6) * (1 + math.cos(math.pi * e / 8)) for e in range(1, 8)]
    assert got == pytest.approx(cosine)
    # fewer than 400 steps an epoch: the warm-up ends with the first
    got = rates(monkeypatch, knobs, (299, 300), 2400, 300)
    assert got == pytest.approx([1.5e-5, cosine[0]])


def test_depalms_schedule_is_its_codes(monkeypatch):
    """Linear from 1e-4 of the rate over a fifth of the steps, then a cosine down to that."""
    knobs = configured('coco', 'qp_l0')
    got = rates(monkeypatch, knobs, (0, 100, 200, 600, 1000), 1000, 125)
    low = 1e-4
    assert got == pytest.approx([4e-4 * factor for factor in (
        low, low + (1 - low) / 2, 1, low + (1 - low) / 2, low)])


def test_without_the_new_knobs_the_schedule_is_what_it_was(monkeypatch):
    knobs = configured()
    assert knobs['warmup_from'] == 0 and knobs['schedule_by'] == 'step'
    got = rates(monkeypatch, knobs, (0, 19, 20), 100, 10)
    assert got == pytest.approx([8e-4 / 20, 8e-4, 8e-4])


# ---- texts ---------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def opt(tmp_path_factory):
    """(tokenizer, LLM): a byte-level BPE as OPT's, and an embedding with 7 rows to spare."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(['why is the cat red? Answer: A red cat.'] * 9, 320, 2,
                            special_tokens=['<s>', '<pad>', '</s>', '<unk>'])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token='</s>',
                                        eos_token='</s>', unk_token='</s>', pad_token='<pad>')
    torch.manual_seed(0)
    llm = OPTForCausalLM(OPTConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=16, ffn_dim=16, num_hidden_layers=1,
        num_attention_heads=2, word_embed_proj_dim=16, max_position_embeddings=64))
    return tokenizer, llm


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_a_vqa_prompt_of_opt_is_depalms_token_for_token(opt):
    """'why?\\n\\nAnswer: </a>red</s>': the added token takes the spaces around it away, and is the
    first id behind the vocabulary."""
    tokenizer, _ = opt
    knobs = configured('vqav2', 'qp_l0')
    rows = [dict(question='why?', answers=['red', 'A red cat.'])]
    (prompt, targets), = tokenize_examples(rows, tokenizer, knobs)
    eos = tokenizer.eos_token_id
    assert prompt == [eos, *ids_of(tokenizer, 'why?\n\nAnswer:'), len(tokenizer)]
    assert targets == [[*ids_of(tokenizer, 'red'), eos], [*ids_of(tokenizer, 'A red cat.'), eos]]
    assert ids_of(tokenizer, 'red') != ids_of(tokenizer, ' red')


def test_other_prompts_of_opt_are_depalms_token_for_token(opt):
    tokenizer, _ = opt
    eos, end = tokenizer.eos_token_id, len(tokenizer)
    prompt = encode_prompt(tokenizer, configured('textvqa', 'qp_l0'), 'why?')
    assert prompt == [eos, *ids_of(tokenizer, 'why?'), end]
    prompt = encode_prompt(tokenizer, configured('audiocaps', 'qp_l0'))
    assert prompt == [eos, *ids_of(tokenizer, 'Answer:'), end]
    assert encode_prompt(tokenizer, configured('coco', 'qp_l0')) == [eos]


def test_the_texts_of_epalm_are_its_codes(opt):
    tokenizer, _ = opt
    eos, end = tokenizer.eos_token_id, len(tokenizer)
    knobs = configured('vqav2', 'epalm_original')
    rows = [dict(question='why', answers=['red'])]
    (prompt, (target,)), = tokenize_examples(rows, tokenizer, knobs)
    # the question is part of what is learned
    assert prompt == [eos]
    assert target == [*ids_of(tokenizer, 'why?'), end, *ids_of(tokenizer, 'red'), eos]
    # and is asked, all of it, in generation
    assert encode_prompt(tokenizer, knobs, 'why') == [eos, *target[:-2]]
    knobs = configured('coco', 'epalm_original')
    (prompt, (target,)), = tokenize_examples([dict(caption=['A red cat.'])], tokenizer, knobs)
    assert (prompt, target) == ([eos], [*ids_of(tokenizer, 'A red cat.'), eos])


@pytest.mark.parametrize('token, data', [('</a>', 'vqav2'), (None, 'coco')])
def test_an_imported_checkpoint_of_epalm_is_asked_as_it_was_trained(token, data):
    knobs = configured(data, 'epalm_original')
    text = epalm_text(dict(special_answer_token=token))
    assert text == {key: knobs[key] for key in text} and len(text) == 4


def test_a_prompt_end_of_the_vocabulary_is_that_token(opt):
    tokenizer, llm = opt
    knobs = dict(instruction='{prompt}', answer_prompt='', prompt_end='<s>', llm='an opt')
    assert encode_prompt(tokenizer, knobs)[-1] == tokenizer.convert_tokens_to_ids('<s>')
    check_prompt_end(tokenizer, knobs, len(tokenizer))


def test_a_prompt_end_without_a_row_in_the_embedding_is_named(opt):
    tokenizer, llm = opt
    knobs = dict(prompt_end='</a>', llm='a llama')
    check_prompt_end(tokenizer, knobs, llm.get_input_embeddings().num_embeddings)
    with pytest.raises(BadData, match="prompt_end='</a>'.*llm='a llama'"):
        check_prompt_end(tokenizer, knobs, len(tokenizer))


def test_targets_without_a_space_are_their_own_tokens(opt):
    tokenizer, _ = opt
    eos = tokenizer.eos_token_id
    assert encode_targets(tokenizer, [' a \n cat '], 9, space=False) == [
        [*ids_of(tokenizer, 'a cat'), eos]]
    assert encode_targets(tokenizer, ['a cat'], 9) == [[*ids_of(tokenizer, ' a cat'), eos]]


def test_each_caption_becomes_a_row():
    rows = [dict(image='a', caption=['1', '2'], id=7), dict(image='b', question='?', answers=['3'])]
    assert split_captions(rows) == [
        dict(image='a', caption=['1'], id=7), dict(image='a', caption=['2'], id=7), rows[1]]


# ---- the whole job -------------------------------------------------------------------------------

def test_epalms_optimizer_trains(run, opt, encoder, pictures, tmp_path):
    """A row per caption, the loss over all text, the prompt tokens at a rate that stays."""
    tokenizer, llm = opt
    tokenizer.save_pretrained(tmp_path / 'opt')
    llm.save_pretrained(tmp_path / 'opt')
    knobs = dict(
        llm=tmp_path / 'opt', encoder=encoder, dataset=pictures, out_dir=tmp_path / 'run',
        source_layers=1, n_connectors=1, n_targets=1, last_target=-1, batch_size=4, epochs=1,
        instruction='{prompt}?', prompt_end='</a>', target_space=False, eval_interval=100,
        device='cpu', dtype='float32', num_workers=0, n_samples=1, prompt_rate=1e-2,
        learning_rate=1e-9)
    flags = [f'--{key}={value}' for key, value in knobs.items()]
    text = run('train.py', 'config/mechanism/epalm_original.py', *flags)
    # 16 pictures with two captions each
    assert '32 training and' in text and 'iter 8/8' in text
    state = torch.load(tmp_path / 'run/resume.pt', weights_only=True)
    groups = state['optimizer']['param_groups']
    assert {group['lr'] for group in groups if not group['scheduled']} == {1e-2}
    assert {group['weight_decay'] for group in groups} == {0.02}
    scheduled = [group['lr'] for group in groups if group['scheduled']]
    # the first stair of the warm-up: half of the rate
    assert scheduled and set(scheduled) == {0.5e-9}
    wrong = run('train.py', 'config/mechanism/epalm_original.py', *flags, f'--out_dir={tmp_path}/other',
                f'--llm={pictures}', fails=True)
    assert 'could not be loaded' in wrong
