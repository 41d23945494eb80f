"""
What runs on a GPU, as if there were one (tests/pretend_gpu.py).
"""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, flags

PRETEND = [sys.executable, 'tests/pretend_gpu.py']


@pytest.fixture(scope='module')
def on_gpu():
    """on_gpu(script, name=value, ...) runs a script and returns what it printed."""

    def on_gpu(script, **hyperparameters):
        command = [*PRETEND, script, *flags(**hyperparameters | dict(device='cuda'))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return on_gpu


@pytest.fixture(scope='module')
def paths(llm, encoder, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp('gpu')
    return dict(
        llm=llm,
        encoder=encoder,
        dataset=pictures,
        cache_dir=folder / 'cache',
        out_dir=folder / 'out',
    )


def test_mixing_devices_is_noticed():
    """What must fail on a GPU fails here, too."""
    mistakes = {
        'x + torch.ones(2)': 'tensors on the GPU and on the CPU',
        'torch.ones(2)[x.long()]': 'tensors on the GPU and on the CPU',
        'x.numpy()': 'copy it to the CPU first',
        "torch.cuda.set_device('cuda')": 'specified index',
    }
    fine = [
        'x + 1',
        'x + torch.tensor(1)',
        'x[torch.tensor([0])]',
        'x.cpu() + torch.ones(2)',
        'x + torch.ones(2, device=x.device)',
        "torch.cuda.set_device('cuda:0')",
    ]
    script = f"""
import torch
x = torch.zeros(2, device='cuda')
assert str(x.device) == 'cuda:0' and str((x + 1).device) == 'cuda:0'
for expression in {fine}:
    eval(expression)
for expression, words in {mistakes}.items():
    try:
        eval(expression)
    except (RuntimeError, TypeError, ValueError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(expression)
"""
    code = (
        'import pretend_gpu, sys; pretend_gpu.pretend()\n'
        'with pretend_gpu.DevicesAreNamed(): exec(sys.argv[1])'
    )
    subprocess.run([sys.executable, '-c', code, script], cwd=ROOT / 'tests', check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'mechanism',
    [
        dict(connector='linear', dtype='float16', cache_features=True),
        dict(connector='r_linear', bottleneck='parallel', muon_rate=0.05, accumulate=2),
        dict(connector='qpmapper', n_targets=2, last_target=-1, token_bias=True, keep_to_end=False),
        dict(connector='r_rand', dtype='bfloat16', checkpoint_layers=True),
        dict(connector='c_attn', n_targets=2, last_target=-1, texts_per_input=2),
        dict(encoder=None),
    ],
    ids=str,
)
def test_a_mechanism_is_trained(on_gpu, paths, mechanism, tmp_path):
    printed = on_gpu('train.py', **TINY | paths | mechanism | dict(out_dir=tmp_path))
    assert 'trained: best validation loss' in printed
    # what is saved can be read without a GPU
    state = torch.load(tmp_path / 'resume.pt', weights_only=True)
    assert all(tensor.device.type == 'cpu' for tensor in state['trained'].values())


@pytest.mark.slow
def test_a_run_is_resumed_evaluated_and_asked(on_gpu, paths, pictures):
    options = TINY | paths | dict(connector='linear', dtype='float16', eval_metric='CIDEr')
    on_gpu('train.py', **options | dict(max_iters=2))
    assert 'resuming' in on_gpu('train.py', **options | dict(init_from='resume'))
    out_dir = paths['out_dir']
    assert 'CIDEr' in on_gpu('eval_caption.py', out_dir=out_dir, max_new_tokens=3)
    image = pictures / 'images/0.png'
    show = out_dir / 'attention.png'
    on_gpu('sample.py', out_dir=out_dir, input=image, max_new_tokens=3, show=show)
    assert show.exists()


@pytest.mark.slow
def test_the_benchmark_runs(on_gpu):
    options = dict(preset='tiny', dtype='float32', repeats=1)
    printed = on_gpu('tools/bench.py', mechanisms='limber_all,c_attn', **options)
    assert '| limber_all |' in printed and '| c_attn |' in printed
    assert 'text pass' in on_gpu('tools/bench.py', mechanisms='epalm', profile=True, **options)
