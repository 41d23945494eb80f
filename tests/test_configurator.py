"""
Config files and --key=value: what is taken, and what is a mistake. `pytest tests/test_configurator.py`
"""
import pytest

from configurator import (
    at_least,
    between,
    configure,
    may_change,
    one_of,
)

KNOBS = dict(learning_rate=1e-3, max_iters=10, out_dir='out', encoder='vit', size=(1, 2), flip=True, anything=None)


@pytest.fixture
def file(tmp_path):
    """file(text, ...) -> paths of config files."""
    def write(*texts):
        paths = [tmp_path / f'{i}.py' for i in range(len(texts))]
        for path, text in zip(paths, texts):
            path.write_text(text, encoding='utf-8')
        return list(map(str, paths))
    return write


def mistake(*argv):
    """The message a run with these arguments ends with."""
    scope = dict(KNOBS)
    with pytest.raises(SystemExit) as e:
        configure(scope, list(argv))
    assert isinstance(e.value.code, str) and '\n' not in e.value.code and scope == KNOBS
    return e.value.code


def test_compose_from_left_to_right(file):
    a, b = file('max_iters = 1; out_dir = "a"; learning_rate = 2.0', 'max_iters = max_iters + 1; out_dir = f"{out_dir}/b"')
    scope = dict(KNOBS, os=pytest, CONSTANT=3, _private=4)
    knobs = configure(scope, ['--learning_rate=5', a, b, '--out_dir=c'])
    assert knobs == KNOBS | dict(max_iters=2, out_dir='c', learning_rate=2.0)
    assert scope == dict(knobs, os=pytest, CONSTANT=3, _private=4)
    assert configure(dict(KNOBS), [b, a])['max_iters'] == 1
    assert configure(dict(KNOBS), ['--max_iters=3', '--max_iters=4', b])['max_iters'] == 5
    assert configure(dict(KNOBS), []) == KNOBS


def test_config_files_may_compute(file):
    path, = file('import math\nfrom pathlib import Path\nN = 4\n_half = N // 2\ndef twice(x):\n    return 2 * x\n'
                 'max_iters = twice(_half)\nout_dir = "ünï/é"\nsize = [N, N]')
    assert configure(dict(KNOBS), [path]) == KNOBS | dict(max_iters=4, out_dir='ünï/é', size=(4, 4))


@pytest.mark.parametrize('argument, value', [
    ('learning_rate=1', 1.0), ('learning_rate=1e-4', 1e-4), ('learning_rate=-2', -2.0),
    ('max_iters=1e3', 1000), ('max_iters=2_000', 2000), ('max_iters=-1', -1),
    ('out_dir=a=b', 'a=b'), ('out_dir=--key=value', '--key=value'), ('out_dir=', ''), ('out_dir=3', '3'), ('out_dir=a b/ü', 'a b/ü'),
    ('out_dir={prompt}\n\nAnswer: ', '{prompt}\n\nAnswer: '), ('encoder=None', None),
    ('size=(3, 4)', (3, 4)), ('size=3,4', (3, 4)), ('size=[3]', (3,)), ('size=3', (3,)), ('size=()', ()),
    ('flip=False', False), ('flip=True', True),
    ('anything=1', 1), ('anything=word', 'word'), ('anything=None', None)])
def test_values(argument, value):
    key = argument.partition('=')[0]
    got = configure(dict(KNOBS), [f'--{argument}'])[key]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize('argument', [
    'learning_rate=fast', 'learning_rate=None', 'learning_rate=True', 'learning_rate=', 'max_iters=1.5', 'max_iters=True', 'max_iters=1e999',
    'max_iters=(1,)', 'size=word', 'flip=1', 'flip=yes', 'flip=None', 'size={[]: 1}', 'size=' + '(' * 500])
def test_wrong_type(argument):
    key, _, value = argument.partition('=')
    message = mistake(f'--{argument}')
    assert key in message and f'expected {type(KNOBS[key]).__name__} like {KNOBS[key]!r}' in message


@pytest.mark.parametrize('text', ['max_iters = 0.5', 'out_dir = 3', 'flip = 1', 'learning_rate = "1"', 'import pathlib; out_dir = pathlib.Path("a")'])
def test_wrong_type_in_a_file(file, text):
    path, = file(text)
    message = mistake(path)
    assert message.startswith(path) and 'expected' in message


@pytest.mark.parametrize('name, near', [('learning_rat', 'learning_rate'), ('learning-rate', 'learning_rate'), ('maxiters', 'max_iters'), ('flop', 'flip'),
                                        ('zzzzzz', None), ('', None)])
