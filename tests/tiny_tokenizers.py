"""
A tiny tokenizer of every kind that LLMs have, each trained here on a few sentences; and a tiny OPT.
"""

import json

import torch
import transformers
from tokenizers import (
    ByteLevelBPETokenizer,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

QUESTIONS = ('what color?', 'is there a square in the picture?')
CUE = '\n\nAnswer:\n'


def corpus():
    """Returns the texts that the tokenizers are trained on."""
    texts = []
    for question in (*QUESTIONS, 'A picture of'):
        for cue in (CUE, ' Answer:', '</a>', ' [/INST]'):
            for answer in ('a red circle.', 'A green square.', '12 yes\n', 'red'):
                texts.append(f'{question}{cue} {answer}')
    return texts


def vocabulary_of(tokenizer):
    """Returns (vocabulary, merges) of a tokenizer."""
    model = json.loads(tokenizer.to_str())['model']
    return model['vocab'], [tuple(merge) for merge in model['merges']]


def metaspace_bpe():
    """Returns vocabulary and merges as LLaMA 1/2 and Mistral have them: <unk>, <s>, </s>, the
    bytes, and pieces in which ▁ is a space."""
    bpe = Tokenizer(models.BPE(unk_token='<unk>', byte_fallback=True, fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    specials = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))]
    texts = [text.replace('\n', ' ') for text in corpus()]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials)
    bpe.train_from_iterator(texts, trainer)
    return vocabulary_of(bpe)


def byte_bpe(*specials):
    """Returns vocabulary and merges of a byte-level BPE."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus(), 400, 1, special_tokens=list(specials))
    return vocabulary_of(bpe._tokenizer)


def llama_tokenizer(**settings):
    vocab, merges = metaspace_bpe()
    return transformers.LlamaTokenizer(vocab=vocab, merges=merges, **settings)


def llama_legacy_tokenizer():
    return llama_tokenizer(legacy=True, add_bos_token=True)


def llama_no_prefix_space_tokenizer():
    return llama_tokenizer(add_prefix_space=False)


def prepended_tokenizer():
    """Returns one as the tokenizer.json of LLaMA 1/2 is written: a normalizer puts the ▁."""
    vocab, merges = metaspace_bpe()
    bpe = Tokenizer(models.BPE(vocab, merges, unk_token='<unk>', byte_fallback=True, fuse_unk=True))
    spaces = [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    bpe.normalizer = normalizers.Sequence(spaces)
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace('▁', ' '),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(' ', 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token='<s>', eos_token='</s>', unk_token='<unk>'
    )


def llama3_tokenizer():
    vocab, merges = byte_bpe('<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>')
    bpe = Tokenizer(models.BPE(vocab, merges))
    pattern = (
        r'[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), 'isolated'),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token='<|begin_of_text|>', eos_token='<|end_of_text|>'
    )


def qwen_tokenizer():
    vocab, merges = byte_bpe('<|endoftext|>', '<|im_start|>', '<|im_end|>')
    return transformers.Qwen2Tokenizer(
        vocab=vocab, merges=merges, eos_token='<|im_end|>', pad_token='<|endoftext|>'
    )


def opt_tokenizer():
    vocab, merges = byte_bpe('<s>', '<pad>', '</s>', '<unk>')
    return transformers.GPT2Tokenizer(
        vocab=vocab,
        merges=merges,
        add_bos_token=True,
        bos_token='</s>',
        eos_token='</s>',
        unk_token='</s>',
        pad_token='<pad>',
    )


# {kind: (function that makes it, its BOS or what stands for it, EOS, what pads)}
TOKENIZERS = dict(
    llama=(llama_tokenizer, '<s>', '</s>', '<unk>'),
    llama_legacy=(llama_legacy_tokenizer, '<s>', '</s>', '<unk>'),
    llama_no_prefix_space=(llama_no_prefix_space_tokenizer, '<s>', '</s>', '<unk>'),
    prepended=(prepended_tokenizer, '<s>', '</s>', '<unk>'),
    llama3=(llama3_tokenizer, '<|begin_of_text|>', '<|end_of_text|>', '<|end_of_text|>'),
    qwen=(qwen_tokenizer, '<|im_end|>', '<|im_end|>', '<|endoftext|>'),
    opt=(opt_tokenizer, '</s>', '</s>', '<pad>'),
)


def tiny_opt():
    """Returns (tokenizer, LLM): a byte-level BPE as OPT's, and an embedding with 7 rows more than
    its vocabulary."""
    bpe = ByteLevelBPETokenizer()
    specials = ['<s>', '<pad>', '</s>', '<unk>']
    bpe.train_from_iterator(['why is the cat red? Answer: A red cat.'] * 9, 320, 2, True, specials)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token='</s>',
        eos_token='</s>',
        unk_token='</s>',
        pad_token='<pad>',
    )
    torch.manual_seed(0)
    llm = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=len(tokenizer) + 7,
            hidden_size=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=16,
            max_position_embeddings=64,
        )
    )
    return tokenizer, llm
