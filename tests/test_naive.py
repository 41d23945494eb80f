"""
naive.py: the reference implementation, by itself.
"""

import pytest
import torch
from tiny_models import assert_close, inputs, make

from naive import naive_generate, naive_logits, naive_loss


def test_logits_without_an_image_are_those_of_the_stock_llm():
    palm = make('llama', 'qp_inner', n_prompt=0)
    _, ids, _, _ = inputs()
    assert_close(naive_logits(palm, None, ids), palm.llm(ids).logits)


def test_the_loss_is_the_stock_llms_where_there_is_no_image():
    palm = make('llama', 'qp_inner', n_prompt=0)
    _, ids, labels, _ = inputs()
    expected = palm.llm(ids, labels=labels).loss
    assert_close(naive_loss(palm, None, ids, labels), expected)


@pytest.mark.parametrize('num_beams', [1, 3])
def test_texts_are_those_of_the_stock_llm_where_cross_attention_is_closed(num_beams):
    palm = make('llama', 'c_attn', n_prompt=0)
    with torch.no_grad():
        for cross in palm.adapter.cross_attentions:
            cross.gate.zero_()
    features, ids, _, _ = inputs(T=4)
    texts = palm.llm.generate(
        ids, num_beams=num_beams, max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    expected = texts[:, ids.shape[1] :]
    assert naive_generate(palm, features, ids, 5, num_beams).tolist() == expected.tolist()
