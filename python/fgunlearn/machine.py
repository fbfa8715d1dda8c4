"""What a figure needs beside it: the machine it was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from fgunlearn import ops


def describe() -> dict[str, Any]:
    """Processor, cores, memory, instruction set in use, and versions, ready for JSON."""
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
    }
