"""
The configs against the papers' released runs, value by value. `pytest tests/test_papers.py`

depalm_runs.json holds what DePALM's 183 scripts say; eP-ALM's ten are written out below.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, config_file, configured, flags, script_functions
from tiny_tokenizers import tiny_opt

from adapters import Adapter, AdapterConfig
from config import papers
from data import split_captions, tokenize_examples
from nanopalm.prompts import encode_prompt, prompt_text
from tools.import_checkpoint import epalm_text

# ---- DePALM: every run ---------------------------------------------------------------------------

RUNS = json.loads((ROOT / 'tests/depalm_runs.json').read_text())['runs']
DATA_FILES = dict(vqa='vqav2')
ENCODERS = {
    'eva-clip-L': 'eva_clip_l',
    'dinov2-L': 'dinov2_l',
    'clap': 'clap',
    'timesformer': 'timesformer_k400',
    # never published: config/data/audiocaps.py says what stands in its place
    'mavil': 'ast_last',
    None: 'clip_l',
}
LLMS = {'opt': 'facebook/opt-6.7b', 'llama': 'huggyllama/llama-7b', None: 'huggyllama/llama-7b'}
# {part of a group's name in the json: the flag that stands for it}
FLAGS = {
    '1%': '--train_rows=0.01',
    'dinov2-L': '--encoder=dinov2_l',
    'clap': '--encoder=clap',
    'bias-ft': '--encoder_bias_tuning=True',
}
# keys of the json's `other` that no hyperparameter of ours stands for: the mechanism's file does
OF_THE_FILE = {
    'experiment',
    'mod',
    'resampler.type',
    'resampler.reduction_fact',
    'adapter.source.keep_features.n_elements',
    'dataset',
    # CLAP is read in float32 whatever the LLM is in
    'dataset.audio_model_type',
    'feat_model.load_float16',
    # of MAViL alone
    'feat_model.global_pool',
}
CONNECTORS = dict(
    qp_l0='qpmapper',
    qp_inner='qpmapper',
    mapl='qpmapper',
    limber_1='linear',
    limber_all='linear',
    epalm='linear',
)


def arguments_of(run):
    """Returns the two config files of a run, and the flags that say which part and encoder."""
    dataset, *parts = run['group'].split('_')
    run_flags = [flag for part, flag in FLAGS.items() if part in parts]
    return [DATA_FILES.get(dataset, dataset), run['mechanism'], *run_flags]


def expected_of(run):
    """Returns {hyperparameter: value} that the facts of a run stand for."""
    other = dict(run['other'])
    expected = dict(
        learning_rate=run['learning_rate'],
        grad_clip=run['grad_clip'],
        epochs=run['epochs'],
        batch_size=run['micro_batch_per_gpu'],
        accumulate=run['accumulate'],
        train_rows=0.0 if run['train_rows'] == 'all' else float(run['train_rows']),
        encoder=ENCODERS[run['encoder']],
        llm=LLMS[run['llm']],
        connector=CONNECTORS.get(run['mechanism'], run['mechanism']),
        # the defaults behind all runs
        weight_decay=0.1,
        adam_eps=1e-4,
        beta2=0.999,
        label_smoothing=2e-3,
        warmup=0.2,
        min_lr=1e-4,
        warmup_from=1e-4,
        schedule_by='step',
        prompt_rate=0.0,
        prompt_schedule=True,
        token_init_std=1.0,
        llm_train_mode=True,
        row_per_caption=False,
        loss_on_prompt=False,
        test_checkpoint='last',
        test_new_tokens=50,
        restval=False,
        resize='squash',
        prompt_end='</a>' if run['llm'] == 'opt' else '',
        target_space=run['llm'] != 'opt',
        video_frames=16 if run['encoder'] == 'timesformer' else 0,
        video_tokens='all',
        encoder_bias_tuning=False,
    )
    if other.pop('feat_model.average_time', '') == 'true':
        expected['video_tokens'] = 'mean'
    if other.pop('finetune.feat_model.bias_tuning.enable', '') == 'true':
        expected['encoder_bias_tuning'] = True

    layers = other.pop('adapter.transformer.n_layers', None)
    if layers:
        expected['mapper_layers'] = int(layers)
    elif run['mechanism'] in ('r_qpmapper', 'mapl'):
        expected['mapper_layers'] = 4
    queries = other.pop('adapter.transformer.n_tokens', None)
    if expected['connector'] == 'qpmapper':
        expected['n_queries'] = int(queries or 32)
    width = other.pop('adapter.embed_dim', None)
    if width == 'llm_dim':
        expected['adapter_dim'] = 0
    elif width not in (None, 'auto'):
        expected['adapter_dim'] = int(width)
    n_prompt = other.pop('finetune.prompt_tuning.new_tokens', None)
    if n_prompt:
        expected['n_prompt'] = int(n_prompt)
    assert set(other) <= OF_THE_FILE
    return expected


def name_of(run):
    return f'{run["group"]}-{run["mechanism"]}'


@pytest.mark.parametrize('run', RUNS, ids=name_of)
def test_two_config_files_are_the_released_run(run):
    config = configured(*arguments_of(run))
    expected = expected_of(run)
    assert {key: config[key] for key in expected} == expected


PROMPTS = dict(
    coco='',
    textcaps='',
    msrvtt='',
    audiocaps='Answer: ',
    textvqa='why?',
    vqa='why?\n\nAnswer:',
    okvqa='why?\n\nAnswer:',
    aokvqa='why?\n\nAnswer:',
)


@pytest.mark.parametrize('run', RUNS, ids=name_of)
def test_two_config_files_ask_as_the_released_run_asked(run):
    dataset = run['group'].split('_')[0]
    question = 'why?' if 'vqa' in dataset else ''
    config = configured(*arguments_of(run))
    # no tokenizer is needed: none of these LLMs chats
    assert prompt_text(None, config, question) == PROMPTS[dataset]


def test_there_are_183_runs_and_the_table_has_these_and_no_others():
    assert len(RUNS) == 183
    ours = set()
    for folder, (_, runs) in papers.RUNS.items():
        ours |= {(folder, mechanism) for mechanism in runs}
    assert ours == {(run['group'], run['mechanism']) for run in RUNS}


def test_a_changed_number_is_noticed(monkeypatch):
    """The comparison is one: of a learning rate, a clip, a batch, an accumulation, epochs."""
    (run,) = [run for run in RUNS if name_of(run) == 'vqa_1%-c_attn']
    _, runs = papers.RUNS['vqa_1%']
    for position in range(4):
        wrong = list(runs['c_attn'])
        wrong[position] *= 2
        table = {'vqa_1%': (30, runs | dict(c_attn=tuple(wrong)))}
        monkeypatch.setattr(papers, 'RUNS', table)
        with pytest.raises(AssertionError):
            test_two_config_files_are_the_released_run(run)
    monkeypatch.setattr(papers, 'RUNS', {'vqa_1%': (31, runs)})
    with pytest.raises(AssertionError):
        test_two_config_files_are_the_released_run(run)


def test_every_released_run_has_a_command():
    text = subprocess.run(
        [sys.executable, '-m', 'config.papers'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    commands = text.splitlines()
    assert len(commands) == len(set(commands)) == 183 + 10
    assert {command_of(run) for run in RUNS} <= set(commands)


def command_of(run):
    words = ['python train.py']
    for argument in arguments_of(run):
        if argument.startswith('--'):
            words.append(argument)
        else:
            words.append(str(Path(config_file(argument)).relative_to(ROOT)))
    return ' '.join(words)


@pytest.mark.parametrize(
    'llm, prompt, end',
    [
        ('llama_7b', '', ''),
        ('llama2_7b', 'Answer: ', ''),
        ('llama2_7b_chat', 'Answer: ', ''),
        ('alpaca_7b', 'Answer: ', ''),
        ('vicuna_7b', 'Answer: ', ''),
        ('opt_6_7b', 'Answer: ', '</a>'),
    ],
)
@pytest.mark.parametrize('dataset', ['coco', 'audiocaps'])
def test_captions_are_asked_for_as_depalm_did_of_each_llm(dataset, llm, prompt, end):
    config = configured(dataset, llm, 'qp_l0')
    assert prompt_text(None, config) == prompt
    assert config['prompt_end'] == end and config['target_space'] == (not end)


@pytest.mark.parametrize(
    'llm, prompt',
    [('facebook/opt-125m', 'Answer: '), ('models/llama2-7b/', 'Answer: '), ('llama-7b', '')],
)
def test_depalm_goes_by_the_name_of_an_llm_without_a_file(llm, prompt):
    for dataset in ('coco', 'audiocaps'):
        config = configured(dataset, 'qp_l0', f'--llm={llm}')
        assert prompt_text(None, config) == prompt


def test_data_of_ones_own_has_no_prompt_of_the_papers():
    config = configured('coco', 'opt_6_7b', 'qp_l0', '--dataset=data/mine')
    assert prompt_text(None, config) == ''
    assert prompt_text(None, configured('cc3m', 'opt_6_7b', 'qp_l0')) == ''


# ---- eP-ALM's ten --------------------------------------------------------------------------------

BOTH_SIZES = dict(
    connector='linear',
    source_tokens='cls',
    source_layers=6,
    n_targets=12,
    last_target=-2,
    keep_to_end=False,
    n_prompt=10,
    prompt_positions=False,
    token_init_std=1.0,
    llm_train_mode=True,
    prompt_schedule=False,
    schedule_by='epoch',
    warmup_epochs=4,
    weight_decay=0.02,
    adam_eps=1e-8,
    beta2=0.999,
    grad_clip=0.0,
    label_smoothing=0.0,
    row_per_caption=True,
    loss_on_prompt=True,
    target_space=False,
    accumulate=1,
    answer_cue='',
    chat_template='',
    caption_prompt='',
    answer_prompt='',
    test_checkpoint='best',
    test_new_tokens=30,
)
BASE = BOTH_SIZES | dict(
    llm='facebook/opt-2.7b',
    encoder='vit_b_in21k_ft_clipnorm',
    n_connectors=6,
    prompt_mlp=True,
    learning_rate=2e-5,
    prompt_rate=1e-5,
)
LARGE = BOTH_SIZES | dict(
    llm='facebook/opt-6.7b',
    encoder='vit_l_in21k_clipnorm',
    n_connectors=1,
    prompt_mlp=False,
    learning_rate=2e-4,
    prompt_rate=1e-3,
    epochs=35,
)
CAPTION = dict(instruction='{prompt}', prompt_end='')
QUESTION = dict(instruction='{prompt}?', prompt_end='</a>')
VIDEO = dict(encoder='timesformer_k600', epochs=26)
TEN = {
    'coco epalm_original': BASE | CAPTION | dict(epochs=8, batch_size=64, restval=True),
    'vqav2 epalm_original': BASE | QUESTION | dict(epochs=8, batch_size=256),
    'gqa epalm_original': BASE | QUESTION | dict(epochs=8, batch_size=256),
    'audiocaps epalm_original': BASE | CAPTION | dict(epochs=30, batch_size=32, encoder='ast_cls'),
    'msrvtt epalm_original': (
        BASE | CAPTION | VIDEO | dict(batch_size=64, video_frames=16, dataset='msrvtt_7k')
    ),
    'msrvtt_qa epalm_original': BASE | QUESTION | VIDEO | dict(batch_size=32, video_frames=8),
    'msvd_qa epalm_original': BASE | QUESTION | VIDEO | dict(batch_size=32, video_frames=8),
    'coco epalm_original_l': LARGE | CAPTION | dict(batch_size=16, restval=True),
    'vqav2 epalm_original_l': LARGE | QUESTION | dict(batch_size=16, dataset='vqav2'),
    'gqa epalm_original_l': LARGE | QUESTION | dict(batch_size=64),
}


@pytest.mark.parametrize('name', TEN)
def test_two_config_files_are_epalms_run(name):
    config = configured(*name.split())
    assert {key: config[key] for key in TEN[name]} == TEN[name]
    learning_rate = config['learning_rate']
    assert math.isclose(learning_rate * config['warmup_from'], learning_rate / 2)
    assert math.isclose(learning_rate * config['min_lr'], learning_rate / 20)


@pytest.mark.parametrize(
    'mechanism, d_encoder, d_llm, millions',
    [('epalm_original', 768, 2560, '24.95'), ('epalm_original_l', 1024, 4096, '4.24')],
)
def test_epalms_parameters_at_its_own_sizes(mechanism, d_encoder, d_llm, millions):
    config = configured('coco', mechanism)
    cfg = AdapterConfig(**{key: config[key] for key in AdapterConfig.__dataclass_fields__})
    with torch.device('meta'):
        adapter = Adapter(cfg, d_encoder, (14, 14), d_llm, 32)
    n_parameters = sum(parameter.numel() for parameter in adapter.parameters())
    assert f'{n_parameters / 1e6:.2f}' == millions


# ---- the schedules -------------------------------------------------------------------------------


def learning_rates(config, steps, last_iter, steps_per_epoch):
    """Returns the learning rates that train.py sets at these steps."""
    script = script_functions(ROOT / 'train.py')
    script.update(config)
    factors = [script['rate_factor'](step, last_iter, steps_per_epoch) for step in steps]
    return [config['learning_rate'] * factor for factor in factors]


def test_epalms_schedule_is_its_codes():
    """From 1e-5 to 2e-5 in four stairs of a hundred steps, then one step of a cosine to 1e-6 at the
    start of each of eight epochs."""
    config = configured('coco', 'epalm_original')
    rates = learning_rates(config, (0, 100, 101, 201, 301, 400, 401, 999), 8000, 1000)
    warmup = [1e-5, 1e-5, 1.25e-5, 1.5e-5, 1.75e-5, 1.75e-5, 2e-5, 2e-5]
    assert rates == pytest.approx(warmup)
    rates = learning_rates(config, range(1500, 8000, 1000), 8000, 1000)
    cosine = [
        1e-6 + 0.5 * (2e-5 - 1e-6) * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(1, 8)
    ]
    assert rates == pytest.approx(cosine)
    # fewer than 400 steps an epoch: the warm-up ends with the first
    rates = learning_rates(config, (299, 300), 2400, 300)
    assert rates == pytest.approx([1.5e-5, cosine[0]])


def test_depalms_schedule_is_its_codes():
    """Linear from 1e-4 of the rate over a fifth of the steps, then a cosine down to that."""
    config = configured('coco', 'qp_l0')
    rates = learning_rates(config, (0, 100, 200, 600, 1000), 1000, 125)
    low = 1e-4
    half = low + (1 - low) / 2
    assert rates == pytest.approx([4e-4 * factor for factor in (low, half, 1, half, low)])


def test_without_a_papers_run_the_warm_up_begins_with_its_first_step():
    config = configured()
    assert config['warmup_from'] == 0 and config['schedule_by'] == 'step'
    rates = learning_rates(config, (0, 19, 20), 100, 10)
    assert rates == pytest.approx([8e-4 / 20, 8e-4, 8e-4])


# ---- texts, token for token ----------------------------------------------------------------------


@pytest.fixture(scope='module')
def opt():
    return tiny_opt()


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_a_vqa_prompt_of_opt_is_depalms_token_for_token(opt):
    """'why?\\n\\nAnswer: </a>red</s>': the added token takes the spaces around it away, and is the
    first id behind the vocabulary."""
    tokenizer, _ = opt
    config = configured('vqav2', 'qp_l0')
    examples = [dict(question='why?', answers=['red', 'A red cat.'])]
    ((prompt, targets),) = tokenize_examples(examples, tokenizer, config)
    eos = tokenizer.eos_token_id
    assert prompt == [eos, *ids_of(tokenizer, 'why?\n\nAnswer:'), len(tokenizer)]
    assert targets == [[*ids_of(tokenizer, 'red'), eos], [*ids_of(tokenizer, 'A red cat.'), eos]]
    assert ids_of(tokenizer, 'red') != ids_of(tokenizer, ' red')


def test_other_prompts_of_opt_are_depalms_token_for_token(opt):
    tokenizer, _ = opt
    eos = tokenizer.eos_token_id
    end = len(tokenizer)
    prompt = encode_prompt(tokenizer, configured('textvqa', 'qp_l0'), 'why?')
    assert prompt == [eos, *ids_of(tokenizer, 'why?'), end]
    prompt = encode_prompt(tokenizer, configured('audiocaps', 'qp_l0'))
    assert prompt == [eos, *ids_of(tokenizer, 'Answer:'), end]
    assert encode_prompt(tokenizer, configured('coco', 'qp_l0')) == [eos]


def test_the_texts_of_epalm_are_its_codes(opt):
    tokenizer, _ = opt
    eos = tokenizer.eos_token_id
    end = len(tokenizer)
    config = configured('vqav2', 'epalm_original')
    examples = [dict(question='why', answers=['red'])]
    ((prompt, (target,)),) = tokenize_examples(examples, tokenizer, config)
    # the question is part of what is learned
    assert prompt == [eos]
    assert target == [*ids_of(tokenizer, 'why?'), end, *ids_of(tokenizer, 'red'), eos]
    # and is asked, all of it, in generation
    assert encode_prompt(tokenizer, config, 'why') == [eos, *target[:-2]]

    config = configured('coco', 'epalm_original')
    ((prompt, (target,)),) = tokenize_examples([dict(caption=['A red cat.'])], tokenizer, config)
    assert (prompt, target) == ([eos], [*ids_of(tokenizer, 'A red cat.'), eos])


@pytest.mark.parametrize('token, data', [('</a>', 'vqav2'), (None, 'coco')])
def test_an_imported_checkpoint_of_epalm_is_asked_as_it_was_trained(token, data):
    config = configured(data, 'epalm_original')
    text = epalm_text(dict(special_answer_token=token))
    assert text == {key: config[key] for key in text} and len(text) == 4


def test_each_caption_becomes_an_example():
    """eP-ALM's examples."""
    examples = [
        dict(image='a', caption=['1', '2'], id=7),
        dict(image='b', question='?', answers=['3']),
    ]
    assert split_captions(examples) == [
        dict(image='a', caption=['1'], id=7),
        dict(image='a', caption=['2'], id=7),
        examples[1],
    ]


