"""
Fetches models and data by name, and puts them into data/ in the form that the other scripts read:

    # a small LLM, an image encoder, and emoji as eight artists drew them: 138 MB to fetch, and 177
    # more where the LLM comes from the Hub; two minutes
    python prepare.py demo
    # the same models, and Tux Paint's captioned stamps: 270 MB to fetch; needs apt-get
    python prepare.py stamps
    # with either of the two, the larger encoder (260 px) in place of lite0 (224 px)
    python prepare.py stamps --encoder=lite2
    # the same models, and questions about coloured shapes
    python prepare.py demo-vqa
    # the same LLM, an encoder of speech, and names of things that eight voices speak: 10 MB more
    python prepare.py demo-audio
    # the official files of a data set
    python prepare.py coco
    # a checkpoint of the papers' own code
    python prepare.py import --from=model_checkpoint.pt --out=out/imported
    # lists all names
    python prepare.py

What is there already is not made again; to make it anew, delete its folder. A run that was killed
leaves nothing that looks complete. data/downloads may be deleted afterwards. How the demos' models
and data sets are made is in nanopalm/demo_data.py, the official files in nanopalm/download.py.
"""

import difflib
import functools
import sys
from pathlib import Path

from configurator import configure, script_scope
from nanopalm.datasets import DATASETS
from nanopalm.demo_data import (
    build_balanced_easy_vqa,
    build_colours_easy_vqa,
    build_easy_vqa,
    build_efficientnet,
    build_smollm2,
    build_stamps,
    build_whisper,
    make,
)
from nanopalm.download import fetch_official
from nanopalm.emoji import build_emoji
from nanopalm.spoken import build_spoken_names

WITHOUT_NPM = (
    "  Or take Tux Paint's stamps, which need no npm: "
    '`python prepare.py stamps && python train.py config/stamps.py`.'
)


def prepare_demo(argv):
    """Makes SmolLM2-135M-Instruct, EfficientNet-Lite, and emoji as eight artists drew them,
    captioned with their names."""
    data = prepare_image_models(argv)
    try:
        make(data / 'emoji', build_emoji, data / 'downloads')
    except ConnectionError as error:
        raise ConnectionError(f'{error}\n{WITHOUT_NPM}') from error


def prepare_stamps(argv):
    """Makes the same models, and Tux Paint's captioned stamps."""
    data = prepare_image_models(argv)
    make(data / 'stamps', build_stamps, data / 'downloads')


def prepare_image_models(argv):
    """Makes SmolLM2-135M-Instruct and EfficientNet-Lite of the size that --encoder says. Returns
    the folder that the data sets are made in."""
    config = configure(dict(data_dir='data', encoder='lite0', __doc__=__doc__), argv)
    data = Path(config['data_dir'])
    encoder = config['encoder']
    if encoder not in ('lite0', 'lite2'):
        sys.exit(f'--encoder={encoder}: expected lite0 or lite2')
    downloads = data / 'downloads'
    make(data / 'models/smollm2-135m', build_smollm2, downloads)
    make(data / f'models/efficientnet-{encoder}', build_efficientnet, downloads, encoder)
    return data


def prepare_demo_vqa(argv):
    """Makes the same models, and easy-VQA's questions about coloured shapes; once more without
    most of the training questions that habit answers, and once more mostly of colours."""
    config = configure(dict(data_dir='data', __doc__=__doc__), argv)
    data = Path(config['data_dir'])
    downloads = data / 'downloads'
    make(data / 'models/smollm2-135m', build_smollm2, downloads)
    make(data / 'models/efficientnet-lite0', build_efficientnet, downloads, 'lite0')
    make(data / 'easy_vqa', build_easy_vqa, downloads)
    make(data / 'easy_vqa_balanced', build_balanced_easy_vqa, data / 'easy_vqa')
    make(data / 'easy_vqa_colours', build_colours_easy_vqa, data / 'easy_vqa')


def prepare_demo_audio(argv):
    """Makes the same LLM, Whisper's encoder, and names of things that eight voices speak."""
    config = configure(dict(data_dir='data', __doc__=__doc__), argv)
    data = Path(config['data_dir'])
    downloads = data / 'downloads'
    make(data / 'models/smollm2-135m', build_smollm2, downloads)
    make(data / 'models/whisper-tiny', build_whisper, downloads)
    make(data / 'spoken_names', build_spoken_names, downloads)


def prepare_import(argv):
    """Imports a checkpoint of the papers' own code: [config files] --from=checkpoint.pt
    [--reference_config=its.yaml] --out=DIR [hyperparameters of train.py]."""
    # torch takes seconds to import, and only this name needs it
    from tools.import_checkpoint import Unsupported, import_checkpoint

    hyperparameters = script_scope(Path(__file__).with_name('train.py'))
    # llm and encoder are what the yaml says, unless they are given here
    hyperparameters |= {'llm': None, 'encoder': None}
    hyperparameters |= {'from': '', 'reference_config': '', 'out': ''}
    config = configure(hyperparameters, argv)
    checkpoint = config.pop('from')
    reference_config = config.pop('reference_config')
    out = config.pop('out')
    if not checkpoint or not out:
        sys.exit('prepare.py import: --from=checkpoint.pt and --out=DIR must be given')
    try:
        remarks = import_checkpoint(config, checkpoint, reference_config, out)
    except Unsupported as error:
        sys.exit(f'{reference_config}: nanoPALM has no {error}')
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print('\n'.join(remarks))


# name -> a function of the arguments behind it; its docstring is what the list of names says
NAMES = {
    'demo': prepare_demo,
    'stamps': prepare_stamps,
    'demo-vqa': prepare_demo_vqa,
    'demo-audio': prepare_demo_audio,
    'import': prepare_import,
}
for dataset in DATASETS:
    NAMES[dataset] = functools.partial(fetch_official, dataset)


def list_of_names():
    """Returns what there is to prepare, a command for each name."""
    lines = []
    for name, prepare in NAMES.items():
        if name in DATASETS:
            description = f'Fetches the official files into {DATASETS[name].folder}.'
        else:
            description = ' '.join(prepare.__doc__.split())
        lines.append(f'  python prepare.py {name:14} # {description}')
    return '\n'.join(lines)


def main(argv):
    name = argv[0] if argv else ''
    if name not in NAMES:
        if name:
            (nearest,) = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)
            message = f'there is no {name!r}, did you mean {nearest!r}?'
        else:
            message = 'give a name:'
        print(f'prepare.py: {message}\n{list_of_names()}', file=sys.stderr)
        sys.exit(2)
    try:
        NAMES[name](argv[1:])
    except (OSError, ValueError) as error:
        # no network, a folder that cannot be written to, a full disk, a file that is not whole
        sys.exit(f'prepare.py: {error}')
    except KeyboardInterrupt:
        sys.exit('prepare.py: interrupted; what is complete is kept, the same command goes on')


if __name__ == '__main__':
    main(sys.argv[1:])
