"""
What the language model is asked, as token ids. A prompt is composed here and nowhere else:

    BOS  chat_template( instruction( question ) )  answer_prompt  prompt_end        in a chat
    BOS  instruction( question )  answer_cue  answer_prompt  prompt_end             as plain text
    BOS  caption_prompt  prompt_end                                                 nothing is asked

Each part is a hyperparameter of its own, so that the file of a task and the file of an LLM do not
have to know each other. The task says what it asks:

    instruction     the text around the question, '{prompt}' where the question stands
    answer_cue      what stands between a question and its answer in plain text: '\\n\\nAnswer:'

The LLM's file says how the LLM is asked:

    chat_template   '' for plain text, 'own' for the chat template of the LLM's tokenizer, or a name
                    in TEMPLATES; it says whose turn it is, and so the answer cue is left out
    caption_prompt  what stands alone, without a chat template, where nothing is asked
    prompt_end      a token that ends every prompt

An `answer_prompt` stands in front of every answer and takes the place of the caption prompt.
"""

import difflib
import re

from nanopalm.examples import BadData

# Chat templates of LLMs whose tokenizer may have none, by name; the question stands at {prompt}.
TEMPLATES = {
    # without a system prompt
    'llama2': '[INST] {prompt} [/INST]',
    'vicuna': (
        'A chat between a curious user and an artificial intelligence assistant. '
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        'USER: {prompt} ASSISTANT:'
    ),
    'alpaca': (
        'Below is an instruction that describes a task. '
        'Write a response that appropriately completes the request.\n\n'
        '### Instruction:\n{prompt}\n\n### Response:'
    ),
}


# ---- prompts -------------------------------------------------------------------------------------


def question_of(example):
    """Returns (the question of an example, its own instruction), '' where it has none."""
    return example.get('question', ''), example.get('instruction', '')


def encode_prompt(tokenizer, config, question='', instruction=''):
    """Returns the token ids of a prompt: BOS (EOS where the tokenizer has no BOS), the text, and
    the token `prompt_end` if there is one.

    instruction: that of the example itself, in place of the hyperparameter."""
    text = prompt_text(tokenizer, config, question, instruction)
    # The last space belongs to the target, or is dropped before `prompt_end`, as in the papers'
    # code.
    text = re.sub(' +$', '', text)
    ids = [tokenizer.convert_tokens_to_ids(start_token(tokenizer))]
    if text:
        ids += tokenizer(text, add_special_tokens=False).input_ids
    if config.get('prompt_end'):
        ids.append(prompt_end_id(tokenizer, config['prompt_end']))
    return ids


def prompt_text(tokenizer, config, question='', instruction=''):
    """Returns the text of a prompt, without BOS and `prompt_end`.

    Checkpoints from before chat templates were a hyperparameter have all of it in `instruction`."""
    answer_prompt = config['answer_prompt']
    caption_prompt = config.get('caption_prompt', '')
    chat_template = config.get('chat_template', '')

    text = (instruction or config['instruction']).format(prompt=question)
    if not text and caption_prompt:
        return answer_prompt or caption_prompt
    if chat_template:
        return in_chat(tokenizer, config, text) + answer_prompt
    if not instruction:
        # An example's own instruction says all that is asked: it has a cue of its own, or none.
        text += config.get('answer_cue', '')
    return text + answer_prompt


def check_braces(name, instruction):
    """Raises ValueError for an instruction with braces that are not those of {prompt}. name: what
    the message calls it."""
    try:
        instruction.format(prompt='')
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f'{name} is {instruction!r}, expected no braces but those of {{prompt}}; a brace '
            f'itself is written twice'
        ) from error


def start_token(tokenizer):
    """Returns the token that begins every text: BOS, or EOS where the tokenizer has no BOS."""
    return tokenizer.bos_token if tokenizer.bos_token_id is not None else tokenizer.eos_token


