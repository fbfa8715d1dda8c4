"""Writes the patch format's test vector into docs/patch-format.md and measured times into docs/deploying.md.

Run it after ``python -m fgunlearn.benchmarks.patch_run --json docs/results/patch-4gib.json`` (and its other options)
or ``scripts/fuzz_patch.sh`` has written new results that are to be committed. A test compares the pages with what this
script would write.
"""

from __future__ import annotations

import functools
import json
import struct
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn import patch

ROOT = Path(__file__).parent.parent
FORMAT = ROOT / "docs" / "patch-format.md"
DEPLOYING = ROOT / "docs" / "deploying.md"
RESULTS = ROOT / "docs" / "results" / "patch-4gib.json"
FUZZ = ROOT / "docs" / "results" / "patch-fuzz.json"


def checkpoint(weight: dict[int, float], bias: dict[int, bytes]) -> bytes:
    """The safetensors file of the test vector, zeros but for these values."""
    text = json.dumps(
        {
            "bias": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
            "weight": {"dtype": "F32", "shape": [2, 70], "data_offsets": [4, 564]},
        }
    ).encode()
    biases = b"".join(bias.get(i, bytes(2)) for i in range(2))
    weights = struct.pack("<140f", *(weight.get(i, 0.0) for i in range(140)))
    return len(text).to_bytes(8, "little") + text + biases + weights


BASE = checkpoint({}, {})
RESULT = checkpoint({3: -0.5, 139: 2.0}, {1: b"\x80\x3f"})


@functools.cache
def vector() -> bytes:
    """The patch between them."""
    with tempfile.TemporaryDirectory() as folder:
        base, result, made = (Path(folder, name) for name in ("base.safetensors", "result.safetensors", "patch"))
        base.write_bytes(BASE)
        result.write_bytes(RESULT)
        patch.create(base, result, made, metadata={"strategy": "topk"})
        return made.read_bytes()


def vector_text() -> str:
    """Its digest and its bytes."""
    held = vector()
    return f"`{held[35:99].decode()}`:\n\n```\n{textwrap.fill(held.hex(), 120)}\n```"


@functools.cache
def results() -> dict[str, Any]:
    """The committed measurement."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def times() -> str:
    """Each command beside reading the file once."""
    found = results()
    runs = {run["way"]: run for run in found["runs"]}
    reading, limits, there = runs["read"], found["limits"], found["machine"]
    lines = [
        textwrap.fill(
            f"{there['processor']}, {there['cores']} cores; {found['bytes'] / 1e9:.1f} GB of float32 in "
            f"{found['tensors']} tensors, {found['changed']} values changed ({found['share']:.1%}); medians of "
            f"{found['repeats']}, files in the page cache, beside them one run each with a cold one; {found['date']}. "
            f"The patch has {found['bytes_per_change']:.1f} bytes for each change (limit "
            f"{limits['bytes_per_change']}: {_met(found['bytes_per_change'] < limits['bytes_per_change'])}).",
            120,
        ),
        "",
        "| command | seconds | times reading | cold, s | times reading | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way, run in runs.items():
        cold = run["cold_seconds"]
        cells = [f"{run['seconds']:.2f}", f"{run['seconds'] / reading['seconds']:.1f}"]
        cells += ["", ""] if cold is None else [f"{cold:.1f}", f"{cold / reading['cold_seconds']:.1f}"]
        name = "read the file once" if way == "read" else f"patch {way.replace(' in place', ' --in-place')}"
        lines.append(f"| {name} | {' | '.join(cells)} | {run['peak'] / 1e6:.0f} |")
    own = [run for way, run in runs.items() if way != "read"]
    slow = [run["way"] for run in own if run["seconds"] > limits["times_reading"] * reading["seconds"]]
    memory = max(run["peak"] for run in own)
    lines += [
        "",
        f"Target of {limits['times_reading']} times reading: {'met' if not slow else 'missed by ' + ', '.join(slow)}. "
        f"Target of {limits['memory'] / 1e6:.0f} MB: {_met(memory < limits['memory'])}.",
    ]
    return "\n".join(lines)


def fuzzed() -> str:
    """What the long fuzz run tried."""
    found = json.loads(FUZZ.read_text())
    refused = sum(count for way, count in found["outcomes"].items() if "refused" in way)
    return textwrap.fill(
        f"{found['files']:,} files, {refused:,} of them refused and {found['files'] - refused:,} applied, or compared, "
        f"as they say, under AddressSanitizer and UBSan, with no allocation above "
        f"{found['largest_allocation_mib']} MiB; {found['date']}, commit {found['commit']}, `scripts/fuzz_patch.sh`.",
        120,
    )


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def rendered_format(page: str) -> str:
    """docs/patch-format.md with the test vector and the fuzz run."""
    return marked_regions.rendered(page, {"vector": vector_text, "fuzz": fuzzed}, "docs/patch-format.md")


def rendered_deploying(page: str) -> str:
    """docs/deploying.md with the measured times."""
    return marked_regions.rendered(page, {"times": times}, "docs/deploying.md")


if __name__ == "__main__":
    FORMAT.write_text(rendered_format(FORMAT.read_text()))
    DEPLOYING.write_text(rendered_deploying(DEPLOYING.read_text()))
