"""What torch itself puts around an optimizer: autocast, one-cycle schedules, distributed data parallelism."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg


def classifier() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("free_grads", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_bf16_autocast_trains_the_selection(free_grads: bool, scaled: bool) -> None:
    model = classifier()
    selection = fg.select(model, [], None, fg.RandomK(0.5))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.02), selection, free_grads=free_grads)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    x, y = data()
    losses = []
    with fg.no_drift(model, selection):
        for _ in range(40):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            fg.clip_grad_norm_(optimizer, 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.1})]
)
def test_one_cycle_changes_lr_and_momentum_as_for_torchs_optimizer(kind: Any, options: dict[str, Any]) -> None:
    ours, theirs = classifier(), classifier()
    selection = fg.select(ours, [], None, fg.RandomK(1.0))
    x, y = data()
    sparse = fg.SparseOptimizer(kind(ours.parameters(), **options), selection)
    dense = kind(theirs.parameters(), **options)
    seen: list[list[Any]] = [[], []]
    for model, optimizer, trace in ((ours, sparse, seen[0]), (theirs, dense, seen[1])):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=30)
        for _ in range(29):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            group = optimizer.param_groups[0]
            trace.append((group["lr"], group.get("momentum"), group.get("betas")))
    assert seen[0] == seen[1]
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("free_grads", [False, True])
def test_two_gloo_processes_stay_together_and_on_the_selection(free_grads: bool, tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    worker = Path(__file__).parent / "ddp_worker.py"
    running = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(tmp_path), str(int(free_grads))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    if free_grads:
        assert all("refused" in words for words in said), said
        return
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = classifier()
    selection = fg.select(alone, [], None, fg.RandomK(0.5))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(alone.parameters(), lr=0.01), selection)
    x, y = data()
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(alone(x), y).backward()
        fg.clip_grad_norm_(optimizer, 0.5)
        optimizer.step()
    for name, value in alone.state_dict().items():
        assert first[name].equal(second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)
