"""
The config files: each configures train.py, says how it is run, and composes with the others.
`pytest tests/test_config.py`

tests/test_papers.py compares them with the papers' runs, tests/test_prompts.py with their prompts.
"""

import itertools
from pathlib import Path

import pytest
from conftest import ROOT, config_file, configured

from configurator import in_order_of_kind
from encoders import ENCODERS
from nanopalm.datasets import DATASETS

# config/__init__.py and config/papers.py are libraries
LIBRARIES = ('__init__', 'papers')
FILES = sorted(file.stem for file in (ROOT / 'config').rglob('*.py') if file.stem not in LIBRARIES)


def header_of(name):
    """Returns the comment lines at the top of a config file, without their '# '."""
    lines = []
    for line in Path(config_file(name)).read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.removeprefix('#').removeprefix(' '))
    return lines


def commands_in(header):
    """Returns the commands of a header: its indented lines, joined where they end in a backslash.
    Of a line of shell that has two commands, both."""
    text = '\n'.join(header).replace('\\\n', ' ')
    commands = []
    for line in text.splitlines():
        if line.startswith('  ') and not line.strip().startswith('...'):
            commands += [command.split() for command in line.split(' && ')]
    return commands


@pytest.mark.parametrize('name', FILES)
def test_a_config_file_says_what_it_is_and_how_it_is_run(name):
    """The launch command in its header configures train.py, and names the file itself."""
    header = header_of(name)
    assert header and not header[0].startswith(' ')
    commands = [command for command in commands_in(header) if 'train.py' in command]
    assert len(commands) == 1
    arguments = commands[0][commands[0].index('train.py') + 1 :]
    files = [argument for argument in arguments if not argument.startswith('--')]
    assert str(Path(config_file(name)).relative_to(ROOT)) in files
    for file in files:
        assert (ROOT / file).is_file()

    by_name = [
        argument if argument.startswith('--') else Path(argument).stem for argument in arguments
    ]
    config = configured(*by_name)
    assert config['out_dir'].startswith('out/')


def test_every_config_file_has_a_name_of_its_own():
    assert len(FILES) == len(set(FILES))


def test_the_flagship_file_is_its_two_files():
    one = configured('coco_depalm')
    two = configured('coco', 'qp_l0')
    assert {key for key in one if one[key] != two[key]} == {'out_dir'}


def test_the_larger_epalm_has_what_both_have():
    base = configured('stamps', 'epalm_original')
    large = configured('stamps', 'epalm_original_l')
    changed = {key for key in base if base[key] != large[key]}
    assert changed == {'llm', 'n_connectors', 'prompt_mlp', 'learning_rate', 'prompt_rate'}


@pytest.mark.parametrize(
    'data, llm, mechanism',
    [
        ('coco', 'llama2_7b_chat', 'qp_l0'),
        ('coco', 'qwen3_8b', 'c_attn'),
        ('vqav2', 'llama3_8b_instruct', 'r_qpmapper'),
        ('audiocaps', 'opt_6_7b', 'mapl'),
        ('vqav2', 'mistral_7b', 'epalm_original'),
    ],
)
def test_data_llm_and_mechanism_may_stand_in_any_order(data, llm, mechanism):
    expected = configured(data, llm, mechanism)
    for files in itertools.permutations((data, llm, mechanism)):
        assert configured(*files) == expected
    for files in itertools.permutations((data, mechanism)):
        assert configured(*files) == configured(data, mechanism)


def test_an_option_behind_a_file_wins_over_all_files():
    queries = configured('qp_inner', '--n_queries=4', 'coco')['n_queries']
    assert queries == configured('coco', 'qp_inner', '--n_queries=4')['n_queries'] == 4


def test_only_files_of_these_kinds_change_places():
    arguments = ['config/llm/a.py', '--x=1', 'mine.py', 'config/mechanism/b.py', 'config/data/c.py']
    ordered = ['config/data/c.py', 'config/llm/a.py', 'config/mechanism/b.py', '--x=1', 'mine.py']
    assert in_order_of_kind(arguments) == ordered
    flags = ['--llm=config/llm/a.py', 'llm/a.py', 'config/data']
    assert in_order_of_kind(flags) == flags


def test_what_follows_wins_and_the_place_of_the_part_does_not_matter():
    config = configured('coco', 'qp_l0', '--train_rows=0.01', '--learning_rate=1e-5', '--epochs=3')
    assert (config['learning_rate'], config['epochs'], config['batch_size']) == (1e-5, 3, 16)
    first = configured('--train_rows=0.01', 'coco', 'qp_l0')
    last = configured('coco', 'qp_l0', '--train_rows=0.01')
    assert first == last and first['learning_rate'] == 8e-4 and first['epochs'] == 30


def test_other_data_has_the_mechanisms_own_values():
    config = configured('stamps', 'c_attn')
    assert config['test_checkpoint'] == 'best' and not config['llm_train_mode']
    assert config['learning_rate'] == 1e-3 and config['grad_clip'] == 0.05


def test_eight_gpus_have_eight_times_the_released_batch():
    config = configured('audiocaps', 'qp_l0', 'eight_gpus')
    assert (config['batch_size'], config['accumulate']) == (32, 4)


@pytest.mark.parametrize('join', ['tokens', 'channels'])
def test_two_encoders_are_read_by_one_connector_at_layer_0(join):
    config = configured('coco_two_encoders', f'--encoder_join={join}')
    assert config['encoder'] == 'clip_l,dinov2_l' and config['encoder_join'] == join
    assert config['connector'] == 'qpmapper'
    assert (config['n_targets'], config['last_target'], config['keep_to_end']) == (1, 0, True)


@pytest.mark.parametrize(
    'name',
    [
        'vqav2',
        'okvqa',
        'aokvqa',
        'textvqa',
        'textcaps',
        'gqa',
        'audiocaps',
        'msrvtt',
        'msrvtt_qa',
        'msvd_qa',
        'cc3m',
    ],
)
def test_the_config_of_a_data_set_goes_with_the_config_of_a_mechanism(name):
    config = configured(name, 'limber_all')
    assert config['dataset'] in DATASETS
    assert config['encoder'] in ENCODERS
    assert '{prompt}' in config['instruction']
    assert config['connector'] == 'linear'
