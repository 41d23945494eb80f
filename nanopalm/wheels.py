"""
Make torchvision and torchaudio importable on a CPU-only torch.

Where a package index serves a CPU build of torch but the CUDA builds of torchvision and torchaudio,
neither of the two imports: their compiled halves want libraries that are not there. It takes timm and
transformers down as well, although nanoPALM and they use only the Python halves (transforms, fbank).
So: where an import fails, stand in for the compiled half, and import again. Where the wheels import,
as on any ordinary machine, this does nothing. `import nanopalm.wheels` comes first in every script.

What is really compiled stays away: torchvision.ops.nms, torchvision.io, torchaudio.load.
"""
import sys

import torch

# torchvision registers a fake nms for torch.compile, so torch must at least know the operator's name
OPS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
       "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def import_torchvision():
    try:
        import torchvision
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for op in OPS:
            library.define(op)
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind
        import torchvision
        torchvision.nms_library = library  # the operators live as long as this object


def import_torchaudio():
    try:
        import torchaudio  # noqa: F401
    except OSError:  # "Could not load this library: .../_torchaudio.abi3.so"
        # this module of torchaudio outlives the failed import, so what is set on it holds for the next one
        sys.modules["torchaudio._extension.utils"]._load_lib = lambda name: False  # "there is no such library"
        import torchaudio  # noqa: F401


for import_wheel in (import_torchvision, import_torchaudio):
    try:
        import_wheel()
    except ModuleNotFoundError:  # not installed: fine until somebody needs it
        pass
