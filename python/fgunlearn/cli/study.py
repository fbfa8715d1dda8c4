"""``fgunlearn spdgan study``: what shifted data shows of an unlearning, on data at hand, as JSON and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def study(
    data: Annotated[
        str, typer.Option(help="digits (scikit-learn's), or cifar10:PATH, a folder of torchvision's or of npz files.")
    ] = "digits",
    setting: Annotated[
        list[str] | None, typer.Option(help="random, few or mislabel; may be repeated. All by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs of source and retrained models.")] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many training images, and as many fewer of the others.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most this many training steps of an SPD-GAN.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes, 0 for one per core.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for unlearning-degree-DATA.json and the figures beside it.")
    ] = Path(),
) -> None:
    """Compare ways to shift the forget data by what they show: SPD-GAN, SPD-GAN without a part, noise, nothing.

    Trains source, retrained and unlearned models in several settings, and measures the unlearning degree of each under
    each shift. Needs matplotlib for the figures (the extra "report").
    """
    from fgunlearn.experiment.degree import study as degree
    from fgunlearn.experiment.degree.settings import SETTINGS
    from fgunlearn.experiment.results import write_json
    from fgunlearn.experiment.training import Training
    from fgunlearn.report import check_matplotlib, samples_figure, save, training_figure
    from fgunlearn.report.degree import methods_figure, shifts_figure
    from fgunlearn.spdgan import Fitting, History

    chosen = tuple(dict.fromkeys(setting or SETTINGS))
    for name in chosen:
        if name not in SETTINGS:
            raise ValueError(f"--setting must be one of {', '.join(SETTINGS)}, got {name!r}")
    if not out.is_dir():
        raise ValueError(f"--out: there is no folder {out}")
    check_matplotlib()
    results, samples = degree.run(
        degree.Study(
            source=data,
            settings=chosen,
            seeds=tuple(range(degree.DEFAULT_SEEDS[0], degree.DEFAULT_SEEDS[0] + seeds)),
            jobs=jobs,
            training=Training(epochs=epochs),
            gan={} if steps is None else {"fitting": Fitting(steps=steps)},
            limit=limit,
        )
    )
    stem = f"unlearning-degree-{data.partition(':')[0]}"
    write_json(results, out / f"{stem}.json")
    save(shifts_figure(results), out / f"{stem}-shifts.svg")
    save(methods_figure(results), out / f"{stem}-models.svg")
    for name in chosen:
        first = next(task for task in results["tasks"] if task["setting"] == name)
        save(samples_figure(*samples[name]), out / f"{stem}-{name}-samples.png")
        save(training_figure(History(**first["history"])), out / f"{stem}-{name}-training.svg")
    _print(results)
    print(f"{results['seconds'] / 60:.1f} minutes; all figures as JSON in {out / stem}.json, plots beside it")


_WIDTH = 140  # columns of text that the table needs


def _print(results: dict[str, Any]) -> None:
    """UD_net of retraining under each shift, by setting."""
    from fgunlearn.experiment.degree.settings import SETTINGS
    from fgunlearn.experiment.results import spread

    shown = Table("setting", "shift", "source on shifted D_u %", "UD_net of retraining, points", "of loss", box=None)
    for name, summary in results["summary"].items():
        for row in summary["shifts"]:
            shown.add_row(
                SETTINGS[name].title,
                row["name"],
                spread(row["source_accuracy"], 1, 100.0),
                spread(row["retrained"]["net"], 1, 100.0),
                spread(row["retrained"]["net_loss"], 2),
            )
    console = Console(highlight=False)
    Console(width=max(console.width, _WIDTH), highlight=False).print(shown)
