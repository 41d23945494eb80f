"""
configurator.py: config files and --key=value; what is taken, and what is a mistake.
"""

import pytest

from configurator import at_least, between, configure, may_change, one_of, script_scope

DEFAULTS = dict(
    learning_rate=1e-3,
    max_iters=10,
    out_dir='out',
    encoder='vit',
    size=(1, 2),
    flip=True,
    anything=None,
)


@pytest.fixture
def files(tmp_path):
    """files(text, ...) writes config files, and returns their paths."""

    def files(*texts):
        paths = []
        for number, text in enumerate(texts):
            path = tmp_path / f'{number}.py'
            path.write_text(text, encoding='utf-8')
            paths.append(str(path))
        return paths

    return files


def configured(*arguments):
    """Returns the configuration that these arguments make of the defaults."""
    return configure(dict(DEFAULTS), list(arguments))


def message(*arguments):
    """Returns the one line that a script ends with that is given these arguments."""
    scope = dict(DEFAULTS)
    with pytest.raises(SystemExit) as error:
        configure(scope, list(arguments))
    text = error.value.code
    assert isinstance(text, str)
    assert '\n' not in text
    # nothing was set
    assert scope == DEFAULTS
    return text


# ---- what is taken -------------------------------------------------------------------------------


def test_files_and_arguments_are_read_from_left_to_right(files):
    first, second = files(
        'max_iters = 1; out_dir = "a"; learning_rate = 2.0',
        'max_iters = max_iters + 1; out_dir = f"{out_dir}/b"',
    )
    config = configured('--learning_rate=5', first, second, '--out_dir=c')
    assert config == DEFAULTS | dict(max_iters=2, out_dir='c', learning_rate=2.0)
    assert configured(second, first)['max_iters'] == 1
    assert configured('--max_iters=3', '--max_iters=4', second)['max_iters'] == 5
    assert configured() == DEFAULTS


def test_the_scope_has_the_configuration_and_keeps_everything_else():
    scope = dict(DEFAULTS, a_module=pytest, CONSTANT=3, _private=4)
    config = configure(scope, ['--max_iters=2', '--learning_rate=5'])
    assert config == DEFAULTS | dict(max_iters=2, learning_rate=5.0)
    assert scope == dict(config, a_module=pytest, CONSTANT=3, _private=4)


COMPUTING = """
import math
from pathlib import Path
N = 4
_half = N // 2
def twice(x):
    return 2 * x
max_iters = twice(_half)
out_dir = "ünï/é"
size = [N, N]
"""


def test_a_config_file_may_compute(files):
    config = configured(*files(COMPUTING))
    assert config == DEFAULTS | dict(max_iters=4, out_dir='ünï/é', size=(4, 4))


@pytest.mark.parametrize(
    'argument, value',
    [
        ('learning_rate=1', 1.0),
        ('learning_rate=1e-4', 1e-4),
        ('learning_rate=-2', -2.0),
        ('max_iters=1e3', 1000),
        ('max_iters=2_000', 2000),
        ('max_iters=-1', -1),
        ('out_dir=a=b', 'a=b'),
        ('out_dir=--key=value', '--key=value'),
        ('out_dir=', ''),
        ('out_dir=3', '3'),
        ('out_dir=a b/ü', 'a b/ü'),
        ('out_dir={prompt}\n\nAnswer: ', '{prompt}\n\nAnswer: '),
        ('encoder=None', None),
        ('size=(3, 4)', (3, 4)),
        ('size=3,4', (3, 4)),
        ('size=[3]', (3,)),
        ('size=3', (3,)),
        ('size=()', ()),
        ('flip=False', False),
        ('flip=True', True),
        ('anything=1', 1),
        ('anything=word', 'word'),
        ('anything=None', None),
    ],
)
def test_a_value_is_read_as_the_type_of_the_default(argument, value):
    name = argument.partition('=')[0]
    got = configured(f'--{argument}')[name]
    assert got == value
    assert type(got) is type(value)


# ---- what is a mistake ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    'argument',
    [
        'learning_rate=fast',
        'learning_rate=None',
        'learning_rate=True',
        'learning_rate=',
        'max_iters=1.5',
        'max_iters=True',
        'max_iters=1e999',
        'max_iters=(1,)',
        'size=word',
        'flip=1',
        'flip=yes',
        'flip=None',
        'size={[]: 1}',
        'size=' + '(' * 500,
    ],
)
def test_a_value_of_another_type_is_a_mistake(argument):
    name = argument.partition('=')[0]
    default = DEFAULTS[name]
    text = message(f'--{argument}')
    assert name in text
    assert f'expected {type(default).__name__} like {default!r}' in text


@pytest.mark.parametrize(
    'text',
    [
        'max_iters = 0.5',
        'out_dir = 3',
        'flip = 1',
        'learning_rate = "1"',
        'import pathlib; out_dir = pathlib.Path("a")',
    ],
)
def test_a_value_of_another_type_in_a_file_is_a_mistake_of_the_file(files, text):
    (path,) = files(text)
    assert message(path).startswith(path)
    assert 'expected' in message(path)


@pytest.mark.parametrize(
    'name, nearest',
    [
        ('learning_rat', 'learning_rate'),
        ('learning-rate', 'learning_rate'),
        ('maxiters', 'max_iters'),
        ('flop', 'flip'),
        ('zzzzzz', None),
        ('', None),
    ],
)
def test_an_unknown_hyperparameter_is_named_with_the_nearest_known_one(files, name, nearest):
    arguments = [f'--{name}=1']
    if name.isidentifier():
        arguments += files(f'{name} = 1')
    for argument in arguments:
        text = message(argument)
        assert text.startswith(argument)
        assert repr(name) in text
        assert (f'did you mean {nearest!r}?' if nearest else '--help') in text


