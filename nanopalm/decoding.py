"""
How texts are decoded: the hyperparameters that sample.py, eval_caption.py and eval_vqa.py share, as
arguments of transformers' `generate`, whose names they have.
"""

# transformers' own defaults; they have no effect unless do_sample=True
SAMPLING = {'temperature': 1.0, 'top_k': 50, 'top_p': 1.0}

# what DePALM's evaluation allows
DEFAULT_NEW_TOKENS = 50


def decoding_options(config, run):
    """Returns the arguments of `PALM.generate` for the hyperparameters of a script. All of them are
    given, so that the language model's own generation_config.json has no influence.

    run: the hyperparameters that the model was trained with. Raises ValueError for those of the
    script that would have no effect, or that exclude each other."""
    check_decoding(config)
    options = {
        'num_beams': config['num_beams'],
        'max_new_tokens': token_limit(config['max_new_tokens'], run),
        'num_return_sequences': config['num_return_sequences'],
        'do_sample': config['do_sample'],
        'repetition_penalty': config['repetition_penalty'],
    }
    if config['do_sample']:
        for name in SAMPLING:
            options[name] = config[name]
    if config['num_beams'] > 1:
        options['length_penalty'] = config['length_penalty']
    return options


def check_decoding(config):
    """Raises ValueError for hyperparameters that would have no effect, or that exclude each
    other."""
    num_beams = config['num_beams']
    do_sample = config['do_sample']
    sequences = config['num_return_sequences']
    for name, default in SAMPLING.items():
        if not do_sample and config[name] != default:
            raise ValueError(
                f'{name}={config[name]} is for sampling: give --do_sample=True as well'
            )
    if num_beams == 1 and config['length_penalty'] != 1:
        raise ValueError(
            f'length_penalty={config["length_penalty"]} compares beams: give --num_beams=2 or more '
            f'as well'
        )
    samples_independently = do_sample and num_beams == 1
    if sequences > num_beams and not samples_independently:
        raise ValueError(
            f'num_return_sequences={sequences}: num_beams={num_beams} ends with no more than '
            f'{num_beams}; give more beams, or --do_sample=True --num_beams=1'
        )


def token_limit(max_new_tokens, run):
    """Returns how many new tokens a script generates at most: its own `max_new_tokens`, or if that
    is 0 the run's `test_new_tokens`, or if that is 0 or not given 50, as DePALM. Most texts end by
    themselves long before."""
    return max_new_tokens or run.get('test_new_tokens') or DEFAULT_NEW_TOKENS
