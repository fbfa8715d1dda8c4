"""The commands, and how their errors reach a person: one line and exit status 2, without a traceback."""

from __future__ import annotations

import importlib
import math
import signal
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import fgunlearn
from fgunlearn.cli.later import add_later
from fgunlearn.cli.paths import check_folder_of
from fgunlearn.cli.text import on_one_line
from fgunlearn.files import replacing

BENCHMARKS = ("select", "bracket", "score", "perturb", "update", "streaming", "distributed")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Removes chosen training data from a trained model, and measures how far the removal went.",
)

LATER = {
    "unlearn": (
        "fgunlearn.cli.unlearn:unlearn_command",
        "Forget some rows of the training data, in a model of your own.",
    ),
    "compare": (
        "fgunlearn.cli.compare:compare_command",
        "Compare ways to unlearn: forgetting, retention, indistinguishability, and cost against retraining.",
    ),
    "tune": (
        "fgunlearn.cli.tune:tune_command",
        "Find K, the size of the perturbation and the length of the repair by a criterion without a retrained model.",
    ),
    "plan": (
        "fgunlearn.cli.plan:plan_command",
        "Say what will fit into memory and how long it takes at the least, before anything is run.",
    ),
    "spdgan": (
        "fgunlearn.cli.spdgan:app",
        "Shift data slightly off what a model was trained on, and measure how deep an unlearning of it went.",
    ),
    "patch": (
        "fgunlearn.cli.patch:app",
        "Ship an unlearning as a small file: create, apply, revert, inspect forget patches.",
    ),
    "audit": ("fgunlearn.cli.audit:app", "Check the record that an unlearning leaves."),
}
"""The commands that other modules hold: where, and the first line of their help."""

