"""
The score by which train.py chooses the best checkpoint, if it is not the validation loss.
"""

from nanopalm.examples import BadData, merge_captions, spread_examples
from nanopalm.generate import readable
from nanopalm.scores import default_rule, exact_match, score_answers, score_captions

# those of captions; 'accuracy' is of answers
CAPTION_METRICS = ('CIDEr', 'exact')


def examples_to_score(examples, config):
    """Returns the validation examples whose texts are scored at every evaluation, all captions of
    an image in one; none if eval_metric is the loss. Raises BadData if it cannot score them."""
    metric = config['eval_metric']
    if metric == 'loss':
        return []
    kind = 'caption' if metric in CAPTION_METRICS else 'question'
    if any(kind not in example for example in examples):
        raise BadData(
            f'eval_metric={metric!r}: there are validation examples of '
            f'dataset={config["dataset"]!r} without a {kind}; {" and ".join(CAPTION_METRICS)} are '
            f'of captions, accuracy is of answers to questions'
        )
    if metric in CAPTION_METRICS:
        examples = merge_captions(examples)
    return spread_examples(examples, config['eval_metric_rows'])


def score_texts(examples, texts, config):
    """Returns eval_metric x 100 of a generated text for each example, None where its file could not
    be read. Answers are scored by the official rule of the data set."""
    examples, texts = readable(examples, texts)
    if config['eval_metric'] in CAPTION_METRICS:
        references = [example['caption'] for example in examples]
        if config['eval_metric'] == 'exact':
            return 100 * exact_match(references, texts)
        return score_captions(references, texts)[0]['CIDEr']
    rule = default_rule(config['dataset'], examples)
    return score_answers(examples, texts, rule)[0]['accuracy']


def is_better(value, best, metric):
    """Whether an evaluation is the best so far: a lower loss, or a score that is no lower, for of
    checkpoints with equal scores the later one is better."""
    return value < best if metric == 'loss' else value >= best
