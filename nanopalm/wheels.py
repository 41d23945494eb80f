"""
Make torchvision and torchaudio importable on a CPU-only torch.

Some package indexes serve a CPU build of torch, but CUDA builds of torchvision and torchaudio.
Neither of the two can then be imported, because their compiled halves need libraries that are
missing, and timm and transformers fail with them, although nanoPALM and they use only the Python
halves (transforms, fbank). So where an import fails, this module replaces the compiled half by an
empty one and imports again. On an ordinary machine, where both imports succeed, it does nothing.
Every module that needs one of the two has `import nanopalm.wheels` before its other imports.

What is compiled stays unavailable: torchvision.ops.nms, torchvision.io, torchaudio.load.
"""

import sys

import torch

# torchvision registers a fake nms for torch.compile, so torch must know the operators' names
OPERATORS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)


def import_torchvision():
    try:
        import torchvision
    except RuntimeError as error:
        # "operator torchvision::nms does not exist"
        if 'torchvision::nms' not in str(error):
            raise
        library = torch.library.Library('torchvision', 'DEF')
        for operator in OPERATORS:
            library.define(operator)
        # the failed import left some of its modules behind
        for name in list(sys.modules):
            if name.split('.')[0] == 'torchvision':
                del sys.modules[name]
        import torchvision

        # the operators live as long as this object
        torchvision.nms_library = library


def import_torchaudio():
    try:
        import torchaudio  # noqa: F401
    except OSError:
        # "Could not load this library: .../_torchaudio.abi3.so". torchaudio's module of utilities
        # survives the failed import, so the second one uses this function: "no such library"
        sys.modules['torchaudio._extension.utils']._load_lib = library_is_missing
        import torchaudio  # noqa: F401


def library_is_missing(name):
    return False


for import_wheel in (import_torchvision, import_torchaudio):
    try:
        import_wheel()
    except ModuleNotFoundError:
        # a package that is not installed is no problem until somebody needs it
        pass
