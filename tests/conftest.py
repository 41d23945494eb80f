"""
What the tests share: a tiny frozen LLM, a tiny frozen encoder and a few pictures with captions, all
of them made here; and `run`, which runs a script of the repository in a process of its own.
"""

# ruff: noqa: E402 (the environment is set before torch is imported)

import ast
import hashlib
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / 'tests'
os.environ.update(PYTHONPATH=f'{ROOT}{os.pathsep}{TESTS}', HF_HUB_OFFLINE='1')
# matrices are tiny here: threads would only wait for one another
os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path[:0] = [str(ROOT), str(TESTS)]

import nanopalm.wheels  # noqa: F401

import pytest
import timm
import torch
import transformers
from PIL import Image, ImageDraw
from tokenizers import ByteLevelBPETokenizer

from configurator import configure, configure_call, script_scope

COLOURS = ('red', 'green', 'blue', 'yellow', 'black', 'orange')
SHAPES = ('circle', 'square')
SPLITS = dict(train=16, val=4, test=4)
# seconds; on a busy machine a run of five takes a minute
LONGEST_RUN = 300


# ---- models --------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def llm(tmp_path_factory):
    """A folder with a random LLaMA and a byte-level BPE tokenizer trained on a few captions."""
    folder = tmp_path_factory.mktemp('llm')
    captions = [f'A picture of a {colour} {shape}.' for colour in COLOURS for shape in SHAPES]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        captions, vocab_size=330, min_frequency=2, special_tokens=['<pad>', '<s>', '</s>']
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token='<s>', eos_token='</s>', pad_token='<pad>'
    )
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def encoder(tmp_path_factory):
    """A folder with a random ViT for pictures of 32 pixels: 16 patches and CLS, 48 wide."""
    folder = tmp_path_factory.mktemp('encoder')
    sizes = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    torch.manual_seed(0)
    vit = timm.create_model('vit_tiny_patch16_224', **sizes)
    timm.models.save_for_hf(vit, folder, model_args=sizes, safe_serialization=True)
    return folder


# ---- data ----------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """A folder with train.jsonl, val.jsonl and test.jsonl: 24 coloured shapes of many sizes, with
    two captions each."""
    return draw_pictures(tmp_path_factory.mktemp('pictures'))


def draw_pictures(folder):
    """Writes the pictures and their captions into the folder, and returns it."""
    (folder / 'images').mkdir(parents=True)
    number = 0
    for split, size in SPLITS.items():
        lines = []
        for _ in range(size):
            colour = COLOURS[number % 6]
            shape = SHAPES[number // 6 % 2]
            path = f'images/{number}.png'
            draw_picture(number, colour, shape).save(folder / path)
            captions = [f'A {colour} {shape}.', f'A picture of a {colour} {shape}.']
            lines.append(json.dumps(dict(image=path, caption=captions)) + '\n')
            number += 1
        (folder / f'{split}.jsonl').write_text(''.join(lines))
    return folder


def draw_picture(number, colour, shape):
    image = Image.new('RGB', (40 + number, 60 - number), 'white')
    pen = ImageDraw.Draw(image)
    draw = pen.ellipse if shape == 'circle' else pen.rectangle
    draw((8, 8, 32, 32), colour)
    return image


@pytest.fixture
def coco(tmp_path):
    """Karpathy's dataset_coco.json and a picture of each of its splits, laid out as the official
    files are."""
    folder = tmp_path / 'coco'
    parts = {'train': 'train2014', 'restval': 'val2014', 'val': 'val2014', 'test': 'val2014'}
    entries = []
    for number, (split, part) in enumerate(parts.items()):
        name = f'COCO_{part}_{number:012}.jpg'
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (64, 48), 'red').save(folder / part / name)
        entries.append(coco_entry(number, split, part, name))
    (folder / 'dataset_coco.json').write_text(json.dumps(dict(images=entries, dataset='coco')))
    return folder


def coco_entry(number, split, part, name):
    """Returns an image of Karpathy's file, with two sentences."""
    sentences = []
    for i, raw in enumerate((f'A picture of number {number}.', f' Number {number} \n')):
        sentences.append(dict(tokens=raw.split(), raw=raw, imgid=number, sentid=2 * number + i))
    return dict(
        filepath=part,
        filename=name,
        imgid=number,
        cocoid=100 + number,
        split=split,
        sentids=[2 * number, 2 * number + 1],
        sentences=sentences,
    )


# java is optional: the scores that need it are said to be missing
needs_java = pytest.mark.skipif(not shutil.which('java'), reason='no java on the PATH')


# ---- running the scripts -------------------------------------------------------------------------

# imports once what takes seconds to import; every run is forked from it
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(
    ['nanopalm.checkpoint', 'data', 'transformers.models.llama.modeling_llama', 'matplotlib.pyplot']
)


