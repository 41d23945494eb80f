"""
Caption a split and score the captions: out_dir/eval_SPLIT.json, and eval_SPLIT.html, a page to look
at, with the images inside.

    python eval_caption.py --out_dir=out/demo                             # the test split
    python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind  # beside a blind run
    python eval_caption.py --out_dir=out/coco_depalm --java=True          # scored as in the papers
    python eval_caption.py --out_dir=out/cc3m --dataset=coco --data_dir=data/coco  # zero-shot

A blind run is the text-only baseline: the same LLM, trained without an encoder. Results of another
data set than the training's are in eval_DATASET_SPLIT.json. docs/evaluation.md says more, also
about sampling.
"""

from configurator import at_least, between, configure, one_of
from nanopalm.decoding import check_decoding
from nanopalm.errors import explain_errors
from nanopalm.evaluation import (
    add_texts,
    check_blind_run,
    describe_evaluation,
    describe_example,
    generate_with,
    load_captions,
    named_examples,
    print_missing,
    print_other_data,
    read_run,
    result_name,
    to_json,
    with_other_data,
    write_files,
)
from nanopalm.generate import first_text, readable
from nanopalm.html_report import captions_page
from nanopalm.scores import category_match, check_java, compare_captions, is_exact

# -- models
out_dir = 'out/demo'  # a run of train.py
which: one_of('best', 'last', '') = ''  # its checkpoint: 'best', 'last', '' = as the run says
blind_dir = ''  # a run with the same llm and encoder=None
device = 'auto'
# 'float32', 'bfloat16', 'float16'; 'auto': float32 on a CPU, on a GPU as the LLM was published
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'
compile = False  # torch.compile: minutes before the first batch
batch_size: at_least(1) = 16

# -- data
dataset = ''  # as in train.py; '' = the training's
data_dir = ''  # where its official files are; '' = the training's
instruction = ''  # as in train.py; '' = the training's, None = none
answer_prompt = ''  # as in train.py; '' = the training's, None = none
split = 'test'
max_rows: at_least(0) = 0.0  # 0 = all, a fraction up to 1, or a number of images, spread evenly
# a file that cannot be read is an 'error', or 'skip': left out and listed; '' = as in training
bad_rows: one_of('', 'error', 'skip') = ''

# -- text generation
num_beams: at_least(1) = 3
max_new_tokens: at_least(0) = 0  # 0 = the run's test_new_tokens, or else 50
length_penalty = 1.0  # of beams: above 1 longer texts win, below shorter ones
repetition_penalty: at_least(0.01) = 1.0  # above 1: words of the text become less likely
do_sample = False  # draw the words instead of taking the likeliest
temperature: at_least(0.01) = 1.0  # of sampling: below 1 it is more careful
top_k: at_least(0) = 50  # of sampling: from so many of the likeliest tokens, 0 = all
top_p: between(0.01, 1) = 1.0  # of sampling: from the likeliest that together have so much
num_return_sequences: at_least(1) = 1  # captions of each; the first is scored, the JSON has all
seed: at_least(0) = 0  # of sampling

# -- scores
# COCO's own tokenizer instead of ours, and METEOR, SPICE, SPIDEr; needs Java 8 to 14, or without
# SPICE any later one
java = False
page_rows: at_least(0) = 1000  # at most so many captions on the page, about 10 KB each

config = configure(globals())
# from here on, an error that the user can correct ends the script with its message alone
explain_errors()

# what is missing or wrong ends the script here, before a model is loaded
check_decoding(config)
if java:
    print_missing(check_java())
trained_with = read_run(out_dir, config)
if blind_dir:
    check_blind_run(blind_dir, config, trained_with)
run = with_other_data(trained_with, config)
examples = load_captions(run, split, max_rows)
known = named_examples(run, examples)

# generate; in the keys of the results, '' is the run and 'blind_' the text-only baseline
texts = {'': generate_with(out_dir, examples, config)}
examples, texts[''] = readable(examples, texts[''])
if blind_dir:
    texts['blind_'] = generate_with(blind_dir, examples, config)

# score
rows = [describe_example(example) for example in examples]
captions = {}
for side in texts:
    add_texts(rows, 'caption', texts[side], side)
    captions[side] = [first_text(text) for text in texts[side]]
references = [example['caption'] for example in examples]
comparison = compare_captions(references, captions, java)

result = {
    'knobs': config,
    'trained_with': trained_with,
    'evaluated': describe_evaluation(run, config),
    'tokenizer': comparison['tokenizer'],
    'missing': comparison['missing'],
    'rows': rows,
}
for side in texts:
    result[side + 'scores'] = comparison['scores'][side]
    in_category = category_match(examples, captions[side], known)
    if in_category is not None:
        result[side + 'scores']['category'] = in_category
    for row, cider, caption in zip(rows, comparison['ciders'][side], captions[side]):
        row[side + 'cider'] = cider
        row[side + 'exact'] = is_exact(row['references'], caption)

# print and write
print_other_data(result)
for name, score in result['scores'].items():
    line = f'{name:8}{score:8.2f}'
    if blind_dir:
        line += f'   blind {result["blind_scores"][name]:8.2f}'
    print(line)
print_missing(result['missing'])

name = result_name(result)
files = {
    f'eval_{name}.json': to_json(result, indent=1),
    f'eval_{name}.html': captions_page(result),
}
write_files(out_dir, files)
