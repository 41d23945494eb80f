"""
Config files and `--key=value` override the knobs (the globals) of a script, left to right:

    python train.py config/coco.py config/qp_inner.py --learning_rate=1e-3 --out_dir=out/try1

A config file is Python that assigns knobs; later ones win and may read what earlier ones set. A knob that the script does
not have is an error that names the nearest one. In the script: `config = configure(globals())`; AT_LEAST and AT_MOST,
{knob: number}, and ONE_OF, {knob: values}, say what is refused.

What a file sets may depend on what stands after it: a function `recipe(knobs)` in it is given the
knobs as the whole command line sets them, and returns {knob: value}, which count as assigned at the
end of the file. So config/qp_l0.py knows the --train_rows=0.01 that follows it.
"""
import ast
import difflib
import os
import re
import sys
import tempfile
import textwrap
from pathlib import Path

KNOB_TYPES = (bool, int, float, str, tuple, list, dict, type(None))


def configure(scope, argv=None, show_changes=False):
    """Override the knobs in `scope` from the command line; returns all of them as a dict. Exits with a message on a mistake.

    show_changes: print those that differ from the script's own values (of several processes, the first does).
    """
    if hasattr(sys.stdout, 'reconfigure'):
        # a terminal that cannot show a letter of a caption, in the C locale say, shows a question mark
        sys.stdout.reconfigure(errors='replace')
        sys.stderr.reconfigure(errors='replace')
    defaults = {k: v for k, v in scope.items() if is_knob(k, v)}
    arguments = sys.argv[1:] if argv is None else argv
    knobs = read_arguments(arguments, scope, defaults)
    # once more, with the recipes: they go by what the whole command line says
    knobs = read_arguments(arguments, scope, defaults, final=knobs)
    refuse_values(knobs, scope)
    if show_changes and os.environ.get('RANK', '0') == '0':
        changes = [f'{k}={v!r}' for k, v in knobs.items() if v != defaults[k]]
        print(textwrap.fill('config: ' + ', '.join(changes or ['all as in the script']), 120, subsequent_indent='    '))
    scope.update(knobs)
    return knobs


def read_arguments(arguments, scope, defaults, final=None):
    """Returns the knobs as the arguments set them, from left to right. final: the same without
    recipes; None leaves the recipes of config files out. Exits with a message on a mistake."""
    knobs = dict(defaults)
    for arg in arguments:
        if arg in ('-h', '--help'):
            doc = (scope.get('__doc__') or '').strip()
            print(doc + '\n\n' + describe_knobs(knobs, scope))
            sys.exit(0)
        if arg.startswith('--'):
            key, equals, text = arg[2:].partition('=')
            if not equals:
                sys.exit(f'{arg}: expected --key=value')
            assigned = {key: parse(text, defaults.get(key))}
        else:
            assigned = run_config_file(arg, knobs, final)
        for key, value in assigned.items():
            if key not in defaults:
                near = difflib.get_close_matches(key, defaults, n=1)
                hint = f', did you mean {near[0]!r}?' if near else ' (--help lists them)'
                sys.exit(f'{arg}: there is no knob {key!r}{hint}')
            knobs[key] = convert(arg, key, value, defaults[key])
    return knobs


def refuse_values(knobs, scope):
    """Exits with a line for each knob whose value the script's AT_LEAST, AT_MOST or ONE_OF excludes."""
    wrong = []
    for key, least in scope.get('AT_LEAST', {}).items():
        if knobs[key] < least:
            wrong.append(f'{key}={knobs[key]}: expected {least} or more')
    for key, most in scope.get('AT_MOST', {}).items():
        if knobs[key] > most:
            wrong.append(f'{key}={knobs[key]}: expected {most} or less')
    for key, values in scope.get('ONE_OF', {}).items():
        if knobs[key] not in values:
            wrong.append(f'{key}={knobs[key]!r}: expected one of {", ".join(map(repr, values))}')
    if wrong:
        sys.exit('\n'.join(wrong))


def describe_knobs(knobs, scope):
    """What --help prints: the knobs by group, each with its value and the comment behind it in the source."""
    lines, undescribed = [], dict(knobs)
    for file in (scope.get('__file__'), *scope.get('MORE_KNOBS', ())):
        for group, name, comment in commented_assignments(file) if file else ():
            if group:
                lines.append(f'\n{group}')
            elif name in undescribed:
                knob = f'--{name}={undescribed.pop(name)}'
                lines.append(f'  {knob:40}  {comment}'.rstrip())
    if undescribed:
        lines.append('\nKnobs:' if not lines else '\nothers')
        lines += [f'  --{name}={value}' for name, value in undescribed.items()]
    return '\n'.join(lines).strip('\n')


def commented_assignments(file):
    """The knobs of a source file, in order: (group, '', '') for a comment of its own line, else ('', name, comment).

    They stand between a line that begins with `# ---- knobs`, or with `class AdapterConfig`, and the next `# ----`.
    """
    found, inside = [], False
    for line in Path(file).read_text(encoding='utf-8').splitlines():
        if line.startswith(('# ---- knobs', 'class AdapterConfig')):
            inside = True
        elif line.startswith('# ----'):
            inside = False
        elif inside and (heading := re.fullmatch(r' {0,4}# (.*)', line)):
            found.append((heading[1], '', ''))
        elif inside and (assignment := re.match(r' {0,4}([a-z]\w*)(?:: \w+)? = (.*)', line)):
            comment = assignment[2].partition(' # ')[2]
            found.append(('', assignment[1], comment.strip()))
    return found


def run_config_file(path, knobs, final=None):
    """Returns what the file assigns that it did not find so: {name: value}. With `final`, the
    knobs as the whole command line sets them, also what its recipe says."""
    if not Path(path).is_file():
        sys.exit(f'{path}: no such config file (a knob is given as --key=value)')
    namespace = dict(knobs)
    recommended = {}
    try:
        exec(compile(Path(path).read_text(encoding='utf-8'), path, 'exec'), namespace)
        if final is not None and callable(namespace.get('recipe')):
            recommended = namespace['recipe'](dict(final))
    except Exception as e:
        line = '?'
        if isinstance(e, SyntaxError):
            line = e.lineno
        elif e.__traceback__.tb_next:
            line = e.__traceback__.tb_next.tb_lineno
        sys.exit(f'{path}, line {line}: {type(e).__name__}: {e}')
    assigned = {}
    for key, value in namespace.items():
        if key in knobs:
            changed = value is not knobs[key]
        else:
            changed = is_knob(key, value)
        if changed:
            assigned[key] = value
    return assigned | recommended


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


def settle_environment():
    """What a script finds on another machine is no reason to fail, or to complain. Every script imports this module first."""
    for stream in (sys.stdout, sys.stderr):
        # in the C locale, say: a letter of a caption that cannot be shown becomes a question mark
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')
    try:
        with tempfile.TemporaryFile(dir=Path.home()):
            pass
    except (OSError, RuntimeError):
        # a home folder that cannot be written, or none at all (RuntimeError): matplotlib keeps its list of fonts elsewhere
        os.environ.setdefault('MPLCONFIGDIR', os.path.join(tempfile.gettempdir(), 'nanopalm-matplotlib'))


settle_environment()
