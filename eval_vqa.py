"""
Answer the questions of a split and score the answers: out_dir/eval_SPLIT.json, eval_SPLIT.html, a
page to look at, and results_SPLIT.json in the form that the VQA evaluation servers take.

    python eval_vqa.py --out_dir=out/demo_vqa_colours          # the test split
    python eval_vqa.py --blind_dir=out/demo_vqa_blind          # beside a blind run
    python eval_vqa.py --out_dir=out/aokvqa --rule=depalm      # scored as DePALM did
    python eval_vqa.py --out_dir=out/vqav2 --dataset=okvqa     # another data set

A blind run is the text-only baseline: the same LLM, trained without an encoder. Results of another
data set than the training's are in eval_DATASET_SPLIT.json.

Each data set is scored by its own official rule, which is named and described beside the score:
VQAv2 and OK-VQA by 'vqa', TextVQA by 'textvqa', A-OKVQA by 'aokvqa', GQA and the questions about
videos by 'exact'. For a data set of your own the number of answers decides: 'vqa' where a question
has several (with fewer than four it cannot reach 100), 'exact' where it has one.
docs/evaluation.md says more, also about sampling.
"""

from configurator import at_least, between, configure, one_of
from nanopalm.decoding import check_decoding
from nanopalm.errors import explain_errors
from nanopalm.evaluation import (
    add_texts,
    check_blind_run,
    describe_evaluation,
    generate_with,
    load_questions,
    print_other_data,
    read_run,
    result_name,
    to_json,
    with_other_data,
    write_files,
)
from nanopalm.generate import first_text, readable
from nanopalm.html_report import answers_page
from nanopalm.scores import RULES, check_rule, default_rule, describe_rule, score_answers

# -- models
out_dir = 'out/demo_vqa_colours'  # a run of train.py
which: one_of('best', 'last', '') = ''  # its checkpoint: 'best', 'last', '' = as the run says
blind_dir = ''  # a run with the same llm and encoder=None
device = 'auto'
# 'float32', 'bfloat16', 'float16'; 'auto': float32 on a CPU, on a GPU as the LLM was published
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'
compile = False  # torch.compile: minutes before the first batch
batch_size: at_least(1) = 16  # images; up to 8 questions about each

# -- data
dataset = ''  # as in train.py; '' = the training's
data_dir = ''  # where its official files are; '' = the training's
instruction = ''  # as in train.py; '' = the training's, None = none
answer_prompt = ''  # as in train.py; '' = the training's, None = none
split = 'test'
max_rows: at_least(0) = 0.0  # 0 = all, a fraction up to 1, or a number of questions, spread evenly
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
num_return_sequences: at_least(1) = 1  # answers to each; the first is scored, the JSON has all
seed: at_least(0) = 0  # of sampling

# -- scores
rule: one_of('', *RULES) = ''  # how answers are scored; '' = as is official for the data set
page_rows: at_least(0) = 200  # at most so many answers on the page

config = configure(globals())
# from here on, an error that the user can correct ends the script with its message alone
explain_errors()

# what is missing or wrong ends the script here, before a model is loaded
check_decoding(config)
trained_with = read_run(out_dir, config)
if blind_dir:
    check_blind_run(blind_dir, config, trained_with)
run = with_other_data(trained_with, config)
examples = load_questions(run, split, max_rows)
rule = rule or default_rule(run['dataset'], examples)
check_rule(rule, examples)

# generate; in the keys of the results, '' is the run and 'blind_' the text-only baseline
texts = {'': generate_with(out_dir, examples, config)}
examples, texts[''] = readable(examples, texts[''])
if blind_dir:
    texts['blind_'] = generate_with(blind_dir, examples, config)

# score
rows = [dict(example) for example in examples]
result = {
    'knobs': config,
    'trained_with': trained_with,
    'evaluated': describe_evaluation(run, config),
    'rule': rule,
    'rows': rows,
}
for side in texts:
    add_texts(rows, 'answer', texts[side], side)
    answers = [first_text(text) for text in texts[side]]
    result[side + 'scores'], accuracies = score_answers(examples, answers, rule)
    for row, accuracy in zip(rows, accuracies):
        row[side + 'accuracy'] = accuracy

# print and write
print_other_data(result)
print(f'rule {rule!r}: {describe_rule(rule)}')
left_out = sum(row['accuracy'] is None for row in rows)
if left_out:
    print(f'{left_out} of {len(rows)} questions are left out of the score')
for name, score in result['scores'].items():
    label = f'accuracy by rule {rule!r}' if name == 'accuracy' else name
    line = f'{label:40}{score:8.2f}'
    if blind_dir:
        line += f'   blind {result["blind_scores"][name]:8.2f}'
    print(line)

submission = [{'question_id': row['id'], 'answer': row['answer']} for row in rows]
name = result_name(result)
files = {
    f'eval_{name}.json': to_json(result, indent=1),
    f'eval_{name}.html': answers_page(result),
    f'results_{name}.json': to_json(submission),
}
write_files(out_dir, files)
