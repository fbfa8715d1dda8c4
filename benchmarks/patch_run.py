"""Forget patches of a large checkpoint: seconds and peak memory of create, apply and revert beside reading the file.

``python -m fgunlearn.benchmarks.patch_run --gib 4 --folder FOLDER --json patch.json`` generates a checkpoint of float32
tensors in shapes of a transformer and another one with a share of its values changed, and runs each command in a
process of its own, without torch, under Linux. Files are in the page cache but for the runs that are called cold:
before those the system is asked to forget them, as far as that is allowed (to root). "Reading" is reading the base once
into a small buffer; so many times its time each command may take at most.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 2048
PIECE = 4 << 20
LIMIT_TIMES, LIMIT_MEMORY, LIMIT_BYTES = 1.5, 200 * 10**6, 12
WAYS = ("read", "create", "apply", "revert", "apply in place", "revert in place")


def shapes(values: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a transformer with about so many values: embedding, then blocks of attention and a wider layer."""
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (min(32_000, values // (4 * WIDTH)), WIDTH)}
    left = values - found["embedding.weight"][0] * WIDTH
    block = 0
    while left > 0:
        for name, rows in (("attention.in", 3), ("attention.out", 1), ("mlp.up", 4), ("mlp.down", 4), ("norm", 0)):
            shape = (rows * WIDTH, WIDTH) if rows else (WIDTH,)
            found[f"blocks.{block}.{name}.weight"] = shape
            left -= int(np.prod(shape))
        block += 1
    return found


def generate(folder: Path, values: int, share: float, seed: int = 0) -> int:
    """Writes base.safetensors and new.safetensors, piece by piece; how many values differ."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes(values).items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    changed = 0
    with (folder / "base.safetensors").open("wb") as base, (folder / "new.safetensors").open("wb") as new:
        for file in (base, new):
            file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, offset, PIECE):
            held = random.standard_normal(min(PIECE, offset - begin) // 4, np.float32)
            base.write(held.data)
            places = np.flatnonzero(random.random(len(held), np.float32) < share)
            held[places] += 1
            changed += len(places)
            new.write(held.data)
        for file in (base, new):
            file.flush()
            os.fsync(file.fileno())
    return changed


def read(path: Path) -> None:
    """Reads a file once."""
    buffer = bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def one(way: str, folder: Path) -> dict[str, Any]:
    """One command in this process: its seconds, and the most memory that the process has had."""
    from fgunlearn import patch

    base, new, file, out = (folder / name for name in ("base.safetensors", "new.safetensors", "patch", "out"))
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: read(base),
        "create": lambda: patch.create(base, new, file),
        "apply": lambda: patch.apply(base, file, out),
        "revert": lambda: patch.revert(new, file, out),
        "apply in place": lambda: patch.apply(base, file, in_place=True),
        "revert in place": lambda: patch.revert(base, file, in_place=True),
    }
    start = time.perf_counter()
    calls[way]()
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return {"seconds": seconds, "peak": peak, "torch": "torch" in sys.modules}


def in_a_process(way: str, folder: Path) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, "-m", "fgunlearn.benchmarks.patch_run", "--folder", str(folder), "--one", way]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


@contextlib.contextmanager
def same(path: Path) -> Iterator[None]:
    """A file is after the block what it was before.

    Raises:
        RuntimeError: it is not.
    """
    before = digest(path)
    yield
    if digest(path) != before:
        raise RuntimeError(f"{path} has changed")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while data := file.read(PIECE):
            found.update(data)
    return found.hexdigest()


def forget_cache() -> bool:
    """Has the system drop what it holds of files; whether it may be asked to."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All figures, ready for JSON."""
    from fgunlearn import machine

    folder = given.folder
    changed = generate(folder, int(given.gib * 2**30) // 4, given.share)
    base, new = folder / "base.safetensors", folder / "new.safetensors"
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    cold: dict[str, dict[str, Any]] = {}
    with same(base), same(new):
        for cache in ("cold", *("warm",) * given.repeats):
            for way in WAYS:
                if cache == "cold" and not forget_cache():
                    continue
                took = in_a_process(way, folder)
                if cache == "cold":
                    cold[way] = took
                else:
                    found[way].append(took)
                if way in ("apply", "revert"):
                    expected = new if way == "apply" else base
                    if not given.unchecked and digest(folder / "out") != digest(expected):
                        raise RuntimeError(f"{way} does not give {expected}")
                    (folder / "out").unlink()
                if way == "apply in place" and not given.unchecked and digest(base) != digest(new):
                    raise RuntimeError(f"{way} does not give {new}")
    size, patch_size = base.stat().st_size, (folder / "patch").stat().st_size
    runs = []
    for way in WAYS:
        seconds = [took["seconds"] for took in found[way]]
        runs.append(
            {
                "way": way,
                "seconds": statistics.median(seconds),
                "least": min(seconds),
                "most": max(seconds),
                "peak": max(took["peak"] for took in found[way]),
                "cold_seconds": cold[way]["seconds"] if way in cold else None,
                "torch": any(took["torch"] for took in found[way]),
            }
        )
    return {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "bytes": size,
        "tensors": len(shapes(int(given.gib * 2**30) // 4)),
        "changed": changed,
        "share": given.share,
        "patch_bytes": patch_size,
        "bytes_per_change": patch_size / changed,
        "repeats": given.repeats,
        "limits": {"times_reading": LIMIT_TIMES, "memory": LIMIT_MEMORY, "bytes_per_change": LIMIT_BYTES},
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder with room for three checkpoints")
    parser.add_argument("--gib", type=float, default=4.0, help="of the checkpoint")
    parser.add_argument("--share", type=float, default=0.001, help="of the values that change")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--unchecked", action="store_true", help="don't hash what comes out to see that it is right")
    parser.add_argument("--json", type=Path, help="where to write it; printed if not given")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(one(given.one, given.folder)))
        return
    text = json.dumps(measured(given), indent=1) + "\n"
    if given.json is None:
        print(text, end="")
    else:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
