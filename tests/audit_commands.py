"""The command lines of ``fgunlearn unlearn --audit`` and ``fgunlearn audit verify``, and what they are given."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from audited import network
from command_line import as_options

ARCHITECTURE = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
"""


FILES = {
    "base": "model.safetensors",
    "result": "out.safetensors",
    "data": "data.safetensors",
    "forget": "ids.txt",
    "heldout": "heldout.safetensors",
    "arch": "architecture:make",
    "retrained": "retrained.safetensors",
    "selection": "selection.safetensors",
}
"""All that verifying takes but for keys and patches."""


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def unlearn(**changes: object) -> list[object]:
    given: dict[str, object] = {
        "model": "model.safetensors",
        "arch": "architecture:make",
        "data": "data.safetensors",
        "forget": "ids.txt",
        "heldout": "heldout.safetensors",
        "out": "out.safetensors",
        "audit": "audit.json",
        "retrained": "retrained.safetensors",
        "save_selection": "selection.safetensors",
        "relearn_steps": 12,
        "ratio": 0.3,
        **changes,
    }
    return ["unlearn", *as_options(given)]


def verify(*names: str, path: str = "audit.json", **changes: object) -> list[object]:
    return ["audit", "verify", path, *as_options({**{name: FILES[name] for name in names}, **changes})]


def states(path: str = "checks.json") -> dict[str, str]:
    return {check["claim"]: check["state"] for check in json.loads(Path(path).read_text())["checks"]}
