"""
Config files and `--key=value` override the hyperparameters of a script, from left to right:

    python train.py config/data/coco.py config/mechanism/qp_inner.py --learning_rate=1e-3

The hyperparameters of a script are the lower-case names that it assigns before it calls
`config = configure(globals())`. A comment above or behind the assignment is what --help prints, a
line `# -- models` begins a group, and an annotation says what is allowed:

    batch_size: at_least(1) = 16                        # inputs per micro step
    resize: one_of('squash', 'pad') = 'squash'          # how a picture is made square
    out_dir: may_change = 'out/run'                     # a resumed run may have another

A config file is Python that assigns hyperparameters; later ones win and may read what earlier ones
assigned. A name that the script does not have is an error that proposes the nearest one.

The files of a data set (config/data), an LLM (config/llm) and a mechanism (config/mechanism) may
stand in any order: they are read together, where the first of them stands, in this order, from
the general to the particular.

What a file assigns may depend on what stands after it on the command line: a function
`recipe(config)` in it is given the final configuration and returns {name: value}, which count as
assigned at the end of the file. So config/mechanism/qp_l0.py knows the --train_rows=0.01 behind it.
"""

import ast
import difflib
import os
import re
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

VALUE_TYPES = (bool, int, float, str, tuple, list, dict, type(None))


# ---- what a hyperparameter allows ----------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """The annotation of a hyperparameter: which values it takes, and whether a resumed run may
    have another value than the run had before. Two are combined with `&`."""

    least: float = None
    most: float = None
    choices: tuple = ()
    may_change: bool = False

    def __and__(self, other):
        return Allowed(
            least=self.least if other.least is None else other.least,
            most=self.most if other.most is None else other.most,
            choices=self.choices or other.choices,
            may_change=self.may_change or other.may_change,
        )

    def complaint(self, name, value):
        """Returns what is wrong with a value, '' if nothing is."""
        if self.choices and value not in self.choices:
            return f'{name}={value!r}: expected one of {", ".join(map(repr, self.choices))}'
        if self.least is not None and value < self.least:
            return f'{name}={value}: expected {self.least} or more'
        if self.most is not None and value > self.most:
            return f'{name}={value}: expected {self.most} or less'
        return ''

    def __str__(self):
        """Returns what --help says of it: the choices, '0 to 1', '1 or more', or nothing."""
        if self.choices:
            return ', '.join(str(choice) or "''" for choice in self.choices)
        if self.least is not None and self.most is not None:
            return f'{self.least} to {self.most}'
        if self.least is not None:
            return f'{self.least} or more'
        return ''


def at_least(least):
    return Allowed(least=least)


def between(least, most):
    return Allowed(least=least, most=most)


def one_of(*choices):
    return Allowed(choices=choices)


may_change = Allowed(may_change=True)


# ---- configuring a script ------------------------------------------------------------------------


def configure(scope, argv=None, show_changes=False):
    """Overrides the hyperparameters in `scope`, the globals of a script, from the command line.
    Returns all of them as {name: value}. Exits with a message on a mistake.

    show_changes: print those that differ from the script's own values (of several processes the
    first does)."""
    defaults = hyperparameters(scope)
    arguments = in_order_of_kind(sys.argv[1:] if argv is None else argv)
    if {'-h', '--help'} & set(arguments):
        print_help(scope, defaults)
        sys.exit(0)
    config = read_arguments(arguments, defaults)
    # once more, with the recipes: they go by what the whole command line says
    config = read_arguments(arguments, defaults, final=config)
    complaints = [
        allowed.complaint(name, config[name]) for name, allowed in allowed_values(scope).items()
    ]
    if any(complaints):
        sys.exit('\n'.join(filter(None, complaints)))
    if show_changes and os.environ.get('RANK', '0') == '0':
        print_changes(config, defaults)
    scope.update(config)
    return config


def hyperparameters(scope):
    """Returns {name: value} of the hyperparameters in the globals of a script."""
    return {name: value for name, value in scope.items() if is_hyperparameter(name, value)}


def is_hyperparameter(name, value):
    """Whether a name is lower-case and its value plain: no module, function or CONSTANT."""
    return not name.isupper() and not name.startswith('_') and isinstance(value, VALUE_TYPES)


def allowed_values(scope):
    """Returns {name: Allowed} of the annotated hyperparameters of a script."""
    annotations = scope.get('__annotations__')
    if annotations is None and '__annotate__' in scope:
        # Python 3.14 makes them when they are asked for
        annotations = scope['__annotate__'](1)
    return {
        name: allowed
        for name, allowed in (annotations or {}).items()
        if isinstance(allowed, Allowed)
    }


def may_change_on_resume(scope):
    """Returns the names of the hyperparameters in which a resumed run may differ."""
    return {name for name, allowed in allowed_values(scope).items() if allowed.may_change}


def script_scope(path):
    """Returns the globals of a script as they are just before it calls `configure`: its
    hyperparameters with their own values. Nothing behind that call is run."""
    path = Path(path)
    body = ast.parse(path.read_text(encoding='utf-8')).body
    head = body[: configure_call(body)]
    scope = dict(__name__=path.stem, __file__=str(path))
    exec(compile(ast.Module(head, []), str(path), 'exec'), scope)
    return scope


def configure_call(body):
    """Returns the index of the statement that calls `configure(globals())`, the length of `body`
    where none does."""
    for index, statement in enumerate(body):
        if 'configure(globals()' in ast.unparse(statement):
            return index
    return len(body)


def print_changes(config, defaults):
    changes = [f'{name}={value!r}' for name, value in config.items() if value != defaults[name]]
    text = 'config: ' + ', '.join(changes or ['all as in the script'])
    print(textwrap.fill(text, 100, subsequent_indent='    '))


# ---- the command line ----------------------------------------------------------------------------

# The folders of config/, in the order in which their files are read: a data set proposes an LLM,
# which the LLM's file replaces.
KINDS = ('data', 'llm', 'mechanism')


def in_order_of_kind(arguments):
    """Returns the arguments with all config files of the three kinds where the first of them
    stands, in the order of their kinds. All other arguments stay in their order, so that an option
    behind a file wins over every file."""
    files = [argument for argument in arguments if kind_of(argument) is not None]
    ordered = []
    for argument in arguments:
        if kind_of(argument) is None:
            ordered.append(argument)
        elif argument is files[0]:
            ordered += sorted(files, key=kind_of)
    return ordered


def kind_of(argument):
    """Returns the position in KINDS of a config file's folder, None for any other argument."""
    path = Path(argument)
    if path.suffix == '.py' and path.parent.name in KINDS and path.parent.parent.name == 'config':
        return KINDS.index(path.parent.name)
    return None


