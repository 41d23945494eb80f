"""
Caption a split and score it: out_dir/eval_SPLIT.json, and eval_SPLIT.html to look at, one file with the pictures inside.

    python eval_caption.py --out_dir=out/demo                               # the test split
    python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind    # beside the same LLM without a picture
    python eval_caption.py --out_dir=out/coco_depalm --java=True            # as the papers: COCO's own tokenizer, METEOR, SPICE, SPIDEr too
    python eval_caption.py --out_dir=out/cc3m --dataset=coco --data_dir=data/coco   # zero-shot

Results of another data set than the training's are in eval_DATASET_SPLIT.json. docs/evaluation.md
says more, on sampling too.
"""
import json
import shutil
import sys
from pathlib import Path

from configurator import at_least, between, configure, one_of
from nanopalm.datasets import load_examples
from nanopalm.decoding import decoding_options, token_limit
from nanopalm.examples import BadData, medium_of, merge_captions, path_of, spread_examples
from nanopalm.html_report import captions_page
from nanopalm.scores import score_captions, tokenize

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which: one_of('best', 'last', '') = ''  # 'best' or 'last'; '' = what the run says, mostly 'best'
blind_dir = ''                      # a run with the same llm and encoder=None
dataset = ''                        # as in train.py; '' = the training's
data_dir = ''                       # where its official files are; '' = the training's
instruction = ''                    # as in train.py; '' = the training's, None = none
answer_prompt = ''                  # as in train.py; '' = the training's, None = none
split = 'test'
max_rows: at_least(0) = 0.0  # 0 = all, a fraction up to 1, or so many, spread evenly
page_rows: at_least(0) = 1000  # show so many of them on the page, about 10 KB each
bad_rows: one_of('', 'error', 'skip') = ''  # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
java = False                        # COCO's own tokenizer in place of ours, and METEOR, SPICE, SPIDEr; needs Java 8 to 14, without SPICE any later
num_beams: at_least(1) = 3
max_new_tokens: at_least(0) = 0  # 0 = what the run says under test_new_tokens, else 50
length_penalty = 1.0                # of beams; above 1 longer texts win, below shorter ones
repetition_penalty: at_least(0.01) = 1.0  # above 1: what a text already has said becomes less likely
do_sample = False                   # draw the words instead of taking the likeliest
temperature: at_least(0.01) = 1.0  # of sampling: below 1 it is more careful
top_k: at_least(0) = 50  # of sampling: from so many of the likeliest tokens, 0 = all
top_p: between(0.01, 1) = 1.0  # of sampling: from the likeliest that together have so much
num_return_sequences: at_least(1) = 1  # captions of each; the first is scored, all are in the JSON
seed: at_least(0) = 0  # of sampling
batch_size: at_least(1) = 16
device = 'auto'
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'  # 'float32', 'bfloat16', 'float16'; auto = float32 on a CPU, on a GPU as the LLM was published
compile = False                     # torch.compile: minutes before the first batch
# ---------------------------------------------------------------------------------------------------------------------

TOKENIZERS = {False: 'PTB-like, pure Python (scores.tokenize)',
              True: 'PTB, Java (Stanford CoreNLP 3.4.1)'}


def inputs(rows, limit=0):
    """Rows of one picture, sound or video become one row with all their references; `limit` of
    them as `spread_examples` says."""
    for row in rows:
        if 'caption' not in row:
            sys.exit(f'split {split!r} has questions, no captions: eval_vqa.py scores those')
        if not any(tokenize(t) for t in row['caption']):
            sys.exit(f"row {row['id']!r} ({path_of(row)}) has no reference caption")
    if not rows:
        sys.exit(f'split {split!r} is empty: there is nothing to caption')
    return spread_examples(merge_captions(rows), limit)


