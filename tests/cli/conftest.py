from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import audit_commands
import fgunlearn as fg
from audited import samples
from command_line import Run
from fgunlearn import audit
from spdgan_commands import ARCHITECTURE, network, train


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an architecture, two models of it, training and control data, and the rows to forget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "architecture", raising=False)
    (tmp_path / "architecture.py").write_text(ARCHITECTURE)
    for name in ("model", "unlearned"):
        save_file(network().state_dict(), tmp_path / f"{name}.safetensors")
    save_file(nn.Linear(6, 3).state_dict(), tmp_path / "bare.safetensors")
    save_file(
        nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6)).state_dict(), tmp_path / "convolutional.safetensors"
    )
    for name, rows in (("data", 60), ("control", 40)):
        save_file({"x": torch.randn(rows, 6), "y": torch.arange(rows) % 3}, tmp_path / f"{name}.safetensors")
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(0, 60, 3))))
    (tmp_path / "one.txt").write_text("3\n")
    return tmp_path


@pytest.fixture
def gan(run: Run, work: Path) -> fg.SPDGAN:
    """That of gan.safetensors, which the command line has just trained."""
    assert run(*train())[0] == 0
    return fg.SPDGAN.load("gan.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An architecture, a model and one without the forgotten rows, training, held-out and test data, and the rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "architecture", raising=False)
    (tmp_path / "architecture.py").write_text(audit_commands.ARCHITECTURE)
    for name, rows, seed in (("data", 60, 1), ("heldout", 30, 2), ("test", 24, 3)):
        x, y = samples(rows, seed)
        save_file({"x": x, "y": y}, f"{name}.safetensors")
    x, y = samples(60, 1)
    save_file(audit_commands.trained(x, y).state_dict(), "model.safetensors", metadata={"trained": "yesterday"})
    save_file(audit_commands.trained(x[12:], y[12:]).state_dict(), "retrained.safetensors")
    Path("ids.txt").write_text("\n".join(map(str, range(12))))
    return tmp_path


@pytest.fixture
def done(run: Run, folder: Path) -> audit.AuditRecord:
    """The record that the command line has just written, with all that it can hold but for a signature and a degree."""
    status, _, error = run(*audit_commands.unlearn())
    assert (status, error) == (0, "")
    return audit.AuditRecord.load("audit.json")
