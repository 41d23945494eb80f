"""
What scores captions in Java, by the jars in pycocoevalcap: COCO's own tokenizer, METEOR and SPICE (`eval_caption.py --java=True`).
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


def java_tokenize(texts):
    """What scores.tokenize imitates, for a list of texts: Stanford's PTBTokenizer 3.4.1, called and stripped of punctuation as in COCO's
    evaluation. Raises OSError where it does not run."""
    jar = JARS / 'tokenizer' / STANFORD_CORENLP_3_4_1_JAR
    command = ['java', '-cp', jar, 'edu.stanford.nlp.process.PTBTokenizer', '-preserveLines', '-lowerCase']
    done = subprocess.run(command, input=''.join(' '.join(t.split()) + '\n' for t in texts), capture_output=True, encoding='utf-8', errors='replace')
    lines = done.stdout.split('\n')[:-1]
    if done.returncode or len(lines) != len(texts):
        raise OSError(f"java does not run COCO's tokenizer ({len(lines)} of {len(texts)} texts): {done.stderr.strip()}")
    return [' '.join(w for w in line.split(' ') if w not in PUNCTUATIONS) for line in lines]


def meteor(refs, hyps):
    """METEOR 1.5, 0 to 1. refs, hyps: {row: [tokenized captions]}, one of hyps. Raises OSError or ValueError where java fails; pycocoevalcap's
    own class then waits for ever."""
    with tempfile.TemporaryDirectory() as folder:
        # METEOR looks for its tables beside its jar, and does not find a folder with a space or an umlaut in its name
        link = Path(folder) / 'meteor'
        link.symlink_to(JARS / 'meteor')
        command = ['java', '-Xmx2G', '-Dfile.encoding=UTF-8', '-jar', link / 'meteor-1.5.jar', '-', '-', '-stdio', '-l', 'en', '-norm',
                   '-a', link / 'data/paraphrase-en.gz']
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding='utf-8', errors='replace') as java:
            def ask(*words):
                print(*words, sep=' ||| ', file=java.stdin, flush=True)
                return answer()

            def answer():
                if line := java.stdout.readline().strip():
                    return line
                raise OSError('java ended without a score; what it said is on the terminal')

            # answered by the score of each row, then that of all
            ask('EVAL', *[ask('SCORE', *refs[i], *hyps[i]) for i in hyps])
            return float([answer() for _ in hyps][-1])


def spice(refs, hyps):
    """SPICE 1.0, 0 to 1. refs, hyps: as above. Raises OSError that says what it lacks."""
    version = int(re.search(r'"(?:1\.)?(\d+)', subprocess.run(['java', '-version'], capture_output=True, text=True).stderr)[1])
    lacks = [f'Java 8 to 14: later ones have no JavaScript, by which it writes, and this is {version}'] if version > 14 else []
    try:
        scorer = None if lacks else Spice()                 # downloads Stanford CoreNLP, 400 MB, once
    except (OSError, BadZipFile) as e:
        lacks.append(f'a download that failed: {e}')
    folder = JARS / 'spice/lib'
    if jars := [jar for jar in ('stanford-corenlp-3.6.0.jar', 'stanford-corenlp-3.6.0-models.jar') if not (folder / jar).is_file()]:
        lacks.append(f'{" and ".join(jars)} of nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip, to be put by hand into {folder}')
    if lacks:
        raise OSError('needs ' + '; '.join(lacks))
    return float(scorer.compute_score(refs, hyps)[0])