def main(config):
    from nanopalm.files import write_atomically
    from nanopalm.generate import (
        first_text,
        generate_texts,
        readable,
        result_name,
        what_was_evaluated,
        with_blind,
        with_other_data,
    )
    if java and not shutil.which('java'):
        sys.exit('java=True: there is no java on the PATH. Install one (Java 8 to 14; without SPICE any later one does), or leave java=False')
    options = decoding_options(globals())
    result = dict(knobs=config)
    # '' and 'blind_' -> what `generate_texts` gives for each row
    generated = {}
    for side, model, tokenizer, trained_with in with_blind(
            out_dir, blind_dir, which, device, bad_rows, dtype):
        run = with_other_data(trained_with, dataset=dataset, data_dir=data_dir,
                              instruction=instruction, answer_prompt=answer_prompt)
        if not side:
            result['trained_with'] = trained_with
            result['evaluated'] = what_was_evaluated(run, out_dir, which, split)
            rows = inputs(load_examples(run, split), max_rows)
            if java:
                # a rehearsal: what it lacks is said before captions are generated
                report(score_captions([rows[0]['caption']], rows[0]['caption'][:1], java)[2])
        options['max_new_tokens'] = token_limit(max_new_tokens, run)
        texts = generate_texts(model, tokenizer, run, rows, batch_size, seed=seed, compile=compile,
                              **options)
        if not side:
            rows, texts = readable(rows, texts)
        generated[side] = texts
    result['rows'] = []
    for row in rows:
        result['rows'].append({'id': row['id'], medium_of(row): path_of(row),
                               'references': row['caption']})
    for side, texts in generated.items():
        for row, of_row in zip(result['rows'], texts):
            row[side + 'caption'] = first_text(of_row)
            if isinstance(of_row, list):
                row[side + 'generated'] = of_row
    add_scores(result, list(generated))
    print_scores(result)
    name = f'{out_dir}/eval_{result_name(result["trained_with"], result["evaluated"])}'
    files = {f'{name}.json': json.dumps(result, indent=1, ensure_ascii=False),
             f'{name}.html': captions_page(result)}
    for path, text in files.items():
        write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
        print(path)


def add_scores(result, sides):
    """Scores the first caption of each row of a result, of each of the sides ('', 'blind_'), and
    adds `scores`, the rows' `cider`, what is `missing` and the tokenizer."""
    references = [row['references'] for row in result['rows']]
    captions = {side: [row[side + 'caption'] for row in result['rows']] for side in sides}
    missing = {}
    result['tokenizer'] = TOKENIZERS[java]
    try:
        scored = {side: score_captions(references, captions[side], java) for side in sides}
    except OSError as e:
        # java has failed after all: the captions are not lost
        scored = {side: score_captions(references, captions[side]) for side in sides}
        missing[TOKENIZERS[java]] = str(e)
        result['tokenizer'] = TOKENIZERS[False]
    for _, _, reasons in scored.values():
        missing |= reasons
    for side, (scores, ciders, _) in scored.items():
        # those that both sides have
        both = {name: score for name, score in scores.items() if name not in missing}
        result[side + 'scores'] = both
        for row, cider in zip(result['rows'], ciders):
            row[side + 'cider'] = cider
    result['missing'] = missing


def print_scores(result):
    """Prints what was evaluated, if it is not what was trained on, and the scores."""
    evaluated, trained_with = result['evaluated'], result['trained_with']
    if evaluated['dataset'] != trained_with['dataset']:
        print(f'{evaluated["dataset"]}, by a model trained on {trained_with["dataset"]}')
    for name, score in result['scores'].items():
        line = f'{name:8}{score:8.2f}'
        if blind_dir:
            line += f'   blind {result["blind_scores"][name]:8.2f}'
        print(line)
    report(result['missing'])


def report(missing):
    for name, why in missing.items():
        print(f'no {name}: {why}', flush=True)


if __name__ == '__main__':
    try:
        main(configure(globals()))
    except (BadData, ValueError, OSError) as e:
        sys.exit(str(e))
