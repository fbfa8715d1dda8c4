"""``fgunlearn spdgan``'s command lines in tests, with the options that a test doesn't change."""

from __future__ import annotations

from torch import nn

ARCHITECTURE = """
from pathlib import Path
from torch import nn

def make():
    Path("made").touch()
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

def convolutional():
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6), nn.Flatten())

def bare():
    return nn.Linear(6, 3)

def tuples():
    class Tuples(nn.Linear):
        def forward(self, x):
            return (super().forward(x),)
    return Tuples(6, 3)
"""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def command(name: str, defaults: dict[str, object], changes: dict[str, object]) -> list[object]:
    chosen = {**defaults, **changes}
    given = {option: value for option, value in chosen.items() if value is not None}
    return ["spdgan", name, *(part for option, value in given.items() for part in (f"--{option}", value))]


def train(**changes: object) -> list[object]:
    defaults: dict[str, object] = {
        "model": "model.safetensors",
        "arch": "architecture:make",
        "data": "data.safetensors",
        "forget": "ids.txt",
        "out": "gan.safetensors",
        "steps": 4,
        "batch": 16,
        "width": 4,
    }
    return command("train", defaults, {name.replace("_", "-"): value for name, value in changes.items()})


def perturb(**changes: object) -> list[object]:
    defaults: dict[str, object] = {"gan": "gan.safetensors", "data": "data.safetensors", "out": "out.safetensors"}
    return command("perturb", defaults, changes)


def evaluate(**changes: object) -> list[object]:
    defaults: dict[str, object] = {
        "gan": "gan.safetensors",
        "model": "model.safetensors",
        "unlearned": "unlearned.safetensors",
        "arch": "architecture:make",
        "data": "data.safetensors",
        "forget": "ids.txt",
        "control": "control.safetensors",
        "resamples": 50,
    }
    return command("evaluate", defaults, changes)
