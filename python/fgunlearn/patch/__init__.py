"""Forget patches: what an unlearning changed in a checkpoint, as a small file to ship, to check and to take back.

Works on safetensors files where they lie, without torch. ``docs/patch-format.md`` describes the file.
"""

from fgunlearn.patch.applying import apply, revert
from fgunlearn.patch.creating import create
from fgunlearn.patch.format import Patch, TensorChange
from fgunlearn.patch.format import read_patch as inspect
from fgunlearn.patch.in_place import recover

__all__ = ["Patch", "TensorChange", "apply", "create", "inspect", "recover", "revert"]