for _name, (_place, _summary) in LATER.items():
    add_later(app, _name, _place, _summary)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fgunlearn {fgunlearn.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _at_least(smallest: int, option: str, value: int | None) -> None:
    if value is not None and value < smallest:
        raise ValueError(f"{option} must be at least {smallest}, got {value}")


@app.command()
def demo(
    data: Annotated[
        str, typer.Option(help="digits (scikit-learn's), or cifar10:PATH, a folder of torchvision's or of npz files.")
    ] = "digits",
    scenario: Annotated[
        list[str] | None, typer.Option(help="random, class or mislabel; may be repeated. All by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(help="Training epochs of source and retrained models.")] = 30,
    limit: Annotated[
        int | None, typer.Option(help="Use at most this many training images, and as many fewer of the others.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes, 0 for one per core.")] = 0,
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON.")] = Path("demo-results.json"),
) -> None:
    """Train, unlearn and check a small ResNet on real data, in three scenarios.

    Source, retrained and unlearned models side by side: accuracy on forgotten (D_u), remaining (D_r) and test data
    (D_t), forgetting rate FR, memory retention rate MRR, Jensen-Shannon divergence from the retrained model (JS),
    loss-based membership AUC (MIA), unlearning degree on shifted data net of test data in points of accuracy and in
    loss (UD), seconds, and acceleration over retraining, measured and predicted.
    """
    from fgunlearn.experiment import demo as demonstration
    from fgunlearn.experiment import scenarios
    from fgunlearn.experiment.results import write_json
    from fgunlearn.experiment.table import WIDTH, table, verdicts
    from fgunlearn.experiment.training import Training

    for option, value, smallest in (
        ("--seeds", seeds, 1),
        ("--epochs", epochs, 1),
        ("--limit", limit, 1),
        ("--jobs", jobs, 0),
    ):
        _at_least(smallest, option, value)
    chosen = scenario or list(scenarios.NAMES)
    for name in chosen:
        if name not in scenarios.NAMES:
            raise ValueError(f"--scenario must be one of {', '.join(scenarios.NAMES)}, got {name!r}")
    check_folder_of(out, "--out")
    settings = demonstration.Demo(
        source=data,
        scenarios=tuple(dict.fromkeys(chosen)),
        seeds=tuple(range(demonstration.DEFAULT_SEEDS[0], demonstration.DEFAULT_SEEDS[0] + seeds)),
        jobs=jobs,
        training=Training(epochs=epochs),
        limit=limit,
    )
    results = demonstration.run(settings)
    write_json(results, out)
    console = Console()
    console = Console(width=max(console.width, WIDTH))
    console.print(table(results))
    for line in verdicts(results):
        console.print(line, soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s; the same as JSON in {out}", highlight=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=" | ".join(BENCHMARKS))],
    quick: Annotated[bool, typer.Option(help="Small sizes, a few seconds: to see that it works.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's default if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or cuda:N for one of several.")] = "cpu",
    json: Annotated[
        Path | None, typer.Option(help="Write the figures as JSON as well; rewritten as each comparison ends.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="Write a trace of one call each (Chrome's JSON format), instead of measuring."),
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Recorded with the figures; git is asked if not given.")] = None,
    cub_include: Annotated[
        Path | None,
        typer.Option(
            envvar="FGUNLEARN_CUB_INCLUDE",
            help="Headers of CUB >= 3.2 for a peer of select on CUDA; looked for in the package nvidia-cuda-cccl.",
        ),
    ] = None,
    params: Annotated[float | None, typer.Option(help="For streaming: parameters of the model, such as 1e8.")] = None,
) -> None:
    """Time a kernel and its peers side by side."""
    if name not in BENCHMARKS:
        raise ValueError(f"NAME must be one of {', '.join(BENCHMARKS)}, got {name!r}")
    _at_least(1, "--threads", threads)
    if params is not None and (name != "streaming" or not 1 <= params < math.inf):
        raise ValueError(f"--params is a number >= 1 for the benchmark streaming, got {params:g} for {name}")
    for option, path in (("--json", json), ("--profile", profile)):
        check_folder_of(path, option)
    if json is not None and profile is not None:
        raise ValueError("--json and --profile exclude each other: times taken under a profiler are no figures")
    _check_device(device)
    benchmark = importlib.import_module(f"fgunlearn.benchmarks.bench_{name}")
    timing = importlib.import_module("fgunlearn.benchmarks.timing")
    report = timing.start(
        name,
        threads,
        device=device,
        quick=quick,
        traced=profile is not None,
        json=json,
        commit=commit,
        cub_include=cub_include,
        params=params,
    )
    if profile is None:
        benchmark.run(report)
        report.print(Console())
        if json is not None:
            report.write(json)
    else:
        import torch

        with torch.profiler.profile() as trace:  # everything that this torch and this machine can record
            benchmark.run(report)
        with replacing(profile) as temporary:
            trace.export_chrome_trace(str(temporary))
        for line in report.failures:
            print(f"fgunlearn: failed: {line}", file=sys.stderr)
        print(f"one call of each of {len(report.rows)}, as a trace, in {profile}")
    if report.failures:
        raise typer.Exit(1)


def _check_device(device: str) -> None:
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {device!r}")
    if wanted.type == "cpu":
        return
    if not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch {torch.__version__} finds no CUDA device here")
    if (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    info = fgunlearn.build_info()
    if info["cuda_library"] is None:
        reason = info["cuda_error"] or "it was built without CUDA; rebuild it where nvcc is"
        raise ValueError(f"--device {device}: fgunlearn has no CUDA library: {reason}")


@app.command()
def info() -> None:
    """Print what is installed: versions, compiler, instruction set, library."""
    shown = Table(show_header=False, box=None)
    for key, value in fgunlearn.build_info().items():
        shown.add_row(key, str(value))
    Console(soft_wrap=True).print(shown)


def _given(error: Exception) -> str:
    """What stood on the command line for the option that a usage error is about, where its message doesn't say."""
    options = getattr(getattr(error, "param", None), "opts", [])
    words = sys.argv[1:]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in options and (equals or after):
            return f", got {(value if equals else after)!r}"
    return ""


def _deliver_lost_interrupts() -> None:
    """Has a Ctrl-C come again that was raised where Python can only report and drop it.

    Those places are destructors and callbacks of weak references, and every import runs some.
    """
    report = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:
            # From another thread and a moment later: at once, it would be raised here and be lost again.
            main_thread = threading.main_thread().ident
            threading.Timer(0.01, signal.pthread_kill, [main_thread, signal.SIGINT]).start()
        else:
            report(lost)

    sys.unraisablehook = hook


def main() -> None:
    """Entry point: 0, or 2 for bad input, 130 for Ctrl-C, 1 for anything unforeseen (with a traceback)."""
    _deliver_lost_interrupts()
    try:
        status = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except typer.Exit as stop:
        status = stop.exit_code
    except BrokenProcessPool:
        print("fgunlearn: a worker process died (killed, or out of memory?); --jobs 1 needs none", file=sys.stderr)
        status = 1
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"fgunlearn: {on_one_line(str(error))}", file=sys.stderr)
        status = 2
    except Exception as error:
        # One of click's usage errors; typer may carry its own copy of click.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if "\n" in message():
            error.show()  # type: ignore[attr-defined]
        else:
            print(f"fgunlearn: {message()}{_given(error)}", file=sys.stderr)
        status = getattr(error, "exit_code", 2)
    # Some versions of typer return the status of an Exit or a Ctrl-C here, others raise.
    if status == 130:
        print("interrupted", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)
