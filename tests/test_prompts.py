"""
What the language model is asked, token for token. `pytest tests/test_prompts.py`
"""

import pytest
from conftest import configured
from tiny_tokenizers import CUE, QUESTIONS, TOKENIZERS, tiny_opt
from transformers import AutoTokenizer

from nanopalm.examples import BadData
from nanopalm.prompts import (
    TEMPLATES,
    check_prompt_end,
    encode_prompt,
    encode_targets,
    prompt_text,
    question_of,
    replace_prompts,
)

PLAIN = dict(
    llm='an LLM',
    instruction='{prompt}',
    answer_cue='',
    chat_template='',
    caption_prompt='',
    answer_prompt='',
    prompt_end='',
)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def tokenizer_of(kind):
    """Returns a tiny tokenizer of a kind in tiny_tokenizers.py."""
    make, *_ = TOKENIZERS[kind]
    return make()


def tokenizer_with_template(kind, chat_template):
    """Returns the same with a chat template of its own."""
    tokenizer = tokenizer_of(kind)
    tokenizer.chat_template = chat_template
    return tokenizer


# ---- prompt and target ---------------------------------------------------------------------------


def test_a_prompt_begins_with_one_bos_and_a_target_ends_with_one_eos(llm):
    tokenizer = AutoTokenizer.from_pretrained(llm)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert encode_prompt(tokenizer, PLAIN) == [bos]
    config = PLAIN | dict(instruction='Q: {prompt}', answer_prompt='\n\nAnswer: ')
    prompt = encode_prompt(tokenizer, config, 'What is it?')
    assert prompt[0] == bos and bos not in prompt[1:]
    assert tokenizer.decode(prompt[1:]) == 'Q: What is it?\n\nAnswer:'

    targets = encode_targets(tokenizer, ['A red circle.', '  A \n red circle. ', '猫'], 50)
    for target in targets:
        assert target[-1] == eos and eos not in target[:-1] and bos not in target
    texts = [tokenizer.decode(target[:-1]) for target in targets]
    assert texts == [' A red circle.', ' A red circle.', ' 猫']


def test_a_long_target_is_cut_and_still_ends_with_eos(llm):
    tokenizer = AutoTokenizer.from_pretrained(llm)
    (target,) = encode_targets(tokenizer, ['A red circle. ' * 9], 7)
    whole = ids_of(tokenizer, ' A red circle. A red')
    assert target == [*whole[:6], tokenizer.eos_token_id]
    assert encode_targets(tokenizer, [], 7) == []


