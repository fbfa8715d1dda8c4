"""``fgunlearn spdgan``: shift a user's own data with an SPD-GAN, and measure how deep an unlearning went."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

import fgunlearn
from fgunlearn.cli.inputs import (
    check_fits,
    checkpoint_of,
    in_one_line,
    load_data,
    load_ids,
    load_model,
    of_data,
    read_tensors,
    remove_checkpoint,
)
from fgunlearn.cli.paths import check_apart, check_file, check_folder_of
from fgunlearn.cli.study import study
from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.results import write_json
from fgunlearn.features import features_of, penultimate_layer
from fgunlearn.files import replacing
from fgunlearn.metrics import Interval, TwoSampleTest, UnlearningDegree, mmd_test, unlearning_degree
from fgunlearn.progress import track
from fgunlearn.report import check_matplotlib, samples_figure, save, training_figure
from fgunlearn.spdgan import SPDGAN, Fitting

_DEFAULT = SPDGAN()
_BATCH = 256  # samples that a network is given at a time, but for training
_MOST_TESTED = 1024  # forget samples in the two-sample test, whose memory grows with their square
_SHOWN = {2: 4, 3: 4, 4: 8}  # samples in the figure: vectors, series, images
_WIDTH = 120  # columns of text that the tables need

app = typer.Typer(
    no_args_is_help=True,
    help="Shift data slightly off what a model was trained on, and measure how deep an unlearning of it went.",
)


Model = Annotated[Path, typer.Option(help="The source model's weights, a safetensors file (a state_dict).")]
Arch = Annotated[str, typer.Option(help="module:function that makes the model with no arguments.")]
Training = Annotated[Path, typer.Option(help="Training data, a safetensors file: x (samples first) and y (int64).")]
Forget = Annotated[Path, typer.Option(help="Text file with the row numbers of the forget data, one per line.")]
Gan = Annotated[Path, typer.Option(help="What fgunlearn spdgan train wrote.")]


@app.command()
def train(
    model: Model,
    arch: Arch,
    data: Training,
    forget: Forget,
    out: Annotated[Path, typer.Option(help="Where to write the SPD-GAN, a safetensors file.")],
    features_model: Annotated[
        list[Path] | None,
        typer.Option(help="Further weights of --arch, whose features are shifted as well; may be repeated."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Module whose input is called features; the last nn.Linear by default.")
    ] = None,
    eps: Annotated[float, typer.Option(help="Largest change of a value, in units of the data's range.")] = _DEFAULT.eps,
    norm: Annotated[
        str, typer.Option(help="none, or l2 or linf: a ball that each sample's change stays in.")
    ] = _DEFAULT.norm,
    radius: Annotated[float, typer.Option(help="Of that ball, in units of the data's range.")] = _DEFAULT.radius,
    lo: Annotated[float | None, typer.Option(help="Smallest value of the data; the one seen by default.")] = None,
    hi: Annotated[float | None, typer.Option(help="Largest value of the data; the one seen by default.")] = None,
    outside: Annotated[
        str, typer.Option(help="Samples outside of lo to hi: clamp brings them back, error refuses them.")
    ] = _DEFAULT.outside,
    width: Annotated[int, typer.Option(help="Channels of the generator, a multiple of 4.")] = _DEFAULT.width,
    steps: Annotated[int, typer.Option(help="At most this many training steps.")] = _DEFAULT.fitting.steps,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = _DEFAULT.fitting.batch,
    lr: Annotated[float, typer.Option(help="Learning rate of both networks.")] = _DEFAULT.fitting.lr,
    shift_weight: Annotated[
        float, typer.Option(help="Weight of the shift of the features against the other losses.")
    ] = _DEFAULT.fitting.shift_weight,
    magnitude: Annotated[
        float, typer.Option(help="rms of the change above which it is held back, in units of the data's range.")
    ] = _DEFAULT.fitting.magnitude,
    accuracy_budget: Annotated[
        float | None, typer.Option(help="Accuracy on the forget data that the source model may lose, as a share.")
    ] = _DEFAULT.fitting.accuracy_budget,
    figures: Annotated[
        Path | None, typer.Option(help="Existing folder for samples.png and training.png; needs matplotlib.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the networks' weights, the draws and the held-out part.")
    ] = _DEFAULT.seed,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where to keep the state of the training: after a kill the same command goes on from it."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two writes of --checkpoint; 50 by default.")
    ] = None,
) -> None:
    """Train an SPD-GAN against a source model, on the data it is to forget.

    The result is written at once: after an error or Ctrl-C, --out is as it was. --checkpoint is removed once all
    is written.
    """
    gan = SPDGAN(
        eps=eps,
        norm=norm,  # type: ignore[arg-type]
        radius=radius,
        lo=lo,
        hi=hi,
        outside=outside,  # type: ignore[arg-type]
        width=width,
        fitting=Fitting(
            steps=steps,
            batch=batch,
            lr=lr,
            shift_weight=shift_weight,
            magnitude=magnitude,
            accuracy_budget=accuracy_budget,
        ),
        seed=seed,
    )
    check_folder_of(out, "--out")
    if figures is not None:
        if not figures.is_dir():
            raise ValueError(f"--figures: there is no folder {figures}")
        check_matplotlib()
    read = {"--model": model, "--data": data, "--forget": forget, "--out": out}
    resumable = checkpoint_of(checkpoint, checkpoint_every, read)
    for path in features_model or ():
        check_apart(checkpoint, "--checkpoint", {"--features-model": path})
    network, _, _ = load_model(model, "--model", arch)
    _check_layer(network, layer, arch)
    further = [load_model(path, "--features-model", arch)[0] for path in features_model or ()]
    x, y = load_data(data, "--data")
    ids = _at_least_two(forget, len(y))
    _check_samples(x, "--data")
    check_fits(network, x, y, "--data")
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[ids] = False
    gan.fit(
        network,
        Batches(x[ids], y[ids], _BATCH),
        Batches(x[rest], y[rest], _BATCH) if int(rest.sum()) >= 2 else None,
        features=[network, *further],
        layer=layer,
        progress=True,
        checkpoint=of_data(resumable, x, y),
    )
    gan.save(out)
    chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:_MOST_TESTED].sort().values
    tested = Batches(x[ids[chosen]], y[ids[chosen]], _BATCH)
    test = mmd_test(features_of(network, gan.perturbed(tested), layer), features_of(network, tested, layer), seed=seed)
    _report_training(gan, test, samples=len(ids), tested=len(chosen))
    written = [out]
    if figures is not None:
        before = x[ids[: _SHOWN[x.dim()]]]
        for name, figure in (
            ("samples.png", samples_figure(before, gan.perturb(before))),
            ("training.png", training_figure(gan.fitted.history)),
        ):
            save(figure, figures / name)
            written.append(figures / name)
    remove_checkpoint(resumable)
    _print(f"Written: {', '.join(map(str, written))}.")


@app.command()
def perturb(
    gan: Gan,
    data: Annotated[Path, typer.Option(help="A safetensors file with x (samples first), and anything else.")],
    out: Annotated[Path, typer.Option(help="Where to write the same with x perturbed.")],
    rows: Annotated[
        Path | None, typer.Option(help="Text file with the row numbers to perturb, one per line; all by default.")
    ] = None,
) -> None:
    """Perturb the x of a file; everything else in it, dtypes and metadata too, is kept as it is.

    The result is written at once: after an error or Ctrl-C, --out is as it was.
    """
    check_folder_of(out, "--out")
    shift = _load_gan(gan)
    tensors, metadata = read_tensors(data, "--data")
    if "x" not in tensors:
        raise ValueError(f"--data: {data} must hold the tensor x, found {', '.join(sorted(tensors)) or 'none'}")
    x = tensors["x"]
    _check_samples(x, "--data")
    _check_shape(shift, x, "--data")
    chosen = torch.arange(len(x)) if rows is None else load_ids(rows, "--rows", len(x))
    perturbed = x.clone()
    for part in track(chosen.split(_BATCH), "perturb"):
        perturbed[part] = shift.perturb(x[part])
    with replacing(out) as temporary:
        save_file({**tensors, "x": perturbed}, temporary, metadata=metadata)
    change = float((perturbed - x).abs().max()) if len(x) else 0.0
    _print(f"{len(chosen):,} of {len(x):,} samples perturbed, by at most {change:.4g}. Written to {out}.")


@app.command()
def evaluate(
    gan: Gan,
    model: Model,
    unlearned: Annotated[Path, typer.Option(help="The unlearned model's weights, a safetensors file.")],
    arch: Arch,
    data: Training,
    forget: Forget,
    control: Annotated[
        Path | None, typer.Option(help="Data never trained on, like --data: for UD_net, to be looked at first.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures as JSON as well.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap draws of the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of those draws.")] = 0,
) -> None:
    """Measure the unlearning degree, on the data as it is and perturbed, with 95% bootstrap intervals.

    UD_acc is the accuracy that the unlearned model lost on the forget data, UD_loss the loss it gained there, UD_net
    the same less what happened on --control.
    """
    check_folder_of(json, "--json")
    shift = _load_gan(gan)
    source, _, _ = load_model(model, "--model", arch)
    after, _, _ = load_model(unlearned, "--unlearned", arch)
    x, y = load_data(data, "--data")
    ids = _at_least_two(forget, len(y))
    parts = {"forget": (x[ids], y[ids])}
    if control is not None:
        parts["control"] = load_data(control, "--control")
    for option, part in zip(("--data", "--control"), parts.values(), strict=False):
        _check_samples(part[0], option)
        _check_shape(shift, part[0], option)
        check_fits(source, *part, option)
    loaders = [Batches(*part, _BATCH) for part in parts.values()]
    as_is, perturbed = (
        unlearning_degree(source, after, loaders[0], shifted, *loaders[1:], resamples=resamples, seed=seed)
        for shifted in (None, shift)
    )
    _report_degree(as_is, perturbed)
    if json is not None:
        write_json(
            {
                "version": fgunlearn.__version__,
                "gan": {"eps": shift.eps, "norm": shift.norm, "radius": shift.radius, "scale": shift.fitted.scale},
                "samples": {name: len(labels) for name, (_, labels) in parts.items()},
                "resamples": resamples,
                "seed": seed,
                "as_is": asdict(as_is),
                "perturbed": asdict(perturbed),
            },
            json,
        )
        _print(f"The same as JSON in {json}.")


app.command()(study)


def _load_gan(path: Path) -> SPDGAN:
    check_file(path, "--gan")
    try:
        return SPDGAN.load(path)
    except ValueError as error:
        raise ValueError(f"--gan: {in_one_line(error)}") from error


def _check_layer(network: nn.Module, layer: str | None, arch: str) -> None:
    if layer is None:
        try:
            penultimate_layer(network)
        except ValueError as error:
            raise ValueError(
                f"--layer is needed: the model of {arch} has no nn.Linear to take penultimate features from"
            ) from error
    elif layer not in dict(network.named_modules()):
        raise ValueError(f"--layer must name a module of the model, got {layer!r}")


def _at_least_two(forget: Path, rows: int) -> Tensor:
    ids = load_ids(forget, "--forget", rows)
    if len(ids) < 2:
        raise ValueError(f"--forget: {forget} names {len(ids)} row; an SPD-GAN needs 2 or more")
    return ids


def _check_samples(x: Tensor, option: str) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{option}: x must be floating-point, got {x.dtype}")
    if x.numel() and not all(math.isfinite(float(value)) for value in x.aminmax()):
        raise ValueError(f"{option}: x holds NaN or infinity")


def _check_shape(gan: SPDGAN, x: Tensor, option: str) -> None:
    if tuple(x.shape[1:]) != gan.fitted.sample_shape:
        raise ValueError(
            f"--gan was trained on samples of shape {gan.fitted.sample_shape}, but {option} holds x of shape "
            f"{tuple(x.shape)}"
        )


def _report_training(gan: SPDGAN, test: TwoSampleTest, samples: int, tested: int) -> None:
    fitted = gan.fitted
    steps = len(fitted.history.shift)
    stopped = "stopped by itself: the shift had levelled off" if fitted.history.stopped else "not levelled off yet"
    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_row("steps", f"{steps} of at most {gan.fitting.steps}; {stopped}; kept: step {fitted.history.kept_step}")
    shown.add_row("scale", f"{fitted.scale:.3g} of what was learned: a largest change of {fitted.scale * gan.eps:.3g}")
    shown.add_row(
        "source accuracy",
        f"{fitted.accuracy:.1%} on the {samples:,} forget samples as they are, {fitted.shifted_accuracy:.1%} perturbed",
    )
    shown.add_row(
        "shift of features",
        f"squared MMD {test.squared_mmd:.4g}, p = {test.p_value:.2g} ({test.permutations:,} permutations of "
        f"{tested:,} samples perturbed and as they are)",
    )
    shown.add_row("seconds", f"{fitted.seconds:.1f}")
    _print(shown)


def _report_degree(as_is: UnlearningDegree, perturbed: UnlearningDegree) -> None:
    shown = Table("", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("as it is", "perturbed"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for label, name, scale, digits in (
        ("UD_acc, points", "acc", 100.0, 1),
        ("UD_net, points", "net", 100.0, 1),
        ("UD_loss, nats", "loss", 1.0, 3),
        ("UD_net of the loss, nats", "net_loss", 1.0, 3),
    ):
        if getattr(perturbed, name) is not None:
            shown.add_row(label, *(_interval(getattr(found, name), scale, digits) for found in (as_is, perturbed)))
    for label, name in (
        ("source accuracy, forget data", "source_accuracy"),
        ("unlearned accuracy, forget data", "unlearned_accuracy"),
        ("source accuracy, control data", "source_accuracy_control"),
        ("unlearned accuracy, control data", "unlearned_accuracy_control"),
    ):
        if getattr(perturbed, name) is not None:
            shown.add_row(label, *(f"{getattr(found, name):.1%}" for found in (as_is, perturbed)))
    _print(shown)
    _print(
        f"{_verdict(perturbed)} It does not say how much is enough: the aim is the value of a model retrained without "
        "the forget data, not the highest one. The 95% intervals are about the choice of samples; another training "
        "seed would move the values too."
    )


def _verdict(found: UnlearningDegree) -> str:
    if found.net is None:
        return (
            "Without --control there is no UD_net: UD_acc and UD_loss hold what the unlearned model lost everywhere "
            "as well, and what the source model lost because the shift was made against it."
        )
    if not found.net.excludes_zero:
        return (
            "The interval of UD_net on perturbed data holds 0: these samples do not show that the forget data was "
            "removed, or that the source model had memorised it."
        )
    if found.net.low > 0:
        return (
            "UD_net is above 0: on perturbed data, the unlearned model lost more of the forget data than of data never "
            "trained on."
        )
    return (
        "UD_net is below 0: on perturbed data, the unlearned model lost less of the forget data than of data never "
        "trained on, which is no removal."
    )


def _interval(found: Interval, scale: float, digits: int) -> str:
    value, low, high = (round(scale * number, digits) + 0.0 for number in (found.value, found.low, found.high))
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _print(shown: Table | str) -> None:
    console = Console(highlight=False)
    if isinstance(shown, Table):
        console = Console(highlight=False, width=max(console.width, _WIDTH))
    console.print(shown, soft_wrap=isinstance(shown, str), markup=False)