def read_arguments(arguments, defaults, final=None):
    """Returns the configuration that the arguments make, from left to right. final: the same
    without recipes; None leaves the recipes out. Exits with a message on a mistake."""
    config = dict(defaults)
    for argument in arguments:
        if argument.startswith('--'):
            name, equals, text = argument[2:].partition('=')
            if not equals:
                sys.exit(f'{argument}: expected --key=value')
            assigned = {name: parse(text, defaults.get(name))}
        else:
            assigned = run_config_file(argument, config, final)
        for name, value in assigned.items():
            if name not in defaults:
                sys.exit(
                    f'{argument}: there is no hyperparameter {name!r}{suggestion(name, defaults)}'
                )
            config[name] = convert(argument, name, value, defaults[name])
    return config


def suggestion(name, defaults):
    """Returns the end of a message about a name that does not exist."""
    near = difflib.get_close_matches(name, defaults, n=1)
    if near:
        return f', did you mean {near[0]!r}?'
    return ' (--help lists them)'


def run_config_file(path, config, final=None):
    """Returns {name: value} of what a config file assigns that it did not find so. With `final`,
    the configuration that the whole command line makes, also what its recipe returns."""
    if not Path(path).is_file():
        sys.exit(f'{path}: no such config file (a hyperparameter is given as --key=value)')
    namespace = dict(config)
    recommended = {}
    try:
        exec(compile(Path(path).read_text(encoding='utf-8'), path, 'exec'), namespace)
        if final is not None and callable(namespace.get('recipe')):
            recommended = namespace['recipe'](dict(final))
    except Exception as error:
        sys.exit(f'{path}, line {line_of(error)}: {type(error).__name__}: {error}')
    assigned = {}
    for name, value in namespace.items():
        if name in config:
            changed = value is not config[name]
        else:
            changed = is_hyperparameter(name, value)
        if changed:
            assigned[name] = value
    return assigned | recommended