def test_special_tokens_in_a_caption_are_text(llm):
    """A caption that spells EOS must not end the text."""
    tokenizer = AutoTokenizer.from_pretrained(llm)
    (target,) = encode_targets(tokenizer, ['A </s> sign.'], 50)
    assert target.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    'instruction, answer_prompt',
    [
        ('{prompt}' + CUE, ''),
        ('{prompt}', ' Answer: '),
        ('{prompt}', '</a>'),
        ('[INST] {prompt} [/INST]', ''),
        ('', ''),
        ('', 'Answer: '),
        ('Caption:', ''),
    ],
)
@pytest.mark.parametrize('kind', TOKENIZERS)
def test_prompt_and_target_are_the_ids_of_the_whole_text(
    kind, instruction, answer_prompt, tmp_path
):
    """No space is lost or doubled where they meet, and one BOS stands in front, whatever the
    tokenizer adds by itself."""
    make, bos, eos, _ = TOKENIZERS[kind]
    make().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    config = dict(instruction=instruction, answer_prompt=answer_prompt)
    prompt = encode_prompt(tokenizer, config, QUESTIONS[0])
    text = (instruction.format(prompt=QUESTIONS[0]) + answer_prompt).rstrip(' ')
    # this one's normalizer would add a second space
    space = '' if kind == 'prepended' and not text else ' '
    first, last = tokenizer.convert_tokens_to_ids([bos, eos])
    for target in ('A red circle.', 'red', '12', '"yes"', "'s", '猫', 'zebra </s>'):
        (ids,) = encode_targets(tokenizer, [target], 99)
        whole = tokenizer(
            text + space + target, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        assert prompt + ids == [first, *whole, last]
        assert tokenizer.decode(ids[:-1]).strip() == target
        assert eos not in tokenizer.convert_ids_to_tokens(ids[:-1])
    # pieces, not letters alone
    assert len(encode_targets(tokenizer, ['red'], 99)[0]) == 2


# ---- how the parts are composed ------------------------------------------------------------------


def text_of(config, question='', instruction='', tokenizer=None):
    return prompt_text(tokenizer, PLAIN | config, question, instruction)


def test_the_answer_cue_stands_between_question_and_answer():
    config = dict(instruction='Q: {prompt}', answer_cue='\n\nAnswer:')
    assert text_of(config, 'why?') == 'Q: why?\n\nAnswer:'
    config |= dict(answer_prompt=' So ')
    assert text_of(config, 'why?') == 'Q: why?\n\nAnswer: So '


def test_a_chat_template_stands_around_the_instruction_and_replaces_the_cue():
    config = dict(instruction='Q: {prompt}', answer_cue='\n\nAnswer:', chat_template='llama2')
    assert text_of(config, 'why?') == '[INST] Q: why? [/INST]'
    config |= dict(answer_prompt=' So ')
    assert text_of(config, 'why?') == '[INST] Q: why? [/INST] So '


def test_the_caption_prompt_stands_alone_where_nothing_is_asked():
    config = dict(caption_prompt='Answer: ', chat_template='llama2', answer_cue='\n\nAnswer:')
    assert text_of(config) == 'Answer: '
    assert text_of(config, 'why?') == '[INST] why? [/INST]'
    assert text_of(config | dict(instruction='Describe it.')) == '[INST] Describe it. [/INST]'
    assert text_of(config | dict(answer_prompt='So: ')) == 'So: '


def test_braces_of_a_question_are_text():
    config = dict(instruction='Q: {prompt}', chat_template='vicuna')
    assert ' USER: Q: why {this}? ASSISTANT:' in text_of(config, 'why {this}?')


def test_an_examples_own_instruction_says_all_that_is_asked():
    """It has a cue of its own, or none; how the LLM is asked does not change."""
    example = dict(image='a.png', question='why?', answers=['so'], instruction='Say {prompt} A:')
    question, instruction = question_of(example)
    config = dict(instruction='Q: {prompt}', answer_cue='\n\nAnswer:')
    assert text_of(config, question, instruction) == 'Say why? A:'
    config |= dict(chat_template='llama2')
    assert text_of(config, question, instruction) == '[INST] Say why? A: [/INST]'
    assert question_of(dict(image='a.png', caption=['A cat.'])) == ('', '')


def test_a_checkpoint_of_before_these_hyperparameters_is_asked_as_it_was(llm):
    """All of its prompt stands in two hyperparameters."""
    tokenizer = AutoTokenizer.from_pretrained(llm)
    config = dict(instruction='[INST] {prompt} [/INST]', answer_prompt='')
    prompt = encode_prompt(tokenizer, config, 'a red circle')
    assert tokenizer.decode(prompt[1:]) == '[INST] a red circle [/INST]'
    config = dict(instruction='{prompt}', answer_prompt='Answer: ')
    assert tokenizer.decode(encode_prompt(tokenizer, config)[1:]) == 'Answer:'


def test_an_evaluation_replaces_the_prompts_of_the_training():
    config = PLAIN | dict(answer_cue='\n\nAnswer:', chat_template='own', caption_prompt='Answer: ')
    assert replace_prompts(config) == config
    replaced = replace_prompts(config, instruction='Q: {prompt} A:')
    changed = dict(instruction='Q: {prompt} A:', answer_cue='')
    assert replaced == config | changed
    assert replace_prompts(config, answer_prompt='So: ') == config | dict(
        answer_prompt='So: ', caption_prompt=''
    )
    assert replace_prompts(config, instruction=None, answer_prompt=None) == PLAIN | dict(
        chat_template='own'
    )
    assert config['answer_cue'] == '\n\nAnswer:'


# ---- chat templates ------------------------------------------------------------------------------

# how published tokenizers write a user's turn, in as few words
LLAMA3 = (
    '{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n'
    '{{ m.content }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}'
    '<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}'
)
MISTRAL = '{{ bos_token }}{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}'
CHATML = (
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
QWEN25 = '<|im_start|>system\nYou are Qwen.<|im_end|>\n' + CHATML
QWEN3 = CHATML + (
    '{% if enable_thinking is defined and enable_thinking is false %}'
    '<think>\n\n</think>\n\n{% endif %}'
)


@pytest.mark.parametrize(
    'kind, template, before, after',
    [
        (
            'llama3',
            LLAMA3,
            '<|start_header_id|>user<|end_header_id|>\n\n',
            '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
        ),
        ('llama', MISTRAL, '[INST] ', '[/INST]'),
        ('prepended', MISTRAL, '[INST] ', '[/INST]'),
        (
            'qwen',
            QWEN25,
            '<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n',
            '<|im_end|>\n<|im_start|>assistant\n',
        ),
        (
            'qwen',
            QWEN3,
            '<|im_start|>user\n',
            '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n',
        ),
    ],
)
def test_the_llms_own_chat_template_is_the_text_written_out(kind, template, before, after):
    """With one BOS, whether the template writes it itself or not, and without thinking: the same
    tokens as of checkpoints whose `instruction` has the template in it."""
    tokenizer = tokenizer_with_template(kind, template)
    own = PLAIN | dict(chat_template='own', answer_cue='\n\nAnswer:')
    written_out = PLAIN | dict(instruction=f'{before}{{prompt}}{after}')
    ids = encode_prompt(tokenizer, own, 'what color?')
    assert ids == encode_prompt(tokenizer, written_out, 'what color?')
    _, bos, *_ = TOKENIZERS[kind]
    first = tokenizer.convert_tokens_to_ids(bos)
    assert ids[0] == first and ids[1] != first


def test_a_chat_that_begins_with_its_bos_token_has_one():
    """SmolLM2: its BOS is the <|im_start|> of the system's turn."""
    tokenizer = tokenizer_with_template('qwen', QWEN25)
    tokenizer.bos_token = '<|im_start|>'
    ids = encode_prompt(tokenizer, PLAIN | dict(chat_template='own'), 'what color?')
    written_out = 'system\nYou are Qwen.<|im_end|>\n<|im_start|>user\nwhat color?<|im_end|>\n'
    start = tokenizer.convert_tokens_to_ids('<|im_start|>')
    assert ids == [start, *ids_of(tokenizer, written_out + '<|im_start|>assistant\n')]


def test_a_chat_template_with_todays_date_has_always_the_same():
    template = (
        '{% if date_string is not defined %}{{ strftime_now("%d %b %Y") }}{% endif %}' + CHATML
    )
    tokenizer = tokenizer_with_template('qwen', template)
    text = text_of(dict(chat_template='own'), 'why?', tokenizer=tokenizer)
    assert text.startswith('<|im_start|>user\nwhy?')


def test_a_tokenizer_without_a_chat_template_is_named():
    config = PLAIN | dict(llm='facebook/opt-125m', chat_template='own')
    message = "chat_template='own': the tokenizer of llm='facebook/opt-125m' has none; name one"
    with pytest.raises(BadData, match=message):
        encode_prompt(tokenizer_of('opt'), config, 'why?')


def test_a_chat_template_of_an_unknown_name_is_named_with_its_neighbour():
    with pytest.raises(BadData) as error:
        text_of(dict(chat_template='vicunna'), 'why?')
    message = str(error.value)
    assert message.startswith("chat_template='vicunna': expected '' (plain text), 'own'")
    assert "'llama2', 'vicuna', 'alpaca'" in message and "did you mean 'vicuna'?" in message


# ---- the LLMs' config files ----------------------------------------------------------------------

CONTINUE = ('llama_7b', 'llama2_7b', 'llama3_8b', 'smollm2_135m', 'qwen25_7b', 'mistral_7b')
# {config file: (the name of its chat template, what stands around the question)}
CHAT = dict(
    llama2_7b_chat=('llama2', '[INST] ', ' [/INST]'),
    alpaca_7b=('alpaca', '### Instruction:\n', '\n\n### Response:'),
    vicuna_7b=('vicuna', ' USER: ', ' ASSISTANT:'),
    llama3_8b_instruct=('own', '<own>', '</own>'),
    smollm2_135m_instruct=('own', '<own>', '</own>'),
    qwen25_7b_instruct=('own', '<own>', '</own>'),
    qwen3_8b=('own', '<own>', '</own>'),
    mistral_7b_instruct=('own', '<own>', '</own>'),
)
# DePALM asks for captions with 'Answer: ' and nothing else
ANSWER = ('opt_6_7b', 'llama2_7b', 'llama2_7b_chat', 'alpaca_7b', 'vicuna_7b')
LLM_FILES = (*CONTINUE, *CHAT, 'opt_6_7b')
# what an LLM's file may change: OPT's end of a prompt, which vqav2 has, goes with OPT
OF_THE_LLM = {'llm', 'chat_template', 'caption_prompt', 'answer_prompt'}
OF_OPT = {'prompt_end', 'target_space'}


@pytest.fixture(scope='module')
def chat_tokenizer():
    template = '{% for m in messages %}<own>{{ m.content }}</own>{% endfor %}'
    return tokenizer_with_template('llama', template)


@pytest.mark.parametrize('name', LLM_FILES)
@pytest.mark.parametrize(
    'data, mechanism', [('coco', 'qp_l0'), ('vqav2', 'limber_all'), ('stamps', 'epalm')]
)
def test_an_llms_file_sets_the_llm_and_how_it_is_asked(name, data, mechanism, chat_tokenizer):
    before = configured(data, mechanism)
    config = configured(data, name, mechanism)
    changed = {key for key in before if before[key] != config[key]}
    assert changed <= OF_THE_LLM | OF_OPT and config['llm'].count('/') == 1

    question = 'why?' if data == 'vqav2' else ''
    text = prompt_text(chat_tokenizer, config, question)
    if name in ANSWER and data == 'coco':
        assert text == 'Answer: '
    elif name in CHAT:
        template, start, end = CHAT[name]
        assert config['chat_template'] == template
        assert text.endswith(start + before['instruction'].format(prompt=question) + end)
    else:
        assert changed - OF_OPT <= {'llm'}
        assert text == prompt_text(chat_tokenizer, before, question)


@pytest.mark.parametrize('name', CHAT)
def test_captions_are_asked_for_in_a_chat_by_an_instruction(name, chat_tokenizer):
    _, start, end = CHAT[name]
    for arguments in ([name, '--instruction=Describe it.'], ['--instruction=Describe it.', name]):
        text = prompt_text(chat_tokenizer, configured('coco', *arguments))
        assert text.endswith(f'{start}Describe it.{end}')


@pytest.mark.parametrize('name', LLM_FILES)
@pytest.mark.parametrize('data', ['coco', 'vqav2', 'audiocaps', 'textvqa'])
def test_the_order_of_config_files_changes_no_prompt(name, data, chat_tokenizer):
    question = 'why?' if 'vqa' in data else ''
    texts = set()
    for files in (
        (data, name, 'qp_l0'),
        (name, 'qp_l0', data),
        ('qp_l0', data, name),
        (name, data, 'qp_l0'),
    ):
        texts.add(prompt_text(chat_tokenizer, configured(*files), question))
    assert len(texts) == 1


GOLDEN = {
    'llama2_7b_chat': '[INST] why? [/INST]',
    'vicuna_7b': (
        'A chat between a curious user and an artificial intelligence assistant. The assistant '
        "gives helpful, detailed, and polite answers to the user's questions. USER: why? ASSISTANT:"
    ),
    'alpaca_7b': (
        'Below is an instruction that describes a task. Write a response that appropriately '
        'completes the request.\n\n### Instruction:\nwhy?\n\n### Response:'
    ),
    'llama_7b': 'why?\n\nAnswer:',
    'opt_6_7b': 'why?\n\nAnswer:',
}


@pytest.mark.parametrize('name', GOLDEN)
def test_questions_are_asked_in_these_very_words(name):
    assert prompt_text(None, configured('vqav2', name, 'qp_l0'), 'why?') == GOLDEN[name]


def test_every_named_template_has_one_place_for_the_question_and_a_config_file():
    for name, template in TEMPLATES.items():
        assert template.count('{prompt}') == 1
        assert name in {configured(file)['chat_template'] for file in CHAT}


# ---- the token that ends a prompt ----------------------------------------------------------------


@pytest.fixture(scope='module')
def opt():
    """Returns (tokenizer, LLM): a byte-level BPE as OPT's, and an embedding with 7 rows to
    spare."""
    return tiny_opt()


def test_a_prompt_end_of_the_vocabulary_is_that_token(opt):
    tokenizer, _ = opt
    config = PLAIN | dict(prompt_end='<s>')
    assert encode_prompt(tokenizer, config)[-1] == tokenizer.convert_tokens_to_ids('<s>')
    check_prompt_end(tokenizer, config, len(tokenizer))


def test_a_prompt_end_of_no_vocabulary_is_the_first_id_behind_it(opt):
    tokenizer, _ = opt
    config = PLAIN | dict(answer_prompt='Answer: ', prompt_end='</a>')
    prompt = encode_prompt(tokenizer, config)
    assert prompt == [tokenizer.eos_token_id, *ids_of(tokenizer, 'Answer:'), len(tokenizer)]


def test_a_prompt_end_without_a_row_in_the_embedding_is_named(opt):
    tokenizer, llm = opt
    config = PLAIN | dict(prompt_end='</a>', llm='a llama')
    check_prompt_end(tokenizer, config, llm.get_input_embeddings().num_embeddings)
    with pytest.raises(BadData, match="prompt_end='</a>'.*llm='a llama'"):
        check_prompt_end(tokenizer, config, len(tokenizer))


def test_targets_without_a_space_are_their_own_tokens(opt):
    tokenizer, _ = opt
    eos = tokenizer.eos_token_id
    without = encode_targets(tokenizer, [' a \n cat '], 9, space=False)
    assert without == [[*ids_of(tokenizer, 'a cat'), eos]]
    assert encode_targets(tokenizer, ['a cat'], 9) == [[*ids_of(tokenizer, ' a cat'), eos]]
