"""
nanopalm/parallel.py: recomputed activations, several processes, an LLM shared among them.
"""

import pytest
from conftest import flags
from tiny_models import every_mechanism, inputs, make
from tiny_runs import checkpoint, facts, metrics, torchrun

from nanopalm.parallel import checkpoint_activations, sum_over_processes

# ---- recomputed activations ----------------------------------------------------------------------


@pytest.mark.parametrize('G', [1, 3])
@every_mechanism
def test_activations_computed_again_give_the_same_gradients(llm, mechanism, G):
    """With one text for each image, a few visual tokens go in its own pass."""
    features, ids, labels, _ = inputs(G=G)
    kept = gradients(make(llm, mechanism), features, ids, labels)
    palm = make(llm, mechanism)
    for layer in palm.decoder.layers:
        checkpoint_activations(layer)
    again = gradients(palm, features, ids, labels, recomputes=True)
    assert set(kept) == set(again)
    assert any(name.startswith('adapter.') for name in kept)
    largest = max(g.abs().max() for g in kept.values())
    for name, gradient in kept.items():
        assert (again[name] - gradient).abs().max() <= 1e-5 * largest, name


def gradients(palm, features, ids, labels, recomputes=False):
    """Returns {name: gradient}, and checks that layers run again in the backward pass if they
    should."""
    runs = []

    def count_run(*args):
        runs.append(1)

    for layer in palm.decoder.layers:
        feed_forward = layer.mlp if hasattr(layer, 'mlp') else layer.fc1
        feed_forward.register_forward_pre_hook(count_run)
    loss = palm(ids, labels, features=features)
    n_forward = len(runs)
    loss.backward()
    assert (len(runs) > n_forward) == recomputes
    return {name: p.grad for name, p in palm.trained().items() if p.grad is not None}


# ---- several processes ---------------------------------------------------------------------------

SHARDED = dict(
    shard_llm=True,
    checkpoint_layers=True,
    n_targets=2,
    target_stride=2,
    last_target=-1,
    keep_to_end=False,
    llm_norm_tuning=True,
    group_lengths=True,
)


@pytest.mark.slow
@pytest.mark.parametrize('n, more', [(2, dict()), (4, SHARDED)], ids=['2', '4, sharded'])
def test_several_processes_train_as_one(n, more, run, tiny, tmp_path):
    """The same global batches, texts of different length, and a cache that one process writes;
    then also the LLM's weights shared among them."""
    tiny |= dict(
        mapper_dropout=0.0,
        accumulate=2,
        texts_per_input=2,
        cache_features=True,
        max_iters=6,
        eval_rows=max(3, n),
    )
    tiny |= more
    one = tmp_path / 'one'
    several = tmp_path / 'several'
    run('train.py', *flags(**tiny | dict(out_dir=one, shard_llm=False, checkpoint_layers=False)))
    text = torchrun(n, **tiny | dict(out_dir=several, cache_dir=tmp_path / 'cache of several'))
    assert text.count('config: ') == 1
    assert f'{n} x cpu' in text
    for key in ('loss', 'val_loss'):
        assert metrics(several, key) == approximately(metrics(one, key))
    tensors, _ = checkpoint(several)
    expected, _ = checkpoint(one)
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        difference = (tensors[name] - tensor).abs().max()
        assert difference <= 1e-5 * max(1, tensor.abs().max()), name


def approximately(points):
    """Returns [(step, value), ...] that are equal to the same steps with values 1e-5 from these."""
    return [(step, pytest.approx(value, rel=1e-5)) for step, value in points]


@pytest.mark.slow
def test_several_processes_generate_the_texts_to_score_together(run, tiny, tmp_path):
    """Each generates for its share of the examples, here for 2 and for 1."""
    tiny |= dict(
        max_iters=20,
        eval_interval=10,
        learning_rate=2e-2,
        connector='linear',
        n_samples=0,
        mapper_dropout=0.0,
        eval_metric='CIDEr',
        eval_metric_rows=3,
    )
    one = tmp_path / 'one'
    two = tmp_path / 'two'
    run('train.py', *flags(**tiny | dict(out_dir=one)))
    torchrun(2, **tiny | dict(out_dir=two))
    scores = dict(metrics(two, 'CIDEr'))
    assert list(scores) == [0, 10, 20]
    assert scores == pytest.approx(dict(metrics(one, 'CIDEr')))
    assert facts(two)['iter'] == facts(one)['iter']


def test_the_sum_over_one_process_is_the_number_itself():
    assert sum_over_processes(3.5, world=1, device='cpu').item() == 3.5
