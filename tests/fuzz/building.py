"""Builds the patcher with AddressSanitizer and UBSan, and says how to run Python with it."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LARGEST_ALLOCATION = 64  # MiB: the largest file here has a few kB


def compiler() -> str | None:
    """A C++ compiler with both sanitizers' libraries, or None."""
    found = shutil.which(os.environ.get("CXX", "c++"))
    if found is None or not all(_library(found, name) for name in ("libasan.so", "libubsan.so")):
        return None
    return found


def build(folder: Path) -> Path:
    """The sanitized module, in a folder."""
    import pybind11

    found = compiler()
    assert found is not None
    module = folder / f"_host{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = (ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include"))
    sources = sorted(path for path in (ROOT / "csrc" / "host").glob("*.cpp") if path.name != "module.cpp")
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-omit-frame-pointer"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        [
            *(found, *flags, *sanitizers, *(f"-I{path}" for path in includes)),
            *(*map(str, sources), str(Path(__file__).with_name("sanitized.cpp")), "-o", str(module)),
        ],
        check=True,
    )
    return module


def environment() -> dict[str, str]:
    """What Python needs to load it: the sanitizers first, and every bytes object in a block of its own."""
    found = compiler()
    assert found is not None
    options = f"detect_leaks=0:max_allocation_size_mb={LARGEST_ALLOCATION}:allocator_may_return_null=0:abort_on_error=1"
    return {
        **os.environ,
        "LD_PRELOAD": f"{_library(found, 'libasan.so')} {_library(found, 'libubsan.so')}",
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def run(module: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """The fuzzer in a process of its own."""
    script = Path(__file__).with_name("patch_fuzzer.py")
    return subprocess.run(
        [python, "-B", str(script), str(module), *arguments], env=environment(), capture_output=True, text=True
    )


def _library(found: str, name: str) -> str | None:
    path = subprocess.run([found, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return os.path.realpath(path) if os.path.sep in path else None


def main(files: int, seed: int, path: Path) -> None:
    """A long run, whose outcome is written as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        done = run(build(Path(folder)), "--files", str(files), "--seed", str(seed))
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\nseed {seed}: the files are in patch-fuzz-failure")
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = {"date": datetime.date.today().isoformat(), "commit": asked.stdout.strip() or None, "seed": seed}
    found["largest_allocation_mib"] = LARGEST_ALLOCATION
    path.write_text(json.dumps({**found, **json.loads(done.stdout)}, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
