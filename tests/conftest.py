"""
Fixtures: a tiny frozen LLM, a tiny frozen encoder and a few pictures with captions, all made here from nothing; and `run`, which
runs a script of the repository in a process of its own.
"""

import json
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.update(PYTHONPATH=f'{ROOT}{os.pathsep}{ROOT / "tests"}', HF_HUB_OFFLINE='1')
os.environ.setdefault('OMP_NUM_THREADS', '1')  # tiny matrices: threads only wait for one another
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import nanopalm.wheels  # noqa: F401

import pytest
import timm
import torch
import transformers
from PIL import Image, ImageDraw
from tokenizers import ByteLevelBPETokenizer

from configurator import configure, script_scope

COLOURS, SHAPES = ('red', 'green', 'blue', 'yellow', 'black', 'orange'), ('circle', 'square')
SPLITS = dict(train=16, val=4, test=4)


# ---- models and data ------------------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def llm(tmp_path_factory):
    """A folder with a random LLaMA and a byte-level BPE tokenizer trained on a few captions."""
    folder = tmp_path_factory.mktemp('llm')
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [f'A picture of a {c} {s}.' for c in COLOURS for s in SHAPES],
        330,
        2,
        special_tokens=['<pad>', '<s>', '</s>'],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token='<s>', eos_token='</s>', pad_token='<pad>'
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
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
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def encoder(tmp_path_factory):
    """A folder with a random ViT for pictures of 32 pixels: 16 patches and CLS of 48."""
    folder = tmp_path_factory.mktemp('encoder')
    sizes = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    torch.manual_seed(0)
    timm.models.save_for_hf(
        timm.create_model('vit_tiny_patch16_224', **sizes),
        folder,
        model_args=sizes,
        safe_serialization=True,
    )
    return folder


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """A folder with train, val and test.jsonl: 24 coloured shapes of many sizes, two captions each."""
    return draw_pictures(tmp_path_factory.mktemp('pictures'))


def draw_pictures(folder):
    (folder / 'images').mkdir(parents=True)
    number = 0
    for split, n in SPLITS.items():
        with open(folder / f'{split}.jsonl', 'w') as f:
            for number in range(number, number + n):
                colour, shape = COLOURS[number % 6], SHAPES[number // 6 % 2]
                image = Image.new('RGB', (40 + number, 60 - number), 'white')
                getattr(ImageDraw.Draw(image), 'ellipse' if shape == 'circle' else 'rectangle')(
                    (8, 8, 32, 32), colour
                )
                image.save(folder / f'images/{number}.png')
                f.write(
                    json.dumps(
                        dict(
                            image=f'images/{number}.png',
                            caption=[f'A {colour} {shape}.', f'A picture of a {colour} {shape}.'],
                        )
                    )
                    + '\n'
                )
            number += 1
    return folder


@pytest.fixture
def coco(tmp_path):
    """Karpathy's dataset_coco.json and a picture for each of its splits, as the official files are laid out."""
    folder, images = tmp_path / 'coco', []
    for number, (part, split) in enumerate(
        [('train2014', 'train'), ('val2014', 'restval'), ('val2014', 'val'), ('val2014', 'test')]
    ):
        name = f'COCO_{part}_{number:012}.jpg'
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (64, 48), 'red').save(folder / part / name)
        raw = [f'A picture of number {number}.', f' Number {number} \n']
        images.append(
            dict(
                filepath=part,
                filename=name,
                imgid=number,
                cocoid=100 + number,
                split=split,
                sentids=[2 * number, 2 * number + 1],
                sentences=[
                    dict(tokens=r.split(), raw=r, imgid=number, sentid=2 * number + i)
                    for i, r in enumerate(raw)
                ],
            )
        )
    (folder / 'dataset_coco.json').write_text(json.dumps(dict(images=images, dataset='coco')))
    return folder


# ---- running the scripts --------------------------------------------------------------------------------------------

SERVER = multiprocessing.get_context(
    'forkserver'
)  # imports once what takes seconds to import; every run is forked from it
SERVER.set_forkserver_preload(
    ['nanopalm.checkpoint', 'data', 'transformers.models.llama.modeling_llama', 'matplotlib.pyplot']
)


def start(folder, script, *args, largest_file=None):
    """`python script args` in a process; its stdout and stderr go into `stdout` and `stderr` in the folder. largest_file: bytes; a write
    beyond fails as on a full disk."""
    process = SERVER.Process(
        target=in_process,
        args=(
            str(folder),
            largest_file,
            multiprocessing.get_start_method(),
            script,
            *map(str, args),
        ),
    )
    process.start()
    return process


def in_process(folder, largest_file, start_method, script, *args):
    for number, name in (1, 'stdout'), (2, 'stderr'):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.setsid()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a test that runs in the background inherits none
    multiprocessing.set_start_method(
        start_method, force=True
    )  # of data loading workers, as in a process started by hand
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
    """run(script, *args) -> its stdout. fails=True: it must end with an error told in words, which is returned."""

    def run(script, *args, fails=False, **options):
        process = start(tmp_path, script, *args, **options)
        process.join(300)  # seconds; on a busy machine a run of 5 takes a minute
        out, err = ((tmp_path / name).read_text() for name in ('stdout', 'stderr'))
        if process.is_alive():
            process.kill()
            pytest.fail(f'{script} did not end: {out}{err}')
        assert 'Traceback' not in err and 'Warning' not in err and process.exitcode == fails, (
            out + err
        )
        return err.rpartition('\r')[2] if fails else out

    return run


def flags(**knobs):
    return [f'--{k}={v}' for k, v in knobs.items()]


# ---- configurations ------------------------------------------------------------------------------


def config_file(name):
    """The path of the config file of this name, in whatever folder of config/ it is."""
    (path,) = (ROOT / 'config').rglob(f'{name}.py')
    return str(path)


def configured(*arguments):
    """The configuration of `train.py arguments`, where 'coco' stands for config/data/coco.py."""
    argv = [
        argument if argument.startswith('--') else config_file(argument) for argument in arguments
    ]
    return configure(script_scope(ROOT / 'train.py'), argv)
