"""
Answer the questions of a split and score the answers: out_dir/eval_SPLIT.json, eval_SPLIT.html to look at, and results_SPLIT.json in
the form that the VQA evaluation servers take.

    python eval_vqa.py --out_dir=out/vqa                                # the test split
    python eval_vqa.py --out_dir=out/vqa --blind_dir=out/vqa_blind      # beside the same LLM without a picture
    python eval_vqa.py --out_dir=out/aokvqa --rule=depalm               # scored as DePALM did

Each data set is scored by its own official rule, whose name stands beside the score and in the
results: VQAv2 and OK-VQA by 'vqa', TextVQA by 'textvqa', A-OKVQA by 'aokvqa', GQA and the questions
about videos by 'exact'. Of a data set of your own the number of answers decides: 'vqa' where a
question has several (with fewer than four it cannot reach 100), 'exact' where it has one. What a
rule does is said in scores.py, and printed.
"""
import json
import sys
from pathlib import Path

from configurator import configure
from page import answers_page
from rows import BadData, load_rows
from scores import RULES, check_rule, default_rule, describe_rule, score_answers

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/vqa'                 # a run of train.py
which = 'best'                      # 'best' or 'last'
blind_dir = ''                      # a run with the same llm and encoder=None
split = 'test'
max_rows = 0                        # ask so many questions, spread over the split; 0 = all
page_rows = 200                     # show so many of them on the page
rule = ''                           # how answers are scored, see above; '' = the data set's own
bad_rows = ''                       # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
num_beams = 3
max_new_tokens = 10
batch_size = 16                     # pictures; up to 8 questions of each
device = 'auto'
dtype = 'auto'                      # 'float32', 'bfloat16', 'float16'; auto = float32 on a CPU, on a GPU as the LLM was published
compile = False                     # torch.compile: minutes before the first batch
# ---------------------------------------------------------------------------------------------------------------------

AT_LEAST = dict(max_rows=0, page_rows=0, num_beams=1, max_new_tokens=1, batch_size=1)
ONE_OF = dict(which=('best', 'last'), bad_rows=('', 'error', 'skip'), dtype=('auto', 'bfloat16', 'float16', 'float32'), rule=('', *RULES))


def main(config):
    from model import write_atomically
    from sample import generate_rows, readable, with_blind
    result = dict(knobs=config)
    for side, model, tokenizer, trained_with in with_blind(out_dir, blind_dir, which, device, bad_rows, dtype):
        if not side:
            rows = load_rows(trained_with, split)
            if any('question' not in row for row in rows):
                sys.exit(f'split {split!r} has captions without a question: eval_caption.py scores those')
            rows = [rows[i * len(rows) // max_rows] for i in range(max_rows)] if 0 < max_rows < len(rows) else rows
            rule_name = rule or default_rule(trained_with['dataset'], rows)
            check_rule(rule_name, rows)
            result |= dict(trained_with=trained_with, rule=rule_name)
        answers = generate_rows(model, tokenizer, trained_with, rows, batch_size, num_beams=num_beams, max_new_tokens=max_new_tokens, compile=compile)
        if not side:
            rows, answers = readable(rows, answers)
            result['rows'] = [dict(row) for row in rows]
        result[side + 'scores'], points = score_answers(rows, answers, rule_name)
        for row, answer, accuracy in zip(result['rows'], answers, points):
            row |= {side + 'answer': answer, side + 'accuracy': accuracy}
    print_scores(result)
    submission = [dict(question_id=row['id'], answer=row['answer']) for row in result['rows']]
    for name, text in {f'eval_{split}.json': json.dumps(result, indent=1, ensure_ascii=False), f'eval_{split}.html': answers_page(result),
                       f'results_{split}.json': json.dumps(submission, ensure_ascii=False)}.items():
        write_atomically(f'{out_dir}/{name}', lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
        print(f'{out_dir}/{name}')


def print_scores(result):
    """Prints the rule and the scores of the model and, if there is one, of the blind one. result:
    what eval_SPLIT.json holds."""
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
