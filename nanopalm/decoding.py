"""
How texts are decoded: what the knobs that sample.py, eval_caption.py and eval_vqa.py share stand
for in transformers' `generate`, after whose arguments they are named.
"""

# transformers' own defaults; they do nothing where nothing is sampled
SAMPLING = dict(temperature=1.0, top_k=50, top_p=1.0)


def decoding_options(knobs):
    """Returns the arguments of `PALM.generate` that a script's knobs stand for. All are given, so
    that what the language model's own generation_config.json says is never mixed in.

    Raises ValueError for knobs that would have no effect, or that exclude each other."""
    num_beams, do_sample = knobs['num_beams'], knobs['do_sample']
    several = knobs['num_return_sequences']
    options = dict(num_beams=num_beams, max_new_tokens=knobs['max_new_tokens'],
                   num_return_sequences=several, do_sample=do_sample,
                   repetition_penalty=knobs['repetition_penalty'])
    for name, default in SAMPLING.items():
        if do_sample:
            options[name] = knobs[name]
        elif knobs[name] != default:
            raise ValueError(f'{name}={knobs[name]} is for sampling: give --do_sample=True as well')
    if num_beams > 1:
        options['length_penalty'] = knobs['length_penalty']
    elif knobs['length_penalty'] != 1:
        raise ValueError(f'length_penalty={knobs["length_penalty"]} compares beams: give '
                         f'--num_beams=2 or more as well')
    if several > num_beams and (num_beams > 1 or not do_sample):
        raise ValueError(f'num_return_sequences={several}: num_beams={num_beams} ends with no more '
                         f'than {num_beams}; give more beams, or --do_sample=True --num_beams=1')
    return options


def token_limit(max_new_tokens, run):
    """Returns how many new tokens an evaluation generates at most: its own knob, or if that is 0
    what the run says under `test_new_tokens`, or 50 as DePALM. A text ends by itself long before."""
    return max_new_tokens or run.get('test_new_tokens') or 50