def test_a_hyperparameter_in_the_wrong_case_is_a_mistake(files):
    assert "'learning_rate'" in message(*files('learning_Rate = 1.0'))


def test_nothing_is_set_where_one_argument_is_wrong():
    # which message() checks
    assert 'max_iters' in message('--learning_rate=1', '--max_iter=3')


@pytest.mark.parametrize(
    'argument, words',
    [
        ('config/nowhere.py', 'no such config file'),
        ('-max_iters=3', 'no such config file'),
        ('/', 'no such config file'),
        ('', 'no such config file'),
        ('--max_iters', 'expected --key=value'),
    ],
)
def test_an_argument_that_is_neither_a_file_nor_a_value_is_a_mistake(argument, words):
    assert message(argument).startswith(argument)
    assert words in message(argument)


@pytest.mark.parametrize(
    'line, text',
    [
        (3, '\n\nmax_iters = = 3\n'),
        (2, 'max_iters = 3\n  out_dir = "a"\n'),
        (2, 'max_iters = 3\nmax_iters = nothing\n'),
        (4, 'def f(x):\n    return 1 / x\n\nmax_iters = f(0)\n'),
        (1, 'out_dir = "a\n'),
        (1, 'import nowhere\n'),
    ],
)
def test_a_mistake_in_a_file_is_named_by_its_line(files, line, text):
    (path,) = files(text)
    assert message(path).startswith(f'{path}, line {line}: ')


def test_values_out_of_range_are_all_named():
    allowed = dict(
        beams=at_least(1),
        rows=at_least(0) & may_change,
        part=between(0, 1),
        how=one_of('fast', 'slow'),
    )
    scope = dict(beams=1, rows=0, part=0.5, how='fast', __annotations__=allowed)
    config = configure(dict(scope), ['--beams=3', '--part=1', '--how=slow'])
    assert config == dict(beams=3, rows=0, part=1.0, how='slow')
    with pytest.raises(SystemExit) as error:
        configure(scope, ['--beams=0', '--rows=-1', '--part=1.5', '--how=late'])
    assert str(error.value).splitlines() == [
        'beams=0: expected 1 or more',
        'rows=-1: expected 0 or more',
        'part=1.5: expected 1 or less',
        "how='late': expected one of 'fast', 'slow'",
    ]


# ---- recipes: what a file sets that depends on what stands behind it -----------------------------

RECIPE = """
max_iters = 5
def recipe(config):
    if config["encoder"] == "clip":
        return dict(learning_rate=2, max_iters=7)
    return {}
"""


def test_a_recipe_knows_what_stands_behind_its_file(files):
    (path,) = files(RECIPE)
    assert configured(path)['max_iters'] == 5
    expected = DEFAULTS | dict(encoder='clip', max_iters=7, learning_rate=2.0)
    assert configured(path, '--encoder=clip') == expected
    assert configured('--encoder=clip', path) == expected


def test_what_stands_behind_a_file_wins_over_its_recipe_and_may_read_it(files):
    path, later = files(RECIPE, 'max_iters = 2 * max_iters')
    assert configured(path, later, '--encoder=clip')['max_iters'] == 14
    config = configured('--learning_rate=9', path, '--max_iters=3', '--encoder=clip')
    assert config['max_iters'] == 3
    assert config['learning_rate'] == 2.0


@pytest.mark.parametrize(
    'value, words',
    [
        ('dict(max_iter=1)', "no hyperparameter 'max_iter', did you mean 'max_iters'?"),
        ('dict(max_iters=0.5)', 'expected int'),
        ('1 / 0', 'line 3: ZeroDivisionError'),
    ],
)
def test_a_mistake_in_a_recipe_is_one_of_its_file(files, value, words):
    (path,) = files(f'max_iters = 3\ndef recipe(config):\n    return {value}\n')
    assert message(path).startswith(path)
    assert words in message(path)


# ---- scripts -------------------------------------------------------------------------------------

SCRIPT = '''
"""What it does."""
from configurator import at_least, configure

# -- sizes
batch_size: at_least(1) = 16  # inputs per step
# pixels,
# of a square
image_size = 32

config = configure(globals())
raise RuntimeError('it ran')
'''


def test_the_scope_of_a_script_is_what_stands_before_configure(tmp_path):
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT)
    scope = script_scope(path)
    assert scope['batch_size'] == 16
    assert configure(scope, ['--batch_size=2']) == dict(batch_size=2, image_size=32)


def test_help_lists_hyperparameters_with_group_range_value_and_comment(tmp_path, capsys):
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT)
    with pytest.raises(SystemExit) as error:
        configure(script_scope(path), ['--help'])
    assert not error.value.code
    lines = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        'What it does.',
        '',
        'sizes',
        '--batch_size=16 (1 or more) inputs per step',
        '--image_size=32 pixels, of a square',
    ]


def test_help_lists_hyperparameters_without_a_file(capsys):
    with pytest.raises(SystemExit) as error:
        configure(dict(DEFAULTS, __doc__='What it does.'), ['--help'])
    assert not error.value.code
    text = capsys.readouterr().out
    assert text.startswith('What it does.')
    for name, value in DEFAULTS.items():
        assert f'--{name}={value}' in text
