"""
Config files and `--key=value` override the knobs (the globals) of a script, left to right:

    python train.py config/coco.py config/qp_inner.py --learning_rate=1e-3 --out_dir=out/try1

A config file is Python that assigns knobs; later ones win and may read what earlier ones set. A knob that the script does not have is an error that
names the nearest one. In the script: `config = configure(globals())`; AT_LEAST and AT_MOST, {knob: number}, and ONE_OF, {knob: values}, say what is refused.
"""
import ast
import difflib
import sys
from pathlib import Path

KNOB_TYPES = (bool, int, float, str, tuple, list, dict, type(None))


def configure(scope, argv=None):
    """Override the knobs in `scope` from the command line; returns all of them as a dict. Exits with a message on a mistake."""
    knobs = {k: v for k, v in scope.items() if is_knob(k, v)}
    defaults = dict(knobs)
    for arg in sys.argv[1:] if argv is None else argv:
        if arg in ('-h', '--help'):
            print((scope.get('__doc__') or '').strip(), '\n\nKnobs:')
            print('\n'.join(f'  --{k}={v}' for k, v in knobs.items()))
            sys.exit(0)
        if arg.startswith('--'):
            key, equals, text = arg[2:].partition('=')
            if not equals:
                sys.exit(f'{arg}: expected --key=value')
            assigned = {key: parse(text, defaults.get(key))}
        else:
            assigned = run_config_file(arg, knobs)
        for key, value in assigned.items():
            if key not in defaults:
                near = difflib.get_close_matches(key, defaults, n=1)
                sys.exit(f'{arg}: there is no knob {key!r}' + (f', did you mean {near[0]!r}?' if near else ' (--help lists them)'))
            knobs[key] = convert(arg, key, value, defaults[key])
    wrong = [f'{k}={knobs[k]}: expected {least} or more' for k, least in scope.get('AT_LEAST', {}).items() if knobs[k] < least]
    wrong += [f'{k}={knobs[k]}: expected {most} or less' for k, most in scope.get('AT_MOST', {}).items() if knobs[k] > most]
    wrong += [f'{k}={knobs[k]!r}: expected one of {", ".join(map(repr, values))}' for k, values in scope.get('ONE_OF', {}).items() if knobs[k] not in values]
    if wrong:
        sys.exit('\n'.join(wrong))
    scope.update(knobs)
    return knobs


def run_config_file(path, knobs):
    """What the file assigns that it did not find so: {name: value}."""
    if not Path(path).is_file():
        sys.exit(f'{path}: no such config file (a knob is given as --key=value)')
    namespace = dict(knobs)
    try:
        exec(compile(Path(path).read_text(), path, 'exec'), namespace)
    except Exception as e:
        line = e.lineno if isinstance(e, SyntaxError) else e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else '?'
        sys.exit(f'{path}, line {line}: {type(e).__name__}: {e}')
    return {k: v for k, v in namespace.items() if (k in knobs or is_knob(k, v)) and (k not in knobs or v is not knobs[k])}


def is_knob(name, value):
    """Lower-case names of plain values: not modules, functions, CONSTANTS or _private ones."""
    return not name.isupper() and not name.startswith('_') and isinstance(value, KNOB_TYPES)


def parse(text, default):
    """The value of `--key=text`: text itself for a string knob, else the Python literal it spells."""
    if isinstance(default, str) and text != 'None':
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def convert(where, key, value, default):
    """value as the type of the knob's default: 1 is a fine float, 1e3 a fine int, None a fine string ('none given')."""
    wanted = type(default)
    if default is None or type(value) is wanted or (value is None and wanted is str):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is int and type(value) is float and value.is_integer():
        return int(value)
    if wanted in (tuple, list) and isinstance(value, (tuple, list)):
        return wanted(value)
    sys.exit(f'{where}: {key} = {value!r} is of type {type(value).__name__}, expected {wanted.__name__} like {default!r}')
