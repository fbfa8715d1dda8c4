"""What a forget patch says of the change it makes, as records take it."""

from __future__ import annotations

import importlib
import os
from typing import Any


def patch_hashes(patch_file: str | os.PathLike[str]) -> dict[str, Any]:
    """The hashes and counts of a forget patch, after it was checked; without torch.

    Returns:
        "base" and "result", the hash of every tensor by name; "changed", the number of changed values of those with
        any; "sha256", of the patch; "metadata", what its maker wrote. For :func:`fgunlearn.audit.of_patch` and
        :class:`fgunlearn.audit.Evidence`.

    Raises:
        OSError: it can't be read.
        ValueError: it is no patch, or damaged.
    """
    found = importlib.import_module("fgunlearn.patch").inspect(patch_file)
    about = {tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for tensor in found.tensors}
    return {
        "base": {tensor.name: {**about[tensor.name], "sha256": tensor.base_sha256} for tensor in found.tensors},
        "result": {tensor.name: {**about[tensor.name], "sha256": tensor.result_sha256} for tensor in found.tensors},
        "changed": {tensor.name: tensor.changed for tensor in found.tensors if tensor.changed},
        "sha256": found.sha256,
        "metadata": found.metadata,
    }
