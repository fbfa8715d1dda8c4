"""A repair step of a transformer of BERT-base's size in a process of its own: its time and its peak memory.

``python -m fgunlearn.benchmarks.repair_step dense|selected|freed|frozen [--quick]`` prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fgunlearn as fg

SHARE = 0.01  # of the coordinates that are selected


class LanguageModel(nn.Module):
    """Embeddings, encoder layers and an output tied to the embeddings; random weights."""

    def __init__(self, words: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Embedding(512, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.position.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return nn.functional.linear(self.norm(x), self.embedding.weight)


def last_layers(model: LanguageModel, count: int) -> fg.Selection:
    """A share of the last layers' coordinates, and none of the others."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    late = tuple(f"layers.{len(model.layers) - 1 - i}." for i in range(count))
    within = fg.randomk([p.detach() for name, p in named.items() if name.startswith(late)], ratio=SHARE)
    chosen = iter(within.indices)
    nothing = torch.tensor([], dtype=torch.int32)
    indices = [next(chosen) if name.startswith(late) else nothing for name in named]
    return fg.Selection([p.shape for p in named.values()], indices, names=list(named))


def resident(kind: str) -> int:
    """Bytes of this process: "VmRSS" resident now, "VmHWM" at the most since :func:`reset_peak`. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])


def reset_peak() -> None:
    """Forgets what importing took."""
    Path("/proc/self/clear_refs").write_text("5")


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each repetition after a first that warms up."""
    taken = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        work()
        if turn > 0:
            taken.append(1e3 * (time.perf_counter() - start))
    return taken


def main(kind: str, quick: bool) -> dict[str, float]:
    warm = nn.Linear(2, 2)  # what is imported where it is first needed is no part of a repair
    fg.SparseOptimizer(torch.optim.AdamW(warm.parameters()), fg.select(warm, [], None, fg.RandomK(1.0)))
    torch.manual_seed(0)
    reset_peak()
    before = resident("VmRSS")
    model = LanguageModel(500, 64, 4, 2) if quick else LanguageModel(30522, 768, 12, 12)
    ids = torch.randint(0, model.embedding.num_embeddings, (1, 32))
    options = {"lr": 1e-4, "weight_decay": 0.01}

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())

    if kind == "frozen":
        optimizer: torch.optim.Optimizer = fg.SparseOptimizer(
            torch.optim.AdamW(model.parameters(), **options), last_layers(model, 3), freeze_untouched=True
        )
        assert isinstance(optimizer, fg.SparseOptimizer)
        saving = optimizer.backward_saving(loss, repeats=5)
        return {"unfrozen": 1e3 * saving.unfrozen, "frozen": 1e3 * saving.frozen, "elements": saving.elements}
    if kind == "dense":
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **options)
    else:
        selection = fg.select(model, [], None, fg.RandomK(SHARE))
        wrapped = torch.optim.AdamW(model.parameters(), **options)
        optimizer = fg.SparseOptimizer(wrapped, selection, free_grads=kind == "freed")

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    taken = timed(step, 3)
    quarters = statistics.quantiles(taken, n=4)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "milliseconds": statistics.median(taken),
        "spread": quarters[2] - quarters[0],
        "repeats": len(taken),
        "peak": resident("VmHWM") - before,
    }


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[2].isdigit():
        torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(main(sys.argv[1], "--quick" in sys.argv)))
