"""
Scores of captions that need Java, by the jars in the package pycocoevalcap: COCO's own tokenizer,
METEOR and SPICE (`eval_caption.py --java=True`).
"""

import re
import subprocess
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import pycocoevalcap
from pycocoevalcap.spice.spice import Spice
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

JARS = Path(pycocoevalcap.__path__[0])

# SPICE writes its results with the JavaScript engine that Java 15 removed
NEWEST_JAVA_OF_SPICE = 14
SPICE_JARS = ('stanford-corenlp-3.6.0.jar', 'stanford-corenlp-3.6.0-models.jar')
SPICE_ARCHIVE = 'nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip'


# ---- the tokenizer -------------------------------------------------------------------------------


def java_tokenize(texts):
    """Returns the tokens of each text, joined by spaces: Stanford's PTBTokenizer 3.4.1, called and
    stripped of punctuation as in COCO's evaluation. `scores.tokenize` imitates it.

    Raises OSError where Java does not run it."""
    command = [
        'java',
        '-cp',
        JARS / 'tokenizer' / STANFORD_CORENLP_3_4_1_JAR,
        'edu.stanford.nlp.process.PTBTokenizer',
        '-preserveLines',
        '-lowerCase',
    ]
    # one text a line, so a text has no line break of its own
    lines = [' '.join(text.split()) + '\n' for text in texts]
    process = subprocess.run(
        command, input=''.join(lines), capture_output=True, encoding='utf-8', errors='replace'
    )
    tokenized = process.stdout.split('\n')[:-1]
    if process.returncode != 0 or len(tokenized) != len(texts):
        raise OSError(
            f"java does not run COCO's tokenizer ({len(tokenized)} of {len(texts)} texts): "
            f'{process.stderr.strip()}'
        )
    return [strip_punctuation(line) for line in tokenized]


def strip_punctuation(line):
    """Returns a line of tokens without those that COCO's evaluation takes for punctuation."""
    return ' '.join(word for word in line.split(' ') if word not in PUNCTUATIONS)


# ---- METEOR --------------------------------------------------------------------------------------


def meteor(references, captions):
    """Returns METEOR 1.5 of all captions, 0 to 1.

    references: {number: [tokenized references]}; captions: {number: [its one tokenized caption]}.
    Raises OSError or ValueError where Java fails (pycocoevalcap's own class waits for ever)."""
    with tempfile.TemporaryDirectory() as folder:
        # METEOR looks for its tables beside its jar, and does not find them where the path has a
        # space or an umlaut in it
        link = Path(folder) / 'meteor'
        link.symlink_to(JARS / 'meteor')
        with start_meteor(link) as process:
            statistics = []
            for number in captions:
                write_line(process, 'SCORE', *references[number], *captions[number])
                statistics.append(read_line(process))
            # answered by the score of each caption, and then by that of all
            write_line(process, 'EVAL', *statistics)
            for _ in captions:
                read_line(process)
            return float(read_line(process))


def start_meteor(folder):
    """Returns a process of METEOR that reads and writes lines. folder: where its jar is."""
    command = ['java', '-Xmx2G', '-Dfile.encoding=UTF-8', '-jar', folder / 'meteor-1.5.jar']
    command += ['-', '-', '-stdio', '-l', 'en', '-norm']
    command += ['-a', folder / 'data/paraphrase-en.gz']
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding='utf-8',
        errors='replace',
    )


def write_line(process, *fields):
    print(*fields, sep=' ||| ', file=process.stdin, flush=True)


def read_line(process):
    """Returns the next line that METEOR writes. Raises OSError where there is none."""
    line = process.stdout.readline().strip()
    if not line:
        raise OSError('java ended without a score; its own error message is on the terminal')
    return line


# ---- SPICE ---------------------------------------------------------------------------------------


def spice(references, captions):
    """Returns SPICE 1.0 of all captions, 0 to 1; the arguments are those of `meteor`.

    Raises OSError that says everything that is missing: a suitable Java, or jars."""
    missing = []
    scorer = None
    version = java_version()
    if version > NEWEST_JAVA_OF_SPICE:
        missing.append(
            f'Java 8 to {NEWEST_JAVA_OF_SPICE}: later ones lack the JavaScript engine with which '
            f'SPICE writes its results, and this is {version}'
        )
    else:
        try:
            # downloads Stanford CoreNLP, 400 MB, the first time
            scorer = Spice()
        except (OSError, BadZipFile) as error:
            missing.append(f'a download that failed: {error}')
    folder = JARS / 'spice/lib'
    jars = [jar for jar in SPICE_JARS if not (folder / jar).is_file()]
    if jars:
        missing.append(
            f'{" and ".join(jars)} from {SPICE_ARCHIVE}, to be copied by hand into {folder}'
        )
    if missing:
        raise OSError('needs ' + '; '.join(missing))
    score, _ = scorer.compute_score(references, captions)
    return float(score)


def java_version():
    """Returns the major version of the `java` on the PATH: 8 for "1.8.0_402", 17 for "17.0.15"."""
    text = subprocess.run(['java', '-version'], capture_output=True, text=True).stderr
    match = re.search(r'"(?:1\.)?(\d+)', text)
    return int(match[1])