def start(folder, script, *args, largest_file=None):
    """Starts `python script args` in a process, and returns it. Its stdout and stderr go into
    `stdout` and `stderr` in the folder. largest_file: bytes; a longer file fails as on a full
    disk."""
    start_method = multiprocessing.get_start_method()
    args = map(str, args)
    process = SERVER.Process(
        target=in_process, args=(str(folder), largest_file, start_method, script, *args)
    )
    process.start()
    return process


def in_process(folder, largest_file, start_method, script, *args):
    """Is what runs in the process: the script, as an interpreter runs it that was started by
    hand."""
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.setsid()
    # a test that runs in the background inherits no handler
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # of data loading workers
    multiprocessing.set_start_method(start_method, force=True)
    os.chdir(ROOT)
    sys.argv = [script, *args]
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter('error', category)
    try:
        runpy.run_path(script, run_name='__main__')
    except Exception:
        # as the interpreter does at the end of a script
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        sys.exit(130)


@pytest.fixture
def run(tmp_path):
    """run(script, *args) returns what the script printed. fails=True: it must end with an error
    that is explained in words, without a traceback, and these are returned."""

    def run(script, *args, fails=False, **options):
        process = start(tmp_path, script, *args, **options)
        process.join(LONGEST_RUN)
        out = (tmp_path / 'stdout').read_text()
        err = (tmp_path / 'stderr').read_text()
        if process.is_alive():
            process.kill()
            pytest.fail(f'{script} did not end: {out}{err}')
        assert 'Traceback' not in err, out + err
        assert 'Warning' not in err, out + err
        assert process.exitcode == fails, out + err
        # behind a progress bar
        return err.rpartition('\r')[2] if fails else out

    return run


def flags(**hyperparameters):
    """Returns the arguments of a script that set these hyperparameters."""
    return [f'--{name}={value}' for name, value in hyperparameters.items()]


# ---- trainings -----------------------------------------------------------------------------------

# a training of seconds
TINY = dict(
    device='cpu',
    dtype='float32',
    adapter_dim=32,
    mapper_heads=4,
    n_queries=4,
    batch_size=8,
    max_iters=4,
    eval_interval=2,
    log_interval=3,
    n_samples=1,
    num_workers=0,
    learning_rate=1e-2,
)
# and one that learns
TRAINED = dict(
    connector='linear',
    learning_rate=2e-2,
    max_iters=40,
    eval_interval=20,
    log_interval=10,
    n_samples=2,
    cache_dir='data/cache',
)


@pytest.fixture
def tiny(llm, encoder, pictures, tmp_path):
    """The hyperparameters of a tiny training, and where its models and data are."""
    out_dir = tmp_path / 'out'
    cache_dir = tmp_path / 'cache'
    return TINY | dict(
        llm=llm, encoder=encoder, dataset=pictures, out_dir=out_dir, cache_dir=cache_dir
    )


@pytest.fixture
def train(run, tiny):
    """train(name=value, ...) runs the tiny training with other hyperparameters, and returns what
    train.py printed."""

    def train(fails=False, **hyperparameters):
        return run('train.py', *flags(**tiny | hyperparameters), fails=fails)

    return train


@pytest.fixture(scope='session')
def trained(llm, encoder, pictures, tmp_path_factory):
    """(out_dir, what was printed) of a training that learns. Tests read it, and change copies."""
    folder = tmp_path_factory.mktemp('trained')
    out_dir = folder / 'out'
    paths = dict(llm=llm, encoder=encoder, dataset=pictures, out_dir=out_dir)
    before = digests(llm, encoder, pictures)
    process = start(folder, 'train.py', *flags(**TINY | TRAINED | paths))
    process.join(LONGEST_RUN)
    assert process.exitcode == 0, (folder / 'stderr').read_text()
    # what is frozen was only read
    assert digests(llm, encoder, pictures) == before
    return out_dir, (folder / 'stdout').read_text()


def digests(*folders):
    """Returns {path: digest of its bytes} of all files in the folders."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob('*')):
            if path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---- configurations ------------------------------------------------------------------------------


def config_file(name):
    """Returns the path of the config file of this name, in whatever folder of config/ it is."""
    (path,) = (ROOT / 'config').rglob(f'{name}.py')
    return str(path)


def configured(*arguments):
    """Returns the configuration of `train.py arguments`, where 'coco' stands for
    config/data/coco.py."""
    argv = []
    for argument in arguments:
        argv.append(argument if argument.startswith('--') else config_file(argument))
    return configure(script_scope(ROOT / 'train.py'), argv)


def script_functions(path):
    """Returns the globals of a script as they are just before it calls `configure`, and in them the
    functions that it defines behind that call. Nothing else of what stands there is run, so a
    function can be called without the script; it reads its hyperparameters from this dict."""
    scope = script_scope(path)
    body = ast.parse(Path(path).read_text(encoding='utf-8')).body
    behind = body[configure_call(body) :]
    functions = [statement for statement in behind if isinstance(statement, ast.FunctionDef)]
    for function in functions:
        # it may need what only the running script has
        function.decorator_list = []
    exec(compile(ast.Module(functions, []), str(path), 'exec'), scope)
    return scope
