"""
What eval_caption.py, eval_vqa.py and sample.py share: which checkpoint of a run they load, the
examples they take, and the files they write.
"""

import json
import os
from pathlib import Path

from data import check_instruction
from nanopalm.checkpoint import load_checkpoint, read_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.decoding import decoding_options
from nanopalm.examples import BadData, medium_of, merge_captions, path_of, spread_examples
from nanopalm.generate import first_text, generate_texts
from nanopalm.prompts import check_braces, replace_prompts
from nanopalm.runs import write_text
from nanopalm.scores import tokenize

# ---- runs ----------------------------------------------------------------------------------------


def choose_checkpoint(out_dir, which):
    """Returns the name of a run's checkpoint, 'best' or 'last': `which`, or if that is '' the
    `test_checkpoint` in the run's config.json, or 'best' where there is none."""
    if which:
        return which
    path = os.path.join(out_dir, 'config.json')
    if not os.path.isfile(path):
        return 'best'
    with open(path, encoding='utf-8') as file:
        return json.load(file).get('test_checkpoint', 'best')


def load_run(out_dir, config):
    """Returns (model in eval mode, tokenizer, the hyperparameters it was trained with) of the run
    in a folder. config: the hyperparameters of the script; `bad_rows` takes the run's place."""
    checkpoint = choose_checkpoint(out_dir, config['which'])
    return load_checkpoint(
        out_dir, checkpoint, config['device'], config['dtype'], config['bad_rows']
    )


def read_run(out_dir, config):
    """Returns the hyperparameters that the run in a folder was trained with, without loading its
    model. Raises FileNotFoundError or ValueError where there is no checkpoint."""
    checkpoint = choose_checkpoint(out_dir, config['which'])
    run, _ = read_checkpoint(os.path.join(out_dir, f'{checkpoint}.safetensors'))
    if config['bad_rows']:
        run['bad_rows'] = config['bad_rows']
    return run


def check_blind_run(blind_dir, config, run):
    """Raises ValueError where the run in blind_dir is not the text-only baseline of `run`."""
    blind_run = read_run(blind_dir, config)
    if blind_run['encoder'] or blind_run['llm'] != run['llm']:
        raise ValueError(
            f'{blind_dir}: a blind run has encoder=None and the same llm={run["llm"]!r}, but this '
            f'run has encoder={blind_run["encoder"]!r} and llm={blind_run["llm"]!r}'
        )


def with_other_data(run, config):
    """Returns the hyperparameters of a run with the script's dataset, data_dir, instruction and
    answer_prompt in the places of its own. Where the script's is '', the run's own stays; where an
    instruction or answer_prompt is None, there is none. Raises ValueError for an instruction with
    braces that are not those of {prompt}."""
    if config['instruction']:
        check_braces('--instruction', config['instruction'])
    run = dict(run)
    if config['dataset'] and config['dataset'] != run['dataset']:
        # how many examples of its own data set the run was trained with
        run['train_rows'] = 0.0
    for name in ('dataset', 'data_dir'):
        if config[name]:
            run[name] = config[name]
    return replace_prompts(run, config['instruction'], config['answer_prompt'])


def generate_with(out_dir, examples, config):
    """Returns what the run in a folder generates for the examples: see `generate_texts`.

    config: the hyperparameters of eval_caption.py or eval_vqa.py."""
    model, tokenizer, run = load_run(out_dir, config)
    run = with_other_data(run, config)
    options = decoding_options(config, run)
    return generate_texts(
        model,
        tokenizer,
        run,
        examples,
        config['batch_size'],
        seed=config['seed'],
        compile=config['compile'],
        **options,
    )


# ---- examples ------------------------------------------------------------------------------------


def load_captions(run, split, limit=0):
    """Returns the examples of a split, one for each image, sound or video, with all its captions;
    so many of them as `limit` says (see `spread_examples`).

    run: the hyperparameters of the run. Raises BadData for questions, and for an example without a
    reference caption."""
    examples = load_examples(run, split)
    for example in examples:
        if 'caption' not in example:
            raise BadData(f'split {split!r} has questions, no captions: eval_vqa.py scores those')
        if not any(tokenize(caption) for caption in example['caption']):
            raise BadData(f'row {example["id"]!r} ({path_of(example)}) has no reference caption')
    return spread_examples(merge_captions(examples), limit)


def named_examples(run, examples):
    """Returns the examples whose captions are known names of categories: those given, and those of
    the training, which may be a data set that is not there any more. Only a data set with
    `category` is read.

    run: the hyperparameters of the run."""
    if 'category' not in examples[0]:
        return examples
    path = Path(run['dataset'], 'train.jsonl')
    if not path.is_file():
        return examples
    return examples + load_examples(run | dict(train_rows=0.0), 'train')


def load_questions(run, split, limit=0):
    """Returns the questions of a split; so many of them as `limit` says (see `spread_examples`).

    run: the hyperparameters of the run. Raises BadData for captions, and where the run's
    instruction has no place for a question."""
    examples = spread_examples(load_examples(run, split), limit)
    if any('question' not in example for example in examples):
        raise BadData(
            f'split {split!r} has captions without a question: eval_caption.py scores those'
        )
    check_instruction(examples, run)
    return examples


# ---- results -------------------------------------------------------------------------------------


def describe_evaluation(run, config):
    """Returns what the results say about an evaluation: the data set, its prompts, the split and
    the checkpoint. What the model was trained with stands beside it."""
    evaluated = {}
    for name in ('dataset', 'data_dir', 'instruction', 'answer_prompt'):
        if name in run:
            evaluated[name] = run[name]
    evaluated['split'] = config['split']
    evaluated['checkpoint'] = choose_checkpoint(config['out_dir'], config['which'])
    return evaluated


def result_name(result):
    """Returns the middle of the names of an evaluation's files: 'test', or 'nocaps_test' if the
    data set is not the one of the training."""
    evaluated = result['evaluated']
    if evaluated['dataset'] == result['trained_with']['dataset']:
        return evaluated['split']
    dataset = Path(evaluated['dataset']).name.removesuffix('.jsonl')
    return f'{dataset}_{evaluated["split"]}'


def describe_example(example):
    """Returns what the results say about an example with captions."""
    return {
        'id': example['id'],
        medium_of(example): path_of(example),
        'references': example['caption'],
    }


def add_texts(rows, name, texts, side=''):
    """Adds to the rows of a result what was generated for each: the first text under `name`, and
    all of them under 'generated' if there are several. side: 'blind_' goes before both names for
    the text-only baseline."""
    for row, texts_of_row in zip(rows, texts):
        row[side + name] = first_text(texts_of_row)
        if isinstance(texts_of_row, list):
            row[side + 'generated'] = texts_of_row


def print_other_data(result):
    """Prints what was evaluated, if it is not what the model was trained on."""
    evaluated = result['evaluated']['dataset']
    trained = result['trained_with']['dataset']
    if evaluated != trained:
        print(f'{evaluated}, by a model trained on {trained}')


def print_missing(missing):
    """Prints {metric: why it is missing}."""
    for name, reason in missing.items():
        print(f'no {name}: {reason}', flush=True)


def write_files(folder, files):
    """Writes {name: text} into a folder, and prints the path of each file."""
    for name, text in files.items():
        path = os.path.join(folder, name)
        write_text(path, text)
        print(path)


def to_json(value, indent=None):
    return json.dumps(value, indent=indent, ensure_ascii=False)
