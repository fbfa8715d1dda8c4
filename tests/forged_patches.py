"""Patch files put together from parts, with the right digest whatever the parts are: what a forger could write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Tensor, file_bytes, header_of

_DIGEST_AT = 8 + len('{"__metadata__":{"sha256":"')


@dataclass
class Forged:
    """A patch's parts, to be changed and written.

    Attributes:
        entries: what it says of each tensor.
        parts: what it holds: "<name>.gaps", "<name>.old" and "<name>.new".
        fields: the other members of its header's metadata, in order.
    """

    entries: list[dict[str, Any]]
    parts: dict[str, Tensor]
    fields: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> Forged:
        """A patch taken apart."""
        held = path.read_bytes()
        length = int.from_bytes(held[:8], "little")
        header = json.loads(held[8 : 8 + length])
        fields = header.pop("__metadata__")
        parts = {}
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            parts[name] = Tensor(entry["dtype"], tuple(entry["shape"]), held[begin:end])
        entries = json.loads(fields.pop("tensors"))
        del fields["sha256"]
        return cls(entries, parts, fields)

    def entry(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.entries if entry["name"] == name)

    def put(self, name: str, data: bytes) -> None:
        """Other bytes for a part, with the shape that they then have."""
        part = self.parts[name]
        width = len(part.data) // part.shape[0]
        self.parts[name] = Tensor(part.dtype, (len(data) // width,), data)

    def write(self, path: Path) -> Path:
        texts = {"sha256": "0" * 64, "format": self.fields["format"], "version": self.fields["version"]}
        texts |= {"tensors": json.dumps(self.entries), **{k: v for k, v in self.fields.items() if k not in texts}}
        header = header_of(self.parts, texts)
        data = b"".join(part.data for part in self.parts.values())
        held = bytearray(file_bytes(json.dumps(header, separators=(",", ":")), data))
        held[_DIGEST_AT : _DIGEST_AT + 64] = hashlib.sha256(held).hexdigest().encode()
        path.write_bytes(held)
        return path
