"""Feeds the patcher files that nobody should trust: damaged ones, and forged ones whose hashes are right.

``python patch_fuzzer.py MODULE --files N --seed S`` with a sanitized module (building.py). Each file must be refused by
a ValueError that says why, or do what it says; the checkpoint never changes. Anything else ends the run, and the files
are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "fgunlearn"
DIGEST_AT = 8 + len(b'{"__metadata__":{"sha256":"')
NUMBERS = (0, 1, 2, 7, 8, 9, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, 2**62, 2**63 - 1, 2**63)
NUMBERS = (*NUMBERS, 2**64, 10**30, -1, -(2**63), 1.5, 1e308)
WORDS = ("", "a", "b", "c", "F32", "BF16", "U8", "I64", "BOOL", "F4", "__metadata__", "a.gaps", "\0", "../a", "\ud800")
CHECKPOINT = {"a": ("F32", [40]), "b": ("BF16", [3, 5]), "c": ("I64", []), "d": ("U8", [0, 4]), "e": ("BOOL", [9])}
WIDTHS = {"F32": 4, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("module", type=Path)
    arguments.add_argument("--files", type=int, required=True)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--keep", type=Path, default=Path("patch-fuzz-failure"))
    arguments.add_argument("--read-outside", action="store_true", help="End as a defect would.")
    given = arguments.parse_args()
    host = load(given.module)
    if given.read_outside:
        host.read_outside(0)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        counts = Fuzzer(Path(folder), given.seed).run(given.files, given.keep)
    print(json.dumps(counts))


def load(module: Path) -> Any:
    """The sanitized module, which fgunlearn.patch then uses; the package's own start may look for torch: left out."""
    package = types.ModuleType("fgunlearn")
    package.__path__ = [str(PACKAGE)]
    spec = importlib.util.spec_from_file_location("fgunlearn._host", module)
    assert spec is not None
    assert spec.loader is not None
    host = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    package._host = host  # type: ignore[attr-defined]
    sys.modules.update({"fgunlearn": package, "fgunlearn._host": host})
    return host


