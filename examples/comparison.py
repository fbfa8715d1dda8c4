"""What the examples share: training, and the table that compares source, retrained and unlearned model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fgunlearn as fg

Batches = Iterable[Any]
Loss = Callable[[nn.Module, Any], Tensor]


def arguments(description: str | None, epochs: int, given: Sequence[str] | None, **choices: list[str]) -> Any:
    """The command line: --seed, --epochs, and an option per choice, whose default is its first value."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of data, weights and order (default 0)")
    parser.add_argument(
        "--epochs", type=_at_least(1), default=epochs, help=f"of training and retraining (default {epochs})"
    )
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, default=values[0], help=f"default {values[0]}")
    return parser.parse_args(given)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    number.__name__ = "int"  # argparse shows it where text is no number
    return number


def batches(samples: Any, size: int = 32, *, seed: int | None = None) -> DataLoader[Any]:
    """A DataLoader over samples in memory; shuffled, without the last incomplete batch, if a seed is given."""
    if seed is None:
        return DataLoader(samples, size)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(samples, size, shuffle=True, drop_last=len(samples) > size, generator=order)


def train(
    make_model: Callable[[], nn.Module],
    loader: DataLoader[Any],
    loss_fn: Loss,
    *,
    epochs: int,
    lr: float,
    seed: int,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
) -> tuple[nn.Module, float]:
    """Trains a new model, in eval mode afterwards, and says how many seconds it took."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = make_model().train()
    stepper = optimizer(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(stepper, lr, epochs * len(loader), cycle_momentum=False)
    for _ in range(epochs):
        for batch in loader:
            stepper.zero_grad()
            loss_fn(model, batch).backward()
            stepper.step()
            schedule.step()
    return model.eval(), time.perf_counter() - start


@dataclass(frozen=True)
class Comparison:
    """Source, retrained and unlearned model, and a row of figures for each.

    ``others`` of :func:`compare` is data that no model saw and that is otherwise like the forget data.
    """

    models: dict[str, nn.Module]
    rows: dict[str, dict[str, float]]
    result: fg.Result


def compare(
    source: nn.Module,
    retrained: nn.Module,
    result: fg.Result,
    retrain_seconds: float,
    *,
    forget: Batches,
    retain: Batches,
    test: Batches,
    others: Batches | None = None,
) -> Comparison:
    """Measures the three models on ``(x, y)`` batches in a fixed order, and prints the table.

    Accuracies are in percent. MIA is the area under the ROC curve of a membership attack by the loss, the forget data
    against ``others`` (the test data by default). JS is the Jensen-Shannon divergence from the retrained model's
    predictions on the test data.
    """
    models = {"source": source, "retrained": retrained, "unlearned": result.model}
    rows = {}
    for name, model in models.items():
        rows[name] = {
            **{
                part: 100.0 * fg.metrics.accuracy(model, loader)
                for part, loader in (("D_u %", forget), ("D_r %", retain), ("D_t %", test))
            },
            "MIA": fg.metrics.membership_auc(model, forget, test if others is None else others),
            "JS": fg.metrics.similarity(model, retrained, test).js_divergence,
        }
    for name, seconds in (("retrained", retrain_seconds), ("unlearned", result.total_seconds)):
        rows[name]["seconds"] = seconds
        rows[name]["accel."] = fg.metrics.acceleration_ratio(retrain_seconds, seconds)
    comparison = Comparison(models, rows, result)
    print(table(comparison))
    return comparison


_FORMATS = {"D_u %": "7.1f", "D_r %": "7.1f", "D_t %": "7.1f", "MIA": "7.2f", "JS": "8.4f", "seconds": "9.2f"}


def table(comparison: Comparison) -> str:
    """The rows as text, and a line about what was allowed to change."""
    formats = {**_FORMATS, "accel.": "8.1f"}
    widths = {column: int(form.partition(".")[0]) for column, form in formats.items()}
    lines = [f"{'':10}" + "".join(f"{column:>{width}}" for column, width in widths.items())]
    for name, row in comparison.rows.items():
        cells = [
            f"{row[column]:{form}}" if column in row else f"{'-':>{widths[column]}}" for column, form in formats.items()
        ]
        lines.append(f"{name:10}" + "".join(cells))
    result = comparison.result
    lines.append(f"{sum(result.changed.values()):,} of {result.selection.numel:,} parameters changed")
    return "\n".join(lines)