def replace_prompts(config, instruction='', answer_prompt=''):
    """Returns the configuration of a run with an evaluation's own prompts: '' leaves the run's,
    None means none. An instruction says all that is asked and so replaces the answer cue, too; an
    answer prompt replaces the caption prompt, too. The chat template stays."""
    config = dict(config)
    if instruction != '':
        config['instruction'] = '{prompt}' if instruction is None else instruction
        config['answer_cue'] = ''
    if answer_prompt != '':
        config['answer_prompt'] = '' if answer_prompt is None else answer_prompt
        config['caption_prompt'] = ''
    return config


# ---- chat templates ------------------------------------------------------------------------------


def in_chat(tokenizer, config, text):
    """Returns a text as the user's turn of a chat, up to where the LLM's turn begins. Raises
    BadData for a chat template that does not exist."""
    name = config['chat_template']
    if name == 'own':
        return in_own_chat(tokenizer, config, text)
    if name not in TEMPLATES:
        raise BadData(unknown_template(name))
    return TEMPLATES[name].format(prompt=text)


def in_own_chat(tokenizer, config, text):
    """Returns the same by the chat template of the tokenizer itself."""
    if not tokenizer.chat_template:
        raise BadData(
            f"chat_template='own': the tokenizer of llm={config.get('llm')!r} has none; name one "
            f'of nanopalm/prompts.py ({names_of_templates()}), or leave it out for an LLM that '
            f'was not trained to chat'
        )
    text = tokenizer.apply_chat_template(
        [dict(role='user', content=text)],
        tokenize=False,
        add_generation_prompt=True,
        # Qwen3 answers at once
        enable_thinking=False,
        # Llama 3.1 and 3.2 would write today's date, so that a prompt would change from day to day
        date_string='26 Jul 2024',
    )
    # A template that writes BOS itself: `encode_prompt` puts it in front of every text.
    return text.removeprefix(start_token(tokenizer))


def unknown_template(name):
    """Returns the message about a chat template of a name that does not exist."""
    near = difflib.get_close_matches(name, ['own', *TEMPLATES], n=1)
    suggestion = f'; did you mean {near[0]!r}?' if near else ''
    return (
        f"chat_template={name!r}: expected '' (plain text), 'own' (the chat template of the LLM's "
        f'tokenizer) or one of nanopalm/prompts.py ({names_of_templates()}){suggestion}'
    )


def names_of_templates():
    return ', '.join(map(repr, TEMPLATES))


# ---- the token that ends a prompt ----------------------------------------------------------------


def prompt_end_id(tokenizer, token):
    """Returns the id of a token; for a token that is not in the vocabulary, the first id behind the
    vocabulary. This is what the papers' code did with OPT, whose embedding has seven rows more than
    its vocabulary: the token has one of these rows, which is frozen and part of OPT's published
    weights."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None:
        return len(tokenizer)
    if token_id == tokenizer.unk_token_id and token != tokenizer.unk_token:
        return len(tokenizer)
    return token_id


def check_prompt_end(tokenizer, config, n_embeddings):
    """Raises BadData where the LLM's embedding, of n_embeddings rows, has no row for
    `prompt_end`."""
    token = config.get('prompt_end')
    if token and prompt_end_id(tokenizer, token) >= n_embeddings:
        raise BadData(
            f'prompt_end={token!r}: it is not in the vocabulary of llm={config["llm"]!r}, and all '
            f'{n_embeddings} rows of its embedding are taken (OPT has rows to spare); leave it '
            f'out, or give a token that the LLM knows'
        )


# ---- targets -------------------------------------------------------------------------------------


def encode_targets(tokenizer, texts, max_tokens, space=True):
    """Returns the token ids of each target text, cut to max_tokens - 1, then EOS. Special tokens
    that a text spells are encoded as text.

    space: whether a space stands in front of a target. Sentencepiece tokenizers put one there by
    themselves."""
    if not texts:
        return []
    pieces = tokenizer.convert_ids_to_tokens(tokenizer('a', add_special_tokens=False).input_ids)
    if pieces[0].startswith('\u2581'):
        space = False
    before = ' ' if space else ''
    lines = [before + ' '.join(text.split()) for text in texts]
    encoded = tokenizer(lines, add_special_tokens=False, split_special_tokens=True).input_ids
    return [ids[: max_tokens - 1] + [tokenizer.eos_token_id] for ids in encoded]
