"""What a figure needs beside it: the machine it was measured on."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from fgunlearn import ops


def describe(device: torch.device | None = None) -> dict[str, Any]:
    """Processor, cores, memory, instruction set, versions, and what a CUDA device is and its driver, ready for JSON."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "simd": ops.BUILD_INFO["simd"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fgunlearn": ops.BUILD_INFO["version"],
        **(_gpu(device) if device is not None and device.type == "cuda" else {}),
    }


@functools.cache
def code_digest() -> str:
    """Hexadecimal SHA-256 of this package's version and Python source, which results are a function of as well."""
    digest = hashlib.sha256(ops.BUILD_INFO["version"].encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    """The driver's version, None where nothing tells it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is not None:
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip():
            return told.stdout.split()[0]
    module = Path("/sys/module/nvidia/version")
    return module.read_text().strip() if module.exists() else None
