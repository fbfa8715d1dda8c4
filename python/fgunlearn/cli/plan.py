"""``fgunlearn plan``: what will fit, and how long it takes at the least, by arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fgunlearn.cli.paths import check_folder_of
from fgunlearn.planning.time import groups, readings

if TYPE_CHECKING:
    from fgunlearn.planning import Plan

_WIDTH = 150  # columns of text that the table needs
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "float64": "f64"}


def plan_command(
    params: Annotated[str, typer.Option(help="Parameters of the model: 8e9 or 8B.")],
    k: Annotated[str, typer.Option("--k", help="Coordinates to select: a share (0.1%, 0.001) or a number (8e6).")],
    dtype: Annotated[str, typer.Option(help="bf16, f16, f32 or f64.")] = "bf16",
    gpus: Annotated[int, typer.Option(min=1, help="Devices that share the model, as FSDP2 shards it.")] = 1,
    memory: Annotated[
        float | None, typer.Option(help="GiB of memory of a device; the datasheet's if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="h200, h100, a100 or cpu: memory and rates by datasheet.")] = "cpu",
    bandwidth: Annotated[float | None, typer.Option(help="GB/s of a device's memory.")] = None,
    tflops: Annotated[float | None, typer.Option(help="1e12 operations per second of a device.")] = None,
    link: Annotated[float | None, typer.Option(help="GB/s that a device sends or receives; with --gpus.")] = None,
    tokens: Annotated[str, typer.Option(help="Tokens of one batch, on each device.")] = "4096",
    batches: Annotated[int, typer.Option(min=1, help="Batches of data to forget, on each device.")] = 1,
    score: Annotated[str, typer.Option(help="grad, abs_grad, fisher, saliency or fisher_ratio.")] = "grad",
    optimizer: Annotated[str, typer.Option(help="Of the repair: sgd, momentum (SGD with it) or adamw.")] = "adamw",
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks of the model; a usual number if not given.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Of the model; a usual one if not given.")] = None,
    largest_tensor: Annotated[
        str | None, typer.Option(help="Elements of the largest parameter; the embedding of 2^17 words if not given.")
    ] = None,
    tied: Annotated[bool, typer.Option("--tied", help="The output uses the embedding's weights.")] = False,
    activations: Annotated[
        float | None, typer.Option(help="GiB that a forward pass keeps on a device; estimated if not given.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Activations of blocks are computed again in the backward pass.")
    ] = False,
    memory_budget: Annotated[
        int | None,
        typer.Option(min=1, help="MiB: that of select(memory='streaming'); a share of the model if not given."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures there as well: bytes and seconds.")] = None,
) -> None:
    """Say what will fit into memory and how long it takes at the least, before anything is run.

    Arithmetic, no measurement. Memory is GiB on one device: weights, gradients (all, or one at a time), scores, what
    ranking needs, the selection, the optimizer's state, activations. Seconds are a lower bound, of a whole selection or
    of one step: operations and bytes over the rates that --device, --tflops and --bandwidth say. Nothing runs that
    fast on datasheet rates; give what you measured for a guess. docs/scale.md has the formulas.
    """
    from fgunlearn.experiment.results import write_json
    from fgunlearn.planning import DEVICES, ModelSize, Rates, Setting, made
    from fgunlearn.planning.model import ITEMSIZE
    from fgunlearn.planning.quantities import count, share_or_count
    from fgunlearn.planning.setting import STATES, scores

    dtype = _DTYPES.get(dtype, dtype)
    for option, value, allowed in (
        ("--dtype", dtype, tuple(ITEMSIZE)),
        ("--device", device, tuple(DEVICES)),
        ("--score", score, scores()),
        ("--optimizer", optimizer, tuple(STATES)),
    ):
        if value not in allowed:
            raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    for option, number in (("--memory", memory), ("--bandwidth", bandwidth), ("--tflops", tflops), ("--link", link)):
        _check_positive(option, number)
    if activations is not None and not 0 <= activations < float("inf"):
        raise ValueError(f"--activations must be at least 0 and finite, got {activations}")
    check_folder_of(json, "--json")
    n = count(params, "--params")
    largest = None if largest_tensor is None else count(largest_tensor, "--largest-tensor")
    if largest is not None and largest > n:
        raise ValueError(f"--largest-tensor must be at most --params, {n}, got {largest_tensor!r}")
    sheet = DEVICES[device]
    planned = made(
        ModelSize.of(n, dtype, layers=layers, width=width, largest_tensor=largest, tied=tied),
        Setting(
            k=share_or_count(k, "--k", n),
            tokens=count(tokens, "--tokens"),
            batches=batches,
            devices=gpus,
            score=score,  # type: ignore[arg-type]
            optimizer=optimizer,
            activations=None if activations is None else round(activations * 2**30),
            recompute=recompute,
            memory_budget=None if memory_budget is None else memory_budget * 2**20,
        ),
        Rates(
            sheet.rates.flops if tflops is None else tflops * 1e12,
            sheet.rates.bandwidth if bandwidth is None else bandwidth * 1e9,
            None if link is None else link * 1e9,
        ),
        sheet.memory if memory is None else round(memory * 2**30),
    )
    if json is not None:
        write_json(planned.as_json(), json)
    console = Console()
    console = Console(width=max(console.width, _WIDTH), highlight=False)
    console.print(table(planned))
    for line in notes(planned):
        console.print(line, soft_wrap=True)


def _check_positive(option: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{option} must be positive and finite, got {value}")


def table(planned: Plan) -> Table:
    """A row per way; GiB on one device."""
    title = f"arithmetic for {planned.model.parameters:.3g} {planned.model.dtype} parameters, k = {planned.setting.k:,}"
    if planned.setting.devices > 1:
        title += f", sharded over {planned.setting.devices} devices"
    shown = Table(title=f"{title}: GiB on one device", box=None, title_justify="left")
    shown.add_column("way")
    parts = ("weights", "gradients", "scores", "work", "selection", "state", "activations")
    for name in (*parts, "total", "fits", "seconds, at least"):
        shown.add_column(name, justify="right")
    for way in planned.ways:
        figures = [gib(getattr(way.memory, part)) for part in parts]
        fits = "-" if way.fits is None else "yes" if way.fits else "no"
        name = f"{way.name} *" if way.note else way.name
        shown.add_row(name, *figures, gib(way.memory.total), fits, seconds(way.seconds))
    return shown


def notes(planned: Plan) -> list[str]:
    """What the table's figures rest on."""
    model, setting = planned.model, planned.setting
    lines = [
        f"taken: {model.layers} layers of width {model.width:,}, largest tensor {model.largest_tensor:,} elements, "
        f"{setting.batches} x {setting.tokens:,} tokens on each device, "
        f"activations {gib(setting.kept(model))} GiB{' (an estimate)' if setting.activations is None else ''}"
    ]
    if not setting.one_batch:
        lines.append(
            f"streaming several batches: {groups(model, setting)} groups of parameters for a memory budget of "
            f"{gib(setting.budget(model))} GiB, {readings(model, setting):.3g} passes per batch; more means fewer"
        )
    lines += [f"* {note}" for note in dict.fromkeys(way.note for way in planned.ways) if note]
    if planned.capacity is None:
        lines.append("fits: give --memory, or a --device with a datasheet")
    else:
        lines.append(f"fits: into {gib(planned.capacity)} GiB, without a CUDA context and what an allocator keeps back")
    if planned.rates.flops is None or planned.rates.bandwidth is None:
        lines.append("seconds: give --tflops and --bandwidth, or a --device with a datasheet")
    elif setting.devices > 1 and planned.rates.link is None:
        lines.append("seconds: without what sharding sends; give --link to count it")
    return lines


def gib(value: float) -> str:
    """Bytes as GiB, three digits."""
    held = value / 2**30
    if held == 0:
        return "0"
    return f"{held:,.0f}" if held >= 100 else f"{held:.3g}" if held >= 0.001 else "<0.001"


def seconds(value: float | None) -> str:
    """Seconds to three digits."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