# ---- the whole job -------------------------------------------------------------------------------


@pytest.mark.slow
def test_epalms_optimizer_trains(run, opt, encoder, pictures, tmp_path):
    """An example per caption, the loss over all text, the prompt tokens at a rate that stays."""
    tokenizer, llm = opt
    tokenizer.save_pretrained(tmp_path / 'opt')
    llm.save_pretrained(tmp_path / 'opt')
    hyperparameters = dict(
        llm=tmp_path / 'opt',
        encoder=encoder,
        dataset=pictures,
        out_dir=tmp_path / 'run',
        source_layers=1,
        n_connectors=1,
        n_targets=1,
        last_target=-1,
        batch_size=4,
        epochs=1,
        instruction='{prompt}?',
        prompt_end='</a>',
        target_space=False,
        eval_interval=100,
        device='cpu',
        dtype='float32',
        num_workers=0,
        n_samples=1,
        prompt_rate=1e-2,
        learning_rate=1e-9,
    )
    file = 'config/mechanism/epalm_original.py'
    text = run('train.py', file, *flags(**hyperparameters))
    # 16 pictures with two captions each
    assert '32 training and' in text and 'iter 8/8' in text
    state = torch.load(tmp_path / 'run/resume.pt', weights_only=True)
    groups = state['optimizers'][0]['param_groups']
    assert {group['lr'] for group in groups if not group['scheduled']} == {1e-2}
    assert {group['weight_decay'] for group in groups} == {0.02}
    scheduled = {group['lr'] for group in groups if group['scheduled']}
    # the first stair of the warm-up: half of the rate
    assert scheduled == {0.5e-9}

    hyperparameters |= dict(out_dir=tmp_path / 'other', llm=pictures)
    error = run('train.py', file, *flags(**hyperparameters), fails=True)
    assert 'could not be loaded' in error