def test_unknown_knob_names_the_nearest(file, name, near):
    for argument in [f'--{name}=1'] + (file(f'{name} = 1') if name.isidentifier() else []):
        message = mistake(argument)
        assert message.startswith(argument) and repr(name) in message
        assert (f'did you mean {near!r}?' if near else '--help') in message


def test_a_knob_in_the_wrong_case_is_a_mistake(file):
    assert "'learning_rate'" in mistake(*file('learning_Rate = 1.0'))


def test_the_whole_line_counts():
    assert 'max_iters' in mistake('--learning_rate=1', '--max_iter=3')          # and nothing was set: see mistake()


@pytest.mark.parametrize('argument, words', [
    ('config/nowhere.py', 'no such config file'), ('-max_iters=3', 'no such config file'), ('/', 'no such config file'), ('', 'no such config file'),
    ('--max_iters', 'expected --key=value')])
def test_arguments_that_are_none(argument, words):
    message = mistake(argument)
    assert message.startswith(argument) and words in message


@pytest.mark.parametrize('line, text', [
    (3, '\n\nmax_iters = = 3\n'), (2, 'max_iters = 3\n  out_dir = "a"\n'), (2, 'max_iters = 3\nmax_iters = nothing\n'),
    (4, 'def f(x):\n    return 1 / x\n\nmax_iters = f(0)\n'), (1, 'out_dir = "a\n'), (1, 'import nowhere\n')])
def test_mistakes_in_a_file_name_its_line(file, line, text):
    path, = file(text)
    assert mistake(path).startswith(f'{path}, line {line}: ')


def test_help_lists_the_knobs(capsys):
    with pytest.raises(SystemExit) as e:
        configure(dict(KNOBS, __doc__='What it does.'), ['--help'])
    text = capsys.readouterr().out
    assert not e.value.code and text.startswith('What it does.') and all(f'--{k}={v}' in text for k, v in KNOBS.items())


def test_values_out_of_range_are_all_named():
    allowed = dict(beams=at_least(1), rows=at_least(0) & may_change, part=between(0, 1), how=one_of('fast', 'slow'))
    scope = dict(beams=1, rows=0, part=0.5, how='fast', __annotations__=allowed)
    assert configure(dict(scope), ['--beams=3', '--part=1', '--how=slow']) == dict(beams=3, rows=0, part=1.0, how='slow')
    with pytest.raises(SystemExit) as error:
        configure(scope, ['--beams=0', '--rows=-1', '--part=1.5', '--how=late'])
    assert str(error.value).splitlines() == ['beams=0: expected 1 or more', 'rows=-1: expected 0 or more', 'part=1.5: expected 1 or less',
                                              "how='late': expected one of 'fast', 'slow'"]


# ---- recipes: what a file sets that depends on what stands after it ------------------------------

RECIPE = '''
max_iters = 5
def recipe(knobs):
    if knobs["encoder"] == "clip":
        return dict(learning_rate=2, max_iters=7)
    return {}
'''


def test_a_recipe_knows_what_stands_after_its_file(file):
    path, = file(RECIPE)
    assert configure(dict(KNOBS), [path])['max_iters'] == 5
    for argv in ([path, '--encoder=clip'], ['--encoder=clip', path]):
        knobs = configure(dict(KNOBS), argv)
        assert knobs == KNOBS | dict(encoder='clip', max_iters=7, learning_rate=2.0)


def test_what_stands_after_a_file_wins_over_its_recipe_and_may_read_it(file):
    path, later = file(RECIPE, 'max_iters = 2 * max_iters')
    assert configure(dict(KNOBS), [path, later, '--encoder=clip'])['max_iters'] == 14
    knobs = configure(dict(KNOBS), ['--learning_rate=9', path, '--max_iters=3', '--encoder=clip'])
    assert knobs['max_iters'] == 3 and knobs['learning_rate'] == 2.0


@pytest.mark.parametrize('value, words', [
    ('dict(max_iter=1)', "there is no hyperparameter 'max_iter', did you mean 'max_iters'?"),
    ('dict(max_iters=0.5)', 'expected int'), ('1 / 0', 'line 3: ZeroDivisionError')])
def test_mistakes_in_a_recipe_name_its_file(file, value, words):
    path, = file(f'max_iters = 3\ndef recipe(knobs):\n    return {value}\n')
    message = mistake(path)
    assert message.startswith(path) and words in message
