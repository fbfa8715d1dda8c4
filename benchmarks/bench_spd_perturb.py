"""SPD-GAN's shift, with and without a norm, against the same in plain torch operations: eager and compiled.

Floor: forward x and g are read and the result is written, 12 bytes per f32 element; with the way back to g, which reads
the gradient, x and g and writes dg, 28.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.clocks import replayed
from fgunlearn.benchmarks.inputs import generator, normal
from fgunlearn.benchmarks.timing import Medians, Report, add_copy
from fgunlearn.ops.spd_perturb import spd_perturb_ref

EPS = 0.1
RADIUS = 1.0
"""Less than the l2 norm of every sample's delta: all are scaled."""

Shift = Callable[[Tensor, Tensor], Tensor]
Shape = tuple[int, ...]


def run(report: Report) -> None:
    """Small and large images, norm None and l2, forward and with the way back to g; fewer images in a quick run."""
    if report.copy_gigabytes_per_second is None:
        add_copy(report, 10**6 if report.quick else 10**8)
    if report.quick:
        report.left_out.append("torch.compile of spd_perturb: compiling is not quick")
    batch = 4 if report.quick else 256
    for norm in (None, "l2"):
        _compare(report, (batch, 3, 32, 32), norm, repeats=15)
        _compare(report, (batch, 3, 224, 224), norm, repeats=5)


def _contenders(report: Report, norm: str | None) -> dict[str, Shift]:
    def plain(x: Tensor, g: Tensor) -> Tensor:
        return spd_perturb_ref(x, g, eps=EPS, norm=norm, radius=RADIUS)

    contenders: dict[str, Shift] = {
        "fgunlearn": lambda x, g: fg.ops.spd_perturb(x, g, eps=EPS, norm=norm, radius=RADIUS),
        "torch eager": plain,
    }
    if not report.quick:
        contenders["torch.compile"] = torch.compile(plain, dynamic=False)
    return contenders


def _compare(report: Report, shape: Shape, norm: str | None, *, repeats: int) -> None:
    x = torch.rand(shape, generator=generator(report.device, 0), device=report.device)
    g, grad = (normal(shape, report.device, seed=seed) for seed in (1, 2))
    trained = g.clone().requires_grad_()
    contenders = _contenders(report, norm)
    n = math.prod(shape)
    what = f"spd_perturb, {' x '.join(map(str, shape))} f32, {'no' if norm is None else norm} norm"
    forward = {who: lambda shift=shift: shift(x, g) for who, shift in contenders.items()}
    both = {
        who: lambda shift=shift: torch.autograd.grad(shift(x, trained), trained, grad)
        for who, shift in contenders.items()
    }
    for direction, callables, moved in (
        ("forward", forward, floors.shift(n)),
        ("forward and backward", both, floors.shift(n) + floors.shift_backward(n)),
    ):
        if report.on_cuda:
            # What the host costs is more than the kernels of small images take.
            callables |= {
                f"{who}, graph replay": replayed(call) for who, call in callables.items() if who != "torch eager"
            }
        ms = report.compare(f"{what}, {direction}", callables, repeats=repeats, moved_bytes=moved)
        if not report.quick:
            _target(report, f"{what}, {direction}", ms, norm)


def _target(report: Report, what: str, ms: Medians, norm: str | None) -> None:
    if not report.on_cuda:
        if what.endswith("backward"):
            report.target(f"{what}: faster than eager", ms["torch eager"] / ms["fgunlearn"], 2.5)
        return
    ours = "fgunlearn, graph replay"
    over_compiled = ms["torch.compile, graph replay"] / ms[ours]
    report.target(f"{what}: faster than torch.compile", over_compiled, 1.0 if norm is None else 1.2)
    if norm is None and "224" in what:  # the small images are in the L2 cache, and over before memory is at full speed
        share = report.row(what, ours).copy_share if ours in ms else None
        report.target(f"{what}: share of the copy's bandwidth", math.nan if share is None else share, 0.9)
