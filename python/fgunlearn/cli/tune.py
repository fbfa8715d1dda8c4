"""``fgunlearn tune``: K, the size of the perturbation and the length of the repair, without a retrained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fgunlearn.cli.paths import check_folder_of

if TYPE_CHECKING:
    from fgunlearn.experiment.requests import Request


def tune_command(
    data: Annotated[
        str,
        typer.Option(
            help="digits (scikit-learn's), cifar10:PATH, a folder of torchvision's or of npz files, or tensors:FILE."
        ),
    ] = "digits",
    forget_ratio: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the training images to forget, in (0, 1); may be repeated. 0.01, 0.05, 0.1, 0.2 and 0.5 by "
            "default."
        ),
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(help="random or mislabel, of the ratio or with one of their own (random:0.1); class:3; ids:FILE."),
    ] = "random",
    method: Annotated[str, typer.Option(help="topk, randomk or random_topk.")] = "topk",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs of source and retrained models.")] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many training images, and as many fewer of the others.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes, 0 for one per core.")] = 0,
    hindsight: Annotated[
        bool, typer.Option(help="Retrain as well, twice, and say how near the search came to the best it tried.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path("tune-results.json"),
) -> None:
    """Find K, the size of the perturbation and the length of the repair by a criterion without a retrained model.

    Per request: what each seed chose; the criterion, an estimate of the average gap to retraining in points; with
    --hindsight the true gap, the K with the smallest gap among those tried and that gap, the regret (their
    difference), the regrets of the default recipe without a search and of a draw, and the rank correlation of criterion
    and gap. Seconds are those of the search, and of one retraining.
    """
    from fgunlearn.experiment.results import write_json
    from fgunlearn.experiment.training import Training
    from fgunlearn.experiment.tune import study as tuning
    from fgunlearn.experiment.tune.table import WIDTH, table

    if method not in tuning.METHODS:
        raise ValueError(f"--method must be one of {', '.join(tuning.METHODS)}, got {method!r}")
    asked = _requests(scenario, forget_ratio, tuning.FORGET_RATIOS)
    check_folder_of(out, "--out")
    results = tuning.run(
        tuning.Study(
            source=data,
            requests=asked,
            method=method,
            seeds=tuple(range(tuning.DEFAULT_SEEDS[0], tuning.DEFAULT_SEEDS[0] + seeds)),
            training=Training(epochs=epochs),
            hindsight=hindsight,
            limit=limit,
            jobs=jobs,
        )
    )
    write_json(results, out)
    console = Console()
    Console(width=max(console.width, WIDTH), highlight=False).print(table(results))
    console.print(f"{results['seconds']:.0f} s; every evaluation as JSON in {out}", highlight=False)


def _requests(scenario: str, ratios: list[float] | None, default: tuple[float, ...]) -> tuple[Request, ...]:
    from dataclasses import replace

    from fgunlearn.experiment.requests import parse

    for ratio in ratios or ():
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"--forget-ratio must be in (0, 1), got {ratio}")
    try:
        request = parse(scenario)
    except ValueError as error:
        raise ValueError(f"--scenario: {error}") from error
    if request.kind in ("random", "mislabel") and ":" not in scenario:
        return tuple(replace(request, share=share) for share in dict.fromkeys(ratios or default))
    if ratios:
        raise ValueError(f"--forget-ratio {ratios[0]:g} does not go with --scenario {scenario}, which says how many")
    return (request,)
