"""
What the language model is asked, as token ids.
"""
import re

from nanopalm.examples import BadData


def question_of(row):
    """What a row asks: (its question, its own instruction), '' where there is none."""
    return row.get('question', ''), row.get('instruction', '')


def encode_prompt(tokenizer, config, question='', instruction=''):
    """Returns the ids of BOS (EOS where the tokenizer has none), then the instruction and the
    answer prompt, whose last space belongs to the target, then the token `prompt_end`."""
    text = (instruction or config['instruction']).format(prompt=question) + config['answer_prompt']
    # the space goes with the target, or, in front of `prompt_end`, as in the papers' code
    text = re.sub(' +$', '', text)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = [bos]
    if text:
        ids += tokenizer(text, add_special_tokens=False).input_ids
    if config.get('prompt_end'):
        ids.append(prompt_end_id(tokenizer, config['prompt_end']))
    return ids


def prompt_end_id(tokenizer, token):
    """Returns the id of a token; of one that is not in the vocabulary, the first id behind it. This
    is what the papers' code did for OPT, whose embedding has seven rows more than its vocabulary:
    the token has one of them, which is frozen and in its published weights."""
    id_ = tokenizer.convert_tokens_to_ids(token)
    unknown = id_ is None or id_ == tokenizer.unk_token_id and token != tokenizer.unk_token
    return len(tokenizer) if unknown else id_


def check_prompt_end(tokenizer, config, n_embeddings):
    """Raises BadData where the LLM's embedding has no row for `prompt_end`."""
    token = config.get('prompt_end')
    if token and prompt_end_id(tokenizer, token) >= n_embeddings:
        raise BadData(f'prompt_end={token!r}: it is not in the vocabulary of llm={config["llm"]!r}, '
                      f'and all {n_embeddings} rows of its embedding are taken (OPT has rows to '
                      f'spare); leave it out, or give a token that the LLM knows')


def encode_targets(tokenizer, texts, max_tokens, space=True):
    """Returns target ids with EOS. space: a target is preceded by one, which sentencepiece
    tokenizers add by themselves."""
    if not texts:
        return []
    pieces = tokenizer.convert_ids_to_tokens(tokenizer('a', add_special_tokens=False).input_ids)
    if pieces[0].startswith('\u2581'):
        space = False
    lines = []
    for text in texts:
        lines.append((' ' if space else '') + ' '.join(text.split()))
    ids = tokenizer(lines, add_special_tokens=False, split_special_tokens=True).input_ids
    return [i[:max_tokens - 1] + [tokenizer.eos_token_id] for i in ids]
