"""Builds ``cub_topk.cu`` with nvcc and calls it through ctypes, on torch's memory and current stream."""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fgunlearn.benchmarks.inputs import normal
from fgunlearn.benchmarks.timing import Report

HEADER = Path("cub", "device", "device_topk.cuh")
SOURCE = Path(__file__).with_name("cub_topk.cu")


class CubTopK:
    """The function of a built library."""

    def __init__(self, library: Path) -> None:
        self._function = ctypes.CDLL(str(library)).fgunlearn_cub_topk
        self._function.restype = ctypes.c_int
        pointer = ctypes.c_void_p
        self._function.argtypes = [
            *(pointer, ctypes.c_uint32, ctypes.c_uint32, pointer, pointer, ctypes.c_int),
            *(pointer, ctypes.POINTER(ctypes.c_size_t), pointer),
        ]

    def top_k(self, keys: Tensor, k: int, *, magnitudes: bool) -> tuple[Tensor, Tensor]:
        """The k largest |keys|, or keys, and their positions, in no particular order; memory from torch's allocator."""
        values = torch.empty(k, dtype=torch.float32, device=keys.device)
        index = torch.empty(k, dtype=torch.int32, device=keys.device)
        bytes_needed = ctypes.c_size_t(0)
        stream = torch.cuda.current_stream(keys.device).cuda_stream

        def call(workspace: int | None) -> None:
            status = self._function(
                *(keys.data_ptr(), keys.numel(), k, values.data_ptr(), index.data_ptr(), int(magnitudes)),
                *(workspace, ctypes.byref(bytes_needed), stream),
            )
            if status != 0:
                raise RuntimeError(f"cub::DeviceTopK returned CUDA error {status}")

        call(None)
        workspace = torch.empty(bytes_needed.value, dtype=torch.uint8, device=keys.device)
        call(workspace.data_ptr())
        return values, index


def headers(given: Path | None = None) -> Path | None:
    """The include directory that holds ``cub::DeviceTopK``: the one given, or the package nvidia-cuda-cccl's."""
    if given is not None:
        return given if (given / HEADER).exists() else None
    try:
        files = importlib.metadata.files("nvidia-cuda-cccl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.parts[-3:] == HEADER.parts]
    return found[0].parents[2] if found else None


def command(include: Path, architecture: str, library: Path) -> list[str]:
    """nvcc's command line; ``-I`` puts the headers before those of nvcc's own toolkit."""
    return [
        *("nvcc", "-shared", "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xcompiler=-fPIC,-fvisibility=hidden"),
        *(f"-I{include}", str(SOURCE), "-o", str(library)),
    ]


def load(report: Report) -> CubTopK | None:
    """The peer, built and found to be right; None, with the reason in the report, where it can't be had."""
    try:
        return _load(report)
    except (RuntimeError, OSError) as error:
        report.left_out.append(f"cub::DeviceTopK: {error}")
        return None


def _load(report: Report) -> CubTopK:
    if not report.on_cuda:
        raise RuntimeError("a CUDA device is needed")
    include = headers(report.cub_include)
    if include is None:
        where = report.cub_include or "the package nvidia-cuda-cccl >= 13.2 (give --cub-include, or pip install it)"
        raise RuntimeError(f"there is no {HEADER} in {where}")
    if shutil.which("nvcc") is None:
        raise RuntimeError("there is no nvcc on the PATH")
    major, minor = torch.cuda.get_device_capability(report.device)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libfgunlearn_cub_topk.so"
        built = subprocess.run(
            command(include, f"{major}{minor}", library), capture_output=True, text=True, check=False
        )
        if built.returncode != 0:
            raise RuntimeError(f"nvcc failed: {_first_error(built.stderr)}")
        peer = CubTopK(library)
    _check(peer, report.device)
    return peer


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    return lines[0] if lines else "without a word"


def _check(peer: CubTopK, device: str) -> None:
    x = normal(100_003, device, seed=7)
    k = 1_000
    for magnitudes, keys in ((True, x), (False, x.abs())):
        values, index = peer.top_k(keys, k, magnitudes=magnitudes)
        expected = torch.topk(x.abs(), k).values
        if not (values.sort(descending=True).values.equal(expected) and x.abs()[index.long()].equal(values)):
            raise RuntimeError("its results differ from torch.topk's")
