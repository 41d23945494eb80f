"""
Answer the questions of a split and score the answers: out_dir/eval_SPLIT.json, eval_SPLIT.html to look at, and results_SPLIT.json in
the form that the VQA evaluation servers take.

    python eval_vqa.py --out_dir=out/vqa                                # the test split
    python eval_vqa.py --out_dir=out/vqa --blind_dir=out/vqa_blind      # beside the same LLM without a picture
    python eval_vqa.py --out_dir=out/aokvqa --rule=depalm               # scored as DePALM did
    python eval_vqa.py --out_dir=out/vqa --dataset=okvqa                # another data set

Each data set is scored by its own official rule, whose name stands beside the score and in the
results: VQAv2 and OK-VQA by 'vqa', TextVQA by 'textvqa', A-OKVQA by 'aokvqa', GQA and the questions
about videos by 'exact'. Of a data set of your own the number of answers decides: 'vqa' where a
question has several (with fewer than four it cannot reach 100), 'exact' where it has one. What a
rule does is said in scores.py, and printed. Results of another data set than the training's are in
eval_DATASET_SPLIT.json. docs/evaluation.md says more, on sampling too.
"""
import json
import sys
from pathlib import Path

from configurator import at_least, between, configure, one_of
from nanopalm.datasets import load_examples
from nanopalm.decoding import decoding_options, token_limit
from nanopalm.examples import BadData, spread_examples
from nanopalm.html_report import answers_page
from nanopalm.scores import RULES, check_rule, default_rule, describe_rule, score_answers

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/vqa'                 # a run of train.py
which: one_of('best', 'last', '') = ''  # 'best' or 'last'; '' = what the run says, mostly 'best'
blind_dir = ''                      # a run with the same llm and encoder=None
dataset = ''                        # as in train.py; '' = the training's
data_dir = ''                       # where its official files are; '' = the training's
instruction = ''                    # as in train.py; '' = the training's, None = none
answer_prompt = ''                  # as in train.py; '' = the training's, None = none
split = 'test'
max_rows: at_least(0) = 0.0  # 0 = all, a fraction up to 1, or so many, spread evenly
page_rows: at_least(0) = 200  # show so many of them on the page
rule: one_of('', *RULES) = ''  # how answers are scored, see above; '' = the data set's own
bad_rows: one_of('', 'error', 'skip') = ''  # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
num_beams: at_least(1) = 3
max_new_tokens: at_least(0) = 0  # 0 = what the run says under test_new_tokens, else 50
length_penalty = 1.0                # of beams; above 1 longer texts win, below shorter ones
repetition_penalty: at_least(0.01) = 1.0  # above 1: what a text already has said becomes less likely
do_sample = False                   # draw the words instead of taking the likeliest
temperature: at_least(0.01) = 1.0  # of sampling: below 1 it is more careful
top_k: at_least(0) = 50  # of sampling: from so many of the likeliest tokens, 0 = all
top_p: between(0.01, 1) = 1.0  # of sampling: from the likeliest that together have so much
num_return_sequences: at_least(1) = 1  # answers to each; the first is scored, all are in the JSON
seed: at_least(0) = 0  # of sampling
batch_size: at_least(1) = 16  # pictures; up to 8 questions of each
device = 'auto'
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'  # 'float32', 'bfloat16', 'float16'; auto = float32 on a CPU, on a GPU as the LLM was published
compile = False                     # torch.compile: minutes before the first batch
# ---------------------------------------------------------------------------------------------------------------------



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
    options = decoding_options(globals())
    result = dict(knobs=config)
    for side, model, tokenizer, trained_with in with_blind(
            out_dir, blind_dir, which, device, bad_rows, dtype):
        run = with_other_data(trained_with, dataset=dataset, data_dir=data_dir,
                              instruction=instruction, answer_prompt=answer_prompt)
        if not side:
            rows = spread_examples(load_examples(run, split), max_rows)
            check_questions(run, rows)
            rule_name = rule or default_rule(run['dataset'], rows)
            check_rule(rule_name, rows)
            result['trained_with'] = trained_with
            result['evaluated'] = what_was_evaluated(run, out_dir, which, split)
            result['rule'] = rule_name
        options['max_new_tokens'] = token_limit(max_new_tokens, run)
        texts = generate_texts(model, tokenizer, run, rows, batch_size, seed=seed, compile=compile,
                              **options)
        if not side:
            rows, texts = readable(rows, texts)
            result['rows'] = [dict(row) for row in rows]
        answers = [first_text(of_row) for of_row in texts]
        result[side + 'scores'], points = score_answers(rows, answers, rule_name)
        for row, answer, of_row, accuracy in zip(result['rows'], answers, texts, points):
            row[side + 'answer'] = answer
            row[side + 'accuracy'] = accuracy
            if isinstance(of_row, list):
                row[side + 'generated'] = of_row
    print_scores(result)
    submission = [dict(question_id=row['id'], answer=row['answer']) for row in result['rows']]
    name = result_name(result['trained_with'], result['evaluated'])
    files = {f'eval_{name}.json': json.dumps(result, indent=1, ensure_ascii=False),
             f'eval_{name}.html': answers_page(result),
             f'results_{name}.json': json.dumps(submission, ensure_ascii=False)}
    for file, text in files.items():
        path = f'{out_dir}/{file}'
        write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
        print(path)


def check_questions(run, rows):
    """Exits or raises BadData where these rows cannot be asked. run: the knobs that they are asked
    with."""
    if any('question' not in row for row in rows):
        sys.exit(f'split {split!r} has captions without a question: eval_caption.py scores those')
    if '{prompt}' not in run['instruction'] and any('instruction' not in row for row in rows):
        raise BadData(f'instruction={run["instruction"]!r}: there is no {{prompt}} in it, where '
                      f'the questions would stand; give another --instruction')


def print_scores(result):
    """Prints the rule and the scores of the model and, if there is one, of the blind one. result:
    what eval_SPLIT.json holds."""
    evaluated, trained_with = result.get('evaluated'), result['trained_with']
    if evaluated and evaluated['dataset'] != trained_with['dataset']:
        print(f'{evaluated["dataset"]}, by a model trained on {trained_with["dataset"]}')
    print(f'rule {result["rule"]!r}: {describe_rule(result["rule"])}')
    left_out = sum(row['accuracy'] is None for row in result['rows'])
    if left_out:
        print(f'{left_out} of {len(result["rows"])} questions are left out of the score')
    for name, score in result['scores'].items():
        if name == 'accuracy':
            label = f'accuracy by rule {result["rule"]!r}'
        else:
            label = name
        line = f'{label:40}{score:8.2f}'
        if 'blind_scores' in result:
            line += f'   blind {result["blind_scores"][name]:8.2f}'
        print(line)


if __name__ == '__main__':
    try:
        main(configure(globals()))
    except (BadData, ValueError, OSError) as e:
        sys.exit(str(e))