def line_of(error):
    """Returns the line of a config file that an exception comes from, '?' if it is not known."""
    if isinstance(error, SyntaxError):
        return error.lineno
    if error.__traceback__.tb_next:
        return error.__traceback__.tb_next.tb_lineno
    return '?'


def parse(text, default):
    """Returns the value of `--key=text`: the text itself for a string, else the Python literal that
    it spells."""
    if isinstance(default, str) and text != 'None':
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def convert(where, name, value, default):
    """Returns a value as the type of the default: 1 is a fine float, 1e3 a fine int, None a fine
    string ('none given'). Exits with a message for any other type."""
    wanted = type(default)
    if default is None or type(value) is wanted or (value is None and wanted is str):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is int and type(value) is float and value.is_integer():
        return int(value)
    if wanted in (tuple, list) and type(value) is int:
        # --target_layers=3
        return wanted([value])
    if wanted in (tuple, list) and isinstance(value, (tuple, list)):
        return wanted(value)
    sys.exit(
        f'{where}: {name} = {value!r} is of type {type(value).__name__}, '
        f'expected {wanted.__name__} like {default!r}'
    )


# ---- --help --------------------------------------------------------------------------------------


def print_help(scope, defaults):
    try:
        print(help_text(scope, defaults), flush=True)
    except BrokenPipeError:
        # `--help | head` reads no further, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def help_text(scope, defaults):
    """Returns what --help prints: the script's docstring, then its hyperparameters by group, each
    with its value, its range and its comment."""
    lines = [(scope.get('__doc__') or '').strip()]
    described = set()
    if scope.get('__file__'):
        for group, name, comment in commented_assignments(scope['__file__']):
            if group:
                lines += ['', group]
            elif name in defaults:
                described.add(name)
                allowed = str(allowed_values(scope).get(name, ''))
                if allowed:
                    comment = f'({allowed}) {comment}'
                lines.append(f'  {f"--{name}={defaults[name]}":40}  {comment}'.rstrip())
    others = [name for name in defaults if name not in described]
    if others:
        lines += ['', 'others' if described else 'Hyperparameters:']
        lines += [f'  --{name}={defaults[name]}' for name in others]
    return '\n'.join(lines).strip('\n')


def commented_assignments(path):
    """Returns the hyperparameters of a source file in order: ('', name, comment), or
    (heading, '', '') for a line `# -- heading` before them."""
    text = Path(path).read_text(encoding='utf-8')
    lines = text.splitlines()
    body = ast.parse(text).body
    found = []
    # the line behind the statement before
    first = 0
    for statement in body[: configure_call(body)]:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            above = [
                line[2:] for line in lines[first : statement.lineno - 1] if line.startswith('# ')
            ]
            comments = []
            for line in above:
                if line.startswith('-- '):
                    found.append((line[3:], '', ''))
                    comments = []
                else:
                    comments.append(line)
            behind = re.search(r'\s# (.*)', lines[statement.end_lineno - 1])
            if behind:
                comments.append(behind[1])
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    found.append(('', name.id, ' '.join(comments)))
        first = statement.end_lineno
    return found


# ---- another machine -----------------------------------------------------------------------------


def settle_environment():
    """Makes what a script finds on another machine no reason to fail. Every script imports this
    module first."""
    for stream in (sys.stdout, sys.stderr):
        # in the C locale a letter of a caption that cannot be shown becomes a question mark
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')
    try:
        with tempfile.TemporaryFile(dir=Path.home()):
            pass
    except (OSError, RuntimeError):
        # a home folder that cannot be written, or none at all (RuntimeError): matplotlib keeps its
        # list of fonts elsewhere
        cache = os.path.join(tempfile.gettempdir(), 'nanopalm-matplotlib')
        os.environ.setdefault('MPLCONFIGDIR', cache)


settle_environment()
