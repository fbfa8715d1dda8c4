"""The same on a CUDA device: more sizes, shares and peers, and what a host synchronisation costs.

"fgunlearn" is the op that gives one index tensor per tensor, and waits once for their sizes; "fgunlearn, packed" gives
one tensor of k indices and waits for nothing, so that it can also be replayed as a CUDA graph.

Floor of top-k: one read of the keys, and the k indices written.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.clocks import replayed
from fgunlearn.benchmarks.cub_topk.peer import CubTopK, load
from fgunlearn.benchmarks.inputs import adversarial, distributions, normal, resnet18
from fgunlearn.benchmarks.timing import Medians, Report

SHARES = (0.0001, 0.001, 0.01, 0.1)
ONE_PERCENT = 0.01
CUB_LIMIT = 2**31  # keys; the peer counts in 32 bits
Callables = dict[str, Callable[[], object]]


def compare_all(report: Report, part: int | None = None) -> None:
    """Every size, share and distribution; ``part`` divides all sizes but ResNet-18's, in a quick run by 100."""
    part = part or (100 if report.quick else 1)
    cub = load(report)
    for n in (10**6, 10**8, 10**9):
        # Keys and their magnitudes, the sort that torch.topk may fall back to, and room for results.
        if report.fits(f"top-k, {n // part:.0e} f32", 20.0 * n / part):
            _sizes(report, n // part, cub)
    _resnet18(report, cub)
    for n in (10**8, 10**9):
        if report.fits(f"distributions, {n // part:.0e}", 20.0 * n / part):
            _distributions(report, n // part, adversarially=n == 10**8)
        if report.fits(f"Random-k, {n // part:.0e}", 32.0 * n / part):
            _random(report, n // part)
    n = 7 * 10**9 // part
    if report.fits(f"top-k, {n:.0e} bf16", 8.0 * n):
        _past_32_bits(report, n)


def _ours(report: Report, keys: list[Tensor], k: int) -> Callables:
    def packed() -> object:
        return torch.ops.fgunlearn.topk_select_packed(keys, k)

    callables: Callables = {"fgunlearn": lambda: fg.ops.topk_select(keys, k), "fgunlearn, packed": packed}
    if report.on_cuda:
        callables["fgunlearn, packed, graph replay"] = replayed(packed)
    return callables


def _cub(cub: CubTopK | None, x: Tensor, k: int, magnitudes: Tensor) -> Callables:
    if cub is None or x.numel() >= CUB_LIMIT:
        return {}
    return {
        "cub::DeviceTopK pairs": lambda: cub.top_k(x, k, magnitudes=True),
        "cub::DeviceTopK pairs, |x| ready made": lambda: cub.top_k(magnitudes, k, magnitudes=False),
    }


def _kth_value_mask(x: Tensor, k: int) -> Tensor:
    magnitudes = x.abs()
    return (magnitudes >= torch.kthvalue(magnitudes, x.numel() - k + 1).values).nonzero()


def rank_mask(keys: list[Tensor], k: int) -> Tensor:
    # SalUn's mask (Fan et al., ICLR 2024, as published with the paper): the rank of every element by two sorts.
    flat = -torch.cat([t.reshape(-1) for t in keys]).abs()
    return torch.argsort(torch.argsort(flat)) < k


def _sizes(report: Report, n: int, cub: CubTopK | None) -> None:
    x = normal(n, report.device, seed=0)
    magnitudes = x.abs()
    for share in SHARES:
        k = int(share * n)
        callables: Callables = {
            **_ours(report, [x], k),
            "x.sum()": lambda: x.sum(),
            "torch.topk": lambda k=k: torch.topk(x.abs(), k, sorted=False),
            **_cub(cub, x, k, magnitudes),
        }
        if share == ONE_PERCENT:
            callables["torch.kthvalue + mask"] = lambda k=k: _kth_value_mask(x, k)
            if n <= 10**8:
                callables["argsort(argsort)"] = lambda k=k: rank_mask([x], k)
        what = f"top-k, {n:.0e} f32, k = {share:.2%}"
        ms = report.compare(what, callables, repeats=9, moved_bytes=floors.top_k(n, k))
        if share == ONE_PERCENT and n == 10**9:
            _targets(report, n, ms)


def _targets(report: Report, n: int, ms: Medians) -> None:
    ours = ms["fgunlearn"]
    if report.copy_gigabytes_per_second:
        read = floors.one_read(n) / report.copy_gigabytes_per_second / 1e6
        report.target("top-k, 1e9: time over one read at the copy's bandwidth", ours / read, 1.3, at_least=False)
    report.target("top-k, 1e9: faster than torch.topk", ms["torch.topk"] / ours, 10.0)
    report.target("top-k, 1e9: faster than cub::DeviceTopK pairs", ms["cub::DeviceTopK pairs"] / ours, 3.0)


def _resnet18(report: Report, cub: CubTopK | None) -> None:
    keys = resnet18(report.device)
    n = sum(t.numel() for t in keys)
    joined = torch.cat([t.reshape(-1) for t in keys])
    magnitudes = joined.abs()
    concatenation = "torch.topk of the concatenation"
    for share in SHARES:
        k = int(share * n)
        callables: Callables = {
            **_ours(report, keys, k),
            concatenation: lambda k=k: torch.topk(torch.cat([t.reshape(-1) for t in keys]).abs(), k, sorted=False),
            **{f"{name}, joined before": call for name, call in _cub(cub, joined, k, magnitudes).items()},
        }
        if share == ONE_PERCENT:
            callables["argsort(argsort)"] = lambda k=k: rank_mask(keys, k)
        what = f"top-k, ResNet-18's {len(keys)} tensors, k = {share:.2%}"
        ms = report.compare(what, callables, repeats=15, moved_bytes=floors.top_k(n, k))
        if share == ONE_PERCENT and not report.quick:
            report.target("top-k, ResNet-18: faster than torch.topk", ms[concatenation] / ms["fgunlearn"], 5.0)


def _past_32_bits(report: Report, n: int) -> None:
    # A peer that cannot count this far may take the device's context with it: this comes last, and the peer's share
    # last of all.
    x = normal(n, report.device, seed=0, dtype=torch.bfloat16)
    for share in sorted(SHARES, key=lambda share: share == ONE_PERCENT):
        k = int(share * n)
        callables: Callables = {**_ours(report, [x], k), "x.sum()": lambda: x.sum()}
        if share == ONE_PERCENT:
            callables["torch.topk"] = lambda k=k: torch.topk(x.abs(), k, sorted=False)
        what = f"top-k, {n:.0e} bf16, k = {share:.2%}"
        report.compare(what, callables, repeats=5, moved_bytes=floors.top_k(n, k, x.element_size()))


def _distributions(report: Report, n: int, *, adversarially: bool) -> None:
    k = n // 100
    x = normal(n, report.device, seed=0)
    floor = floors.top_k(n, k)
    gaussian = report.compare(f"Gaussian, {n:.0e}, k = 1%", _ours(report, [x], k), repeats=7, moved_bytes=floor)
    inputs = distributions(n, report.device)
    if adversarially:
        inputs.update(adversarial(n, report.device))
    worst = 0.0
    for name, keys in inputs.items():
        what = f"{name}, {n:.0e}, k = 1%"
        ms = report.compare(what, _ours(report, [keys], k), repeats=5, moved_bytes=floor)
        for who, taken in ms.items():
            report.row(what, who).note = f"{taken / gaussian[who]:.2f} x Gaussian"
        worst = max(worst, ms["fgunlearn"] / gaussian["fgunlearn"])
    if adversarially and not report.quick:
        report.target(f"worst input over Gaussian, {n:.0e}", worst, 4.0, at_least=False)


def _random(report: Report, n: int) -> None:
    k = n // 100
    ms = report.compare(
        f"Random-k, n = {n:.0e}, k = 1%",
        {
            "fgunlearn": lambda: fg.ops.randomk_select([n], k, 0, device=report.device),
            "torch.randperm(n)[:k]": lambda: torch.randperm(n, device=report.device)[:k],
        },
        repeats=5,
        moved_bytes=floors.random_k(n, k),
    )
    if n == 10**8:
        report.target("Random-k, 1e8: faster than randperm", ms["torch.randperm(n)[:k]"] / ms["fgunlearn"], 20.0)
