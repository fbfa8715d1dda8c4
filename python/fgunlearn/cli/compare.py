"""``fgunlearn compare``: methods side by side on one data set, as JSON, as a table and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def compare_command(
    out: Annotated[
        Path, typer.Option(help="Folder for results.json, results.csv and report.html; a killed run goes on there.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="digits (scikit-learn's); cifar10:PATH, a folder of torchvision's or of npz files; or tensors:FILE."
        ),
    ] = "digits",
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="random:SHARE, class:NUMBER, mislabel:SHARE or ids:FILE; may be repeated. Without: a tenth at random, "
            "a class, and a tenth mislabelled."
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME:OPTION=VALUE,... of fgunlearn.methods; may be repeated. All with their options for "
            "experiments by default."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option(help="Add topk for several K, and random_topk for several shares of Top-K.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs of source and retrained models.")] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many training images, and as many fewer of the others.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most this many training steps of an SPD-GAN.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes, 0 for one per core.")] = 0,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Training steps between two checkpoints in --out, from which a run goes on.")
    ] = 200,  # trial.CHECKPOINT_EVERY, which is imported later
) -> None:
    """Compare ways to unlearn: forgetting, retention, indistinguishability, and cost against retraining.

    Every method starts from the same source model and is measured against the same retrained model, for every scenario
    and seed. Each result is written as it is there, and of what is in work a checkpoint: run the same command again to
    go on after Ctrl-C or a crash. Needs jinja2 for the page (the extra "report").
    """
    from fgunlearn.experiment.compare import comparison, entries
    from fgunlearn.experiment.compare.sweeps import SWEEPS
    from fgunlearn.experiment.compare.table import WIDTH, table, verdicts
    from fgunlearn.experiment.requests import parse
    from fgunlearn.experiment.training import Training
    from fgunlearn.report import write_report
    from fgunlearn.report.comparison import check_jinja2
    from fgunlearn.spdgan import Fitting

    check_jinja2()  # not after an hour's work
    asked = [parse(spec) for spec in scenario or ("random", "class", "mislabel")]
    chosen = [entries.parse(spec) for spec in methods or ()] or entries.all_methods()
    if sweep:
        chosen += SWEEPS
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is not a folder")
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no folder {out.parent}")
    results = comparison.run(
        comparison.Comparison(
            source=data,
            requests=tuple(dict.fromkeys(asked)),
            entries=tuple(dict.fromkeys(chosen)),
            seeds=tuple(range(comparison.DEFAULT_SEEDS[0], comparison.DEFAULT_SEEDS[0] + seeds)),
            training=Training(epochs=epochs),
            limit=limit,
            gan={} if steps is None else {"fitting": Fitting(steps=steps)},
            jobs=jobs,
            checkpoint_every=checkpoint_every,
        ),
        out,
    )
    write_report(results, out / comparison.REPORT)
    console = Console()
    console = Console(width=max(console.width, WIDTH))
    console.print(table(results))
    for line in verdicts(results):
        console.print(line, soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s in all; {out / comparison.REPORT} shows it all", highlight=False)