class Fuzzer:
    """Files made of a checkpoint and its patches, in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        from fgunlearn import _host, patch
        from fgunlearn.patch import exchange

        # Of several threads a failing one would be hard to tell, and starting them takes most of the time.
        exchange.for_each = lambda items, work: [work(item, _NeverStops()) for item in items]
        self.host, self.patch, self.folder = _host, patch, folder
        self.random = random.Random(seed)
        self.base = folder / "base.safetensors"
        values = {name: self.random.randbytes(self.size(name)) for name in CHECKPOINT}
        self.base.write_bytes(checkpoint(values))
        self.patches = []
        for share in (0.0, 0.1, 0.5, 1.0):
            changed = {name: self.altered(held, share) for name, held in values.items()}
            (folder / "new.safetensors").write_bytes(checkpoint(changed))
            made = folder / "made"
            patch.create(self.base, folder / "new.safetensors", made, metadata={"strategy": "topk", "seeds": [1, 2.5]})
            self.patches.append(made.read_bytes())
        self.hash = hashlib.sha256(self.base.read_bytes()).digest()

    def size(self, name: str) -> int:
        dtype, shape = CHECKPOINT[name]
        numel = 1
        for extent in shape:
            numel *= extent
        return numel * WIDTHS[dtype]

    def altered(self, held: bytes, share: float) -> bytes:
        return bytes(each ^ 1 if self.random.random() < share else each for each in held)

    def run(self, files: int, keep: Path) -> dict[str, Any]:
        """Tries ``files`` files; what came of them."""
        ways = (self.damaged, self.resealed, self.forged, self.generated, self.damaged_checkpoint, self.arguments)
        counts: Counter[str] = Counter()
        start = time.perf_counter()
        for _ in range(files):
            way = self.random.choice(ways)
            state = self.random.getstate()
            try:
                outcome = way()
            except BaseException:
                keep.mkdir(exist_ok=True)
                for each in self.folder.iterdir():
                    if each.is_file():
                        (keep / each.name).write_bytes(each.read_bytes())
                (keep / "state").write_text(f"{way.__name__} {state}")
                raise
            counts[f"{way.__name__}: {outcome}"] += 1
        return {"files": files, "seconds": time.perf_counter() - start, "outcomes": dict(sorted(counts.items()))}

    # Ways to make a file.

    def damaged(self) -> str:
        """Bytes of a patch changed, taken out, put in, cut off."""
        return self.tried(self.mutated(self.random.choice(self.patches)))

    def resealed(self) -> str:
        """The same, with a header length and a digest that fit."""
        data = self.mutated(self.random.choice(self.patches))
        end = data.find(b"}}", DIGEST_AT)
        if self.random.random() < 0.5 and end > 0:
            data = (end - 6).to_bytes(8, "little") + data[8:]
        return self.tried(sealed(data))

    def forged(self) -> str:
        """Numbers and words of a patch's header exchanged for others, with a digest that fits."""
        data = self.random.choice(self.patches)
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        for _ in range(self.random.randint(1, 3)):
            which = self.random.choice(("tensors", "metadata", "header", "body"))
            if which == "body":
                body = self.mutated(body)
            elif which == "header":
                others = self.exchanged({name: entry for name, entry in header.items() if name != "__metadata__"})
                header = {"__metadata__": header["__metadata__"], **(others if isinstance(others, dict) else {})}
            else:
                told = header["__metadata__"]
                if isinstance(told, dict) and which in told:  # they may have been exchanged before
                    told[which] = json.dumps(self.exchanged(json.loads(told[which])))
        return self.tried(packed(header, body))

    def generated(self) -> str:
        """A patch made up from nothing but the format, for tensors that may or may not be the checkpoint's."""
        tensors, header, body = [], {}, b""
        names = list(CHECKPOINT)
        if self.random.random() < 0.3:
            names = self.random.sample([*CHECKPOINT, "x"], self.random.randint(1, 6))
        wrong = self.random.random() < 0.7  # or all of it right
        for name in names:
            dtype, shape = CHECKPOINT.get(name, ("F32", [self.random.choice((3, 2**40, 0))]))
            width, held = WIDTHS[dtype], self.held(name)
            numel = len(held) // width if name in CHECKPOINT else shape[0]
            count = self.random.choice((0, 1, 3, min(numel, 100)))
            if not wrong or self.random.random() < 0.9:
                count = min(count, numel)
            places = sorted(self.random.sample(range(numel), count)) if count <= numel <= 100 else [*range(count)]
            gaps = b"".join(leb128(b - a) for a, b in zip([0, *places], places, strict=False))
            result = bytearray(held)
            for place in places[: len(held) // width]:
                result[place * width] = (result[place * width] + 1) % 256
            old, new = (b"".join(bytes(v[i * width : (i + 1) * width]) for i in places) for v in (held, result))
            old, new = (each.ljust(count * width, b"\0") for each in (old, new))
            if wrong and self.random.random() < 0.3:
                gaps = b"".join(self.gap() for _ in range(max(count + self.random.choice((0, 0, -1, 1)), 0)))
            if wrong and self.random.random() < 0.1:
                old, new = new, old
            hashes = [hashlib.sha256(each).hexdigest() for each in (held, result)]
            tensors.append(
                {"name": name, "dtype": dtype, "shape": shape, "base_sha256": hashes[0], "result_sha256": hashes[1]}
                | {"changed": count}
            )
            for which, kind, part in (("gaps", "U8", gaps), ("old", dtype, old), ("new", dtype, new)):
                if count:
                    begin, body = len(body), body + part
                    extent = [len(part) // WIDTHS[kind]]
                    header[f"{name}.{which}"] = {"dtype": kind, "shape": extent, "data_offsets": [begin, len(body)]}
        told = {"sha256": "0" * 64, "format": "fgunlearn patch", "version": "1"}
        told |= {"tensors": json.dumps(tensors), "metadata": "{}"}
        outcome = self.tried(packed({"__metadata__": told, **header}, body))
        assert wrong or outcome == ("applied" if len(names) == len(CHECKPOINT) and "x" not in names else outcome)
        return outcome

    def damaged_checkpoint(self) -> str:
        """A checkpoint whose header or length is not right, given to create."""
        path = self.folder / "tried.safetensors"
        data = self.base.read_bytes()
        if self.random.random() < 0.5:
            data = self.mutated(data)
        else:
            length = int.from_bytes(data[:8], "little")
            text = json.dumps(self.exchanged(json.loads(data[8 : 8 + length]))).encode()
            data = len(text).to_bytes(8, "little") + text + data[8 + length :]
        path.write_bytes(data)
        try:
            made = self.patch.create(self.base, path, self.folder / "made")
        except ValueError:
            return "refused"
        self.patch.apply(self.base, made.path, self.folder / "out")
        assert self.patch.create(path, self.folder / "out", self.folder / "again").changed == 0
        return "done"

    def arguments(self) -> str:
        """The compiled module by itself, with buffers of any sizes and in any order."""
        draw = self.random.randint
        width = self.random.choice((1, 2, 4, 8, 1, 2, 4, 8, 0, 3, -1))
        numel = self.random.choice((0, 5, 40, 40, 40, 2**40, 2**62, -1))
        count = draw(0, 6)
        gaps = b"".join(self.gap() for _ in range(count if self.random.random() < 0.7 else draw(0, 8)))
        values = self.random.randbytes(max(count * width, 0) + self.random.choice((*[0] * 20, 1)))
        others = self.random.randbytes(len(values) + self.random.choice((*[0] * 20, 1)))
        calls: list[Callable[[], object]] = [lambda: self.host.check_gaps(gaps, count, numel)]
        try:
            exchange = self.host.Exchange(gaps, values, others, width, numel)
            differences = self.host.Differences(width)
        except ValueError:
            return "refused"
        for _ in range(draw(1, 6)):
            offset = draw(0, 3)
            size = width * draw(0, 12) + self.random.choice((*[0] * 20, 1))
            piece = memoryview(bytearray(self.random.randbytes(offset + size)))[offset:]
            held = self.random.randbytes(width * draw(0, 40) + self.random.choice((*[0] * 20, 1)))
            other = self.altered(held, 0.02) + bytes(self.random.choice((*[0] * 20, 1)))
            far = self.random.choice((0, 1, 3, 64, 2**40, 2**62, 2**63 - 1, -1))
            calls.append(
                self.random.choice(
                    (
                        lambda far=far: exchange.next_changes(far),
                        lambda piece=piece: exchange.put(piece, self.random.random() < 0.5),
                        lambda held=held, other=other: differences.add(held, other),
                    )
                )
            )
        outcome = "done"
        for call in calls:
            try:
                call()
            except ValueError:
                outcome = "refused"
        assert len(differences.old_values) == len(differences.new_values) == differences.count * width
        self.host.check_gaps(differences.gaps, differences.count, 10**6)
        return outcome

    # What becomes of it.

    def tried(self, data: bytes) -> str:
        """Refused, or applied to the right checkpoint with the right result."""
        path, out = self.folder / "tried", self.folder / "out"
        path.write_bytes(data)
        try:
            found = self.patch.inspect(path)
        except ValueError:
            return "refused"
        try:
            self.patch.apply(self.base, path, out)
        except ValueError:
            outcome = "refused for this checkpoint"
        else:
            made = {tensor.name: tensor.result_sha256 for tensor in found.tensors}
            assert made == hashes_of(out.read_bytes()), "applied, but not to what it says"
            self.patch.revert(out, path, self.folder / "back")
            assert hashlib.sha256((self.folder / "back").read_bytes()).digest() == self.hash, "not taken back"
            outcome = "applied"
        assert hashlib.sha256(self.base.read_bytes()).digest() == self.hash, "the checkpoint has changed"
        assert len(list(self.folder.iterdir())) <= len(NAMES), "something was left behind"
        return outcome

    # Changes.

    def mutated(self, data: bytes) -> bytes:
        held = bytearray(data)
        for _ in range(self.random.choice((1, 1, 1, 2, 4, 8))):
            at = self.random.randrange(len(held) + 1)
            way = self.random.randrange(5)
            if way == 0 and at < len(held):
                held[at] ^= 1 << self.random.randrange(8)
            elif way == 1:
                held[at:at] = self.random.randbytes(self.random.choice((1, 2, 8)))
            elif way == 2:
                del held[at : at + self.random.choice((1, 2, 8, 64))]
            elif way == 3:
                held[at : at + 8] = (self.random.choice(NUMBERS[:20]) % 2**64 if at else 2**63).to_bytes(8, "little")
            elif at:
                del held[at:]
        return bytes(held)

    def exchanged(self, told: Any) -> Any:
        """JSON with one of its values, names or items exchanged."""
        if isinstance(told, dict) and told and self.random.random() < 0.9:
            key = self.random.choice(list(told))
            changed = dict(told)
            if self.random.random() < 0.15:
                changed[self.random.choice(WORDS)] = changed.pop(key)
            elif self.random.random() < 0.1:
                del changed[key]
            else:
                changed[key] = self.exchanged(told[key])
            return changed
        if isinstance(told, list) and told and self.random.random() < 0.9:
            at = self.random.randrange(len(told))
            if self.random.random() < 0.15:
                return told[:at] + told[at + 1 :] if self.random.random() < 0.5 else [*told, told[at]]
            return [self.exchanged(each) if i == at else each for i, each in enumerate(told)]
        if isinstance(told, int) and self.random.random() < 0.5:
            return told + self.random.choice((-1, 1))
        return self.random.choice((*NUMBERS, *WORDS, None, True, [], {}, [1, 2], "0" * 64, [0] * 2000, told))

    def gap(self) -> bytes:
        usual = (1, 1, 1, 2, 3, 7)
        found = bytearray(leb128(self.random.choice((*usual, *usual, 0, 39, 127, 128, 2**31, 2**62, 2**63 - 1))))
        if self.random.random() < 0.03:
            found[-1] |= 128
            found.append(self.random.choice((0, 1, 128, 255)))
        return bytes(found)

    def held(self, name: str) -> bytes:
        data = self.base.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        begin, end = header[name]["data_offsets"] if name in header else (0, 12)
        return data[8 + length + begin : 8 + length + end]


NAMES = ("base.safetensors", "new.safetensors", "made", "tried", "tried.safetensors", "out", "back", "again")


class _NeverStops:
    def check(self) -> None:
        pass


def leb128(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def checkpoint(values: dict[str, bytes]) -> bytes:
    header, body = {}, b""
    for name, (dtype, shape) in CHECKPOINT.items():
        begin, body = len(body), body + values[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(body)]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def packed(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return sealed(len(text).to_bytes(8, "little") + text + body)


def sealed(data: bytes) -> bytes:
    """With the digest that the rest has."""
    if len(data) < DIGEST_AT + 64:
        return data
    zeroed = data[:DIGEST_AT] + b"0" * 64 + data[DIGEST_AT + 64 :]
    return data[:DIGEST_AT] + hashlib.sha256(zeroed).hexdigest().encode() + data[DIGEST_AT + 64 :]


def hashes_of(data: bytes) -> dict[str, str]:
    """By a reader that has nothing to do with the package's."""
    length = int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = hashlib.sha256(data[begin:end]).hexdigest()
    return found


if __name__ == "__main__":
    main()
