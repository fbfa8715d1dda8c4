"""What ``fgunlearn unlearn --audit`` and ``fgunlearn audit`` refuse, with exit status 2, and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit_commands import unlearn, verify
from command_line import Run, refused
from fgunlearn import audit


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"audit": None}, ["--retrained", "--audit"]),
        ({"audit": None, "retrained": None, "plain_hashes": True}, ["--plain-hashes", "--audit"]),
        ({"audit": "nowhere/audit.json"}, ["--audit", "nowhere"]),
        ({"salt": "nowhere/salt"}, ["--salt", "nowhere"]),
        ({"salt": "ids.txt"}, ["--salt", "ids.txt", "64 hexadecimal digits"]),
        ({"salt": "salt", "plain_hashes": True}, ["--salt", "--plain-hashes"]),
        ({"test": "model.safetensors"}, ["--test", "x and y"]),
        ({"retrained": "data.safetensors"}, ["--retrained", "does not fit"]),
        ({"gan": "nowhere"}, ["--gan", "nowhere"]),
        ({"save_selection": "nowhere/s"}, ["--save-selection", "nowhere"]),
        ({"relearn_steps": -1}, ["--relearn-steps", "-1"]),
        ({"audit": "out.safetensors"}, ["--audit", "out.safetensors", "--out"]),
        ({"audit": "./ids.txt"}, ["--audit", "ids.txt", "--forget"]),
        ({"save_selection": "data.safetensors"}, ["--save-selection", "--data"]),
    ],
)
def test_unlearn_refuses_what_it_cant_record(
    run: Run, folder: Path, changes: dict[str, object], parts: list[str]
) -> None:
    refused(run(*unlearn(**changes)), *parts)
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"path": "nowhere.json"}, ["nowhere.json"]),
        ({"path": "ids.txt"}, ["ids.txt", "not JSON"]),
        ({"path": "number.json"}, ["number.json", "not an audit record"]),
        ({"path": "newer.json"}, ["newer.json", "version 2"]),
        ({"path": "nan.json"}, ["nan.json", "NaN"]),
        ({"base": "nowhere"}, ["--base", "nowhere"]),
        ({"base": "ids.txt"}, ["ids.txt", "safetensors"]),
        ({"patch": "nowhere"}, ["--patch", "nowhere"]),
        ({"data": "data.safetensors"}, ["--data", "--forget"]),
        ({"forget": "ids.txt"}, ["--data", "--forget"]),
        ({"data": "data.safetensors", "forget": "far.txt"}, ["--forget", "60"]),
        ({"data": "model.safetensors", "forget": "ids.txt"}, ["--data", "x and y"]),
        ({"salt": "nowhere"}, ["--salt", "nowhere"]),
        ({"heldout": "model.safetensors"}, ["--heldout", "x and y"]),
        ({"base": "model.safetensors", "arch": "nowhere:make"}, ["--arch", "nowhere"]),
        ({"result": "data.safetensors", "arch": "architecture:make"}, ["--result", "does not fit"]),
        ({"retrained": "retrained.safetensors"}, ["--retrained", "--arch"]),
        ({"gan": "gan.safetensors"}, ["--gan", "--arch"]),
        ({"selection": "data.safetensors"}, ["data.safetensors", "Selection"]),
        ({"selection": "nowhere"}, ["--selection", "nowhere"]),
        ({"json": "nowhere/checks.json"}, ["--json", "nowhere"]),
        ({"json": "audit.json"}, ["--json", "audit.json", "AUDIT"]),
        (
            {"base": "model.safetensors", "arch": "architecture:make", "data": "wide.safetensors", "forget": "ids.txt"},
            ["--data", "does not take samples of shape (7,)"],
        ),
    ],
)
def test_what_cant_be_read_is_exit_status_2(
    run: Run, done: audit.AuditRecord, changes: dict[str, Any], parts: list[str]
) -> None:
    text = Path("audit.json").read_text()
    Path("number.json").write_text("5")
    Path("newer.json").write_text(text.replace('"version": 1', '"version": 2'))
    Path("nan.json").write_text(text.replace('"version": 1', '"version": NaN'))
    Path("far.txt").write_text("60\n")
    save_file({"x": torch.zeros(60, 7), "y": torch.zeros(60, dtype=torch.int64)}, "wide.safetensors")
    refused(run(*verify(**changes)), *parts)


@pytest.mark.parametrize("command", [["audit"], ["audit", "verify"], ["audit", "sign"], ["audit", "patch"]])
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert "Usage" in out
