"""
Runs a script as if this machine had a GPU:

    python tests/pretend_gpu.py train.py --device=cuda ...

A tensor that is moved to the GPU is computed with on the CPU, and says that it is elsewhere. So
what a script gets wrong about devices fails as it would on a GPU: tensors of the GPU and of the CPU
in one operation, NumPy of a tensor on the GPU, a device that torch.cuda does not take. How fast
anything is, and what only CUDA has, such as graphs, it cannot tell.
"""

import runpy
import sys
import time
from types import SimpleNamespace

import torch
import torch.amp.grad_scaler
from torch.cuda._utils import _get_device_index
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
# an index may lie on the CPU
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


# ---- tensors -------------------------------------------------------------------------------------


class OnGPU(torch.Tensor):
    """A tensor that says that it is on the GPU; `content` is the tensor on the CPU."""

    @staticmethod
    def __new__(cls, content):
        # for torch's own code it is on the CPU, since CUDA is not there
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            dtype=content.dtype,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            device='cpu',
        )
        tensor.content = content
        return tensor

    @property
    def device(self):
        return torch.device('cuda:0')

    @property
    def is_cuda(self):
        return True

    def tolist(self):
        return self.content.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor on the GPU to NumPy: copy it to the CPU first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def compute(function, args, kwargs):
    """Returns what an operation gives on the GPU. Raises RuntimeError where a tensor of the CPU
    takes part, other than a number."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on_cpu = [x for x in tensors if not isinstance(x, OnGPU) and x.ndim > 0]
    is_index = function in INDEXING and isinstance(args[0], OnGPU)
    if on_cpu and not is_index and function is not aten.copy_.default:
        shapes = [f'{type(x).__name__}{tuple(x.shape)}' for x in tensors]
        raise RuntimeError(f'{function}: tensors on the GPU and on the CPU: {", ".join(shapes)}')
    output = function(*tree_map(content_of, args), **tree_map(content_of, kwargs))
    # an operation in place returns the tensor that it was given
    known = {id(x.content): x for x in tensors if isinstance(x, OnGPU)}

    def wrap(x):
        if not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else OnGPU(x)

    return args[0] if function is aten.copy_.default else tree_map(wrap, output)


def content_of(x):
    return x.content if isinstance(x, OnGPU) else x


class Move(torch.autograd.Function):
    """From the CPU to the GPU or back."""

    @staticmethod
    def forward(ctx, x, to_gpu):
        ctx.to_gpu = to_gpu
        return OnGPU(x.detach()) if to_gpu else x.content.detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.content if ctx.to_gpu else OnGPU(gradient), None


def move(x, to_gpu):
    if isinstance(x, OnGPU) == to_gpu:
        return x
    if torch.is_grad_enabled() and x.requires_grad:
        return Move.apply(x, to_gpu)
    return OnGPU(x.detach()) if to_gpu else x.content.detach()


# ---- functions that are told a device ------------------------------------------------------------


class DevicesAreNamed(TorchFunctionMode):
    """While it is on, device='cuda' makes or moves a tensor OnGPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.cpu:
            return move(args[0], False)
        if function is torch.Tensor.cuda:
            return move(args[0], True)
        if function is torch.Tensor.to:
            return to(*args, **kwargs)
        if function is torch.Tensor.pin_memory:
            return args[0]
        if kwargs.get('device') is None or function is torch.device:
            return function(*args, **kwargs)
        to_gpu = is_gpu(kwargs['device'])
        output = function(*args, **kwargs | dict(device='cpu'))
        return move(output, to_gpu) if isinstance(output, torch.Tensor) else output


def is_gpu(device):
    return torch.device(device).type == 'cuda'


def to(x, *args, device=None, dtype=None, **options):
    """torch.Tensor.to, whose arguments are a device, a dtype, both, or another tensor."""
    for argument in args:
        if isinstance(argument, (str, torch.device)):
            device = argument
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, torch.Tensor):
            device, dtype = argument.device, argument.dtype
    if dtype is not None:
        with torch._C.DisableTorchFunction():
            x = torch.Tensor.to(x, dtype)
    return x if device is None else move(x, is_gpu(device))


# ---- torch.cuda ----------------------------------------------------------------------------------


class Event:
    """A moment on the GPU, which is done as soon as it is recorded."""

    def __init__(self, **options):
        self.seconds = 0.0

    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1e3 * (later.seconds - self.seconds)


def pretend():
    """From here on there is one GPU."""
    cuda = dict(
        is_available=True,
        is_initialized=True,
        is_bf16_supported=True,
        device_count=1,
        current_device=0,
        get_device_name='NVIDIA H200',
        get_device_capability=(9, 0),
        get_device_properties=SimpleNamespace(total_memory=141e9, name='NVIDIA H200'),
        get_rng_state=torch.zeros(1),
        max_memory_allocated=0,
        memory_allocated=0,
    )
    cuda |= dict.fromkeys(
        ['_lazy_init', 'synchronize', 'manual_seed', 'manual_seed_all', 'set_rng_state']
        + ['reset_peak_memory_stats', 'empty_cache']
    )
    for name, value in cuda.items():
        setattr(torch.cuda, name, lambda *args, value=value, **kwargs: value)
    # as strict as it is
    torch.cuda.set_device = lambda device: _get_device_index(device)
    torch.cuda.Event = Event
    torch.amp.grad_scaler.amp_definitely_not_available = lambda: False

    class Autocast(torch.autocast):
        def __init__(self, device_type, *args, **kwargs):
            super().__init__('cpu' if device_type == 'cuda' else device_type, *args, **kwargs)

    torch.autocast = torch.amp.autocast = Autocast
    load = torch.load
    save = torch.save

    def load_to(path, map_location=None, **kwargs):
        state = load(path, map_location='cpu', **kwargs)
        if map_location is None or not is_gpu(map_location):
            return state
        return tree_map(lambda x: OnGPU(x) if isinstance(x, torch.Tensor) else x, state)

    torch.load = load_to
    torch.save = lambda state, *args: save(tree_map(content_of, state), *args)
    # a module's parameters are replaced, not filled with what is on the GPU
    torch.__future__.set_overwrite_module_params_on_conversion(True)


if __name__ == '__main__':
    pretend()
    del sys.argv[0]
    sys.path.insert(0, '.')
    with DevicesAreNamed():
        runpy.run_path(sys.argv[0], run_name='__main__')
