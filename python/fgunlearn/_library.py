"""Loads the compiled libraries, and says why when it can't."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

OLDEST_TORCH = (2, 11)

_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."


def host() -> ModuleType:
    """The compiled module without tensors, ``fgunlearn._host``. Needs no torch.

    Raises:
        ImportError: it is missing; the message says what to do.
    """
    try:
        from fgunlearn import _host
    except ImportError as error:
        raise ImportError(
            f"fgunlearn's compiled module fgunlearn._host can't be imported ({error}). If you are in the source tree, "
            f"build it with: {_REBUILD}"
        ) from error
    return _host


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise ImportError(f"fgunlearn: cannot read torch's version {version!r}")
    return int(found[1]), int(found[2])


def load() -> dict[str, Any]:
    """Loads ``libfgunlearn`` into torch and returns what ``fgunlearn.build_info`` reports.

    ``libfgunlearn_cuda`` follows where it was built and torch has CUDA. A failure to load it is no reason to do without
    the CPU: it is reported as "cuda_error".

    Raises:
        ImportError: torch is older than 2.11, the compiled part is missing, or it can't be loaded; the message says
            which, and what to do.
    """
    import torch

    if _numbers(torch.__version__) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(
            f"fgunlearn needs torch >= {oldest}, but torch {torch.__version__} is installed. "
            f"Run: pip install 'torch>={oldest}'"
        )
    _host = host()
    # Beside _host, not beside this file: an editable install keeps the two apart.
    path = Path(str(_host.__file__)).parent / "libfgunlearn.so"
    if not path.exists():
        raise ImportError(f"fgunlearn's library {path} is missing. Reinstall it: {_REBUILD}")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        cause = error.__cause__ or error
        raise ImportError(
            f"fgunlearn's library {path} can't be loaded into torch {torch.__version__}: {cause}. It was built with "
            f"torch {_host.build_info()['torch_build']}; if a symbol is missing, rebuild it: {_REBUILD}"
        ) from error
    cuda_library, cuda_error = _load_cuda(path.with_name("libfgunlearn_cuda.so"))
    return {
        **_host.build_info(),
        "simd": _host.simd(),
        "torch": torch.__version__,
        "library": str(path),
        "cuda_library": cuda_library,
        "cuda_error": cuda_error,
    }


def _load_cuda(path: Path) -> tuple[str | None, str | None]:
    """The path if it was loaded, and why it was not where it is there."""
    import torch

    if not path.exists():
        return None, None
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} has no CUDA"
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return None, f"{path} can't be loaded into torch {torch.__version__}: {error.__cause__ or error}"
    return str(path), None
