"""One small call of every op, for compute-sanitizer and ncu: sizes that are no multiple of anything, several tensors.

Results are compared with the same calls on the CPU, so that a sanitizer's silence is about kernels that did their work.
Run it with PYTORCH_NO_CUDA_MEMORY_CACHING=1 under compute-sanitizer: with torch's caching allocator an access past the
end of a tensor is still inside an allocation. ``--numel`` makes it one large case for a profiler instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.ops.perturb import GAUSSIAN_STREAM

ops = torch.ops.fgunlearn
Results = list[Tensor]


class Case:
    """Fresh tensors on one device; the same numbers on every device if they are drawn on one, the CPU."""

    def __init__(self, numels: Sequence[int], device: str, drawn_on: str = "cpu") -> None:
        self.numels = list(numels)
        self.device = device
        self.drawn_on = drawn_on
        self.seed = 0

    def normal(self, *, dtype: torch.dtype = torch.float32, numels: Sequence[int] | None = None) -> list[Tensor]:
        """Standard normal numbers, one tensor per number of elements."""
        self.seed += 1
        generator = torch.Generator(self.drawn_on).manual_seed(self.seed)
        wanted = self.numels if numels is None else numels
        drawn = [torch.randn(n, generator=generator, device=self.drawn_on) for n in wanted]
        return [tensor.to(dtype).to(self.device) for tensor in drawn]

    def zeros(self, numels: Sequence[int]) -> list[Tensor]:
        """One tensor per number of elements."""
        return [torch.zeros(n, device=self.drawn_on).to(self.device) for n in numels]

    @property
    def k(self) -> int:
        """How many are selected."""
        return max(1, sum(self.numels) // 100)

    def indices(self) -> list[Tensor]:
        """A selection, drawn on the CPU: int32, and int64 for every second tensor."""
        drawn = fg.ops.randomk_select(self.numels, self.k, 3)
        return [(index.long() if t % 2 else index).to(self.device) for t, index in enumerate(drawn)]

    def values(self, indices: Sequence[Tensor]) -> list[Tensor]:
        """One number per index."""
        return self.normal(numels=[index.numel() for index in indices])


def _gather(case: Case) -> Results:
    return fg.ops.sparse_gather(case.normal(), case.indices())


def _scatter(case: Case) -> Results:
    tensors, indices = case.normal(dtype=torch.bfloat16), case.indices()
    fg.ops.sparse_scatter_(tensors, indices, [v.bfloat16() for v in case.values(indices)])
    return tensors


def _perturb(case: Case) -> Results:
    tensors, indices = case.normal(), case.indices()
    lists = len(tensors)
    starts = [sum(case.numels[:t]) for t in range(lists)]
    for draw, keep, scale in (("normal", 1.0, 0.1), ("uniform", 0.5, 0.2), ("none", 0.0, 0.0)):
        arguments = ([draw] * lists, [keep] * lists, [0.1] * lists, [scale] * lists, 5, GAUSSIAN_STREAM, starts)
        fg.ops.sparse_perturb_(tensors, indices, *arguments)
        if draw == "uniform":
            kept = [t.clone() for t in tensors]
    return kept + tensors


def _ascent(case: Case) -> Results:
    tensors = case.normal()
    fg.ops.sparse_ascent_(tensors, case.normal(), case.indices(), 0.1)
    return tensors


def _rms(case: Case) -> Results:
    return [fg.ops.rms(case.normal())]


def _accumulate(case: Case) -> Results:
    scores = case.zeros(case.numels)
    for kind, dtype in (("grad", torch.float32), ("abs_grad", torch.bfloat16), ("fisher", torch.float16)):
        fg.ops.score_accumulate_(scores, case.normal(dtype=dtype), kind, 0.25)
    return scores


def _accumulate_top_k(case: Case) -> Results:
    results = []
    for k, each in (([case.k], False), ([n // 50 for n in case.numels], True)):
        scores = case.zeros(case.numels)
        selected = ops.score_accumulate_topk_(scores, case.normal(), "abs_grad", 1.0, k, each)
        results += [*scores, *selected]
    return results


def _count_nonfinite(case: Case) -> Results:
    tensors = case.normal()
    tensors[0][::7] = torch.inf
    return [fg.ops.count_nonfinite(tensors)]


def _top_k(case: Case) -> Results:
    mixed = [*case.normal(), *case.normal(dtype=torch.bfloat16), *case.normal(dtype=torch.float16)]
    ties = [(10.0 * t).round() for t in case.normal()]
    results = []
    for keys in (mixed, ties):
        for exhaustive in (False, True):
            indices, threshold = ops.topk_select(keys, case.k, exhaustive)
            results += [*indices, threshold]
    return results


def _top_k_each(case: Case) -> Results:
    indices, thresholds = fg.ops.topk_select_each(case.normal(), [n // 50 for n in case.numels])
    return [*indices, thresholds]


def _top_k_packed(case: Case) -> Results:
    return list(ops.topk_select_packed(case.normal(), case.k))


def _bracket_keys(case: Case, wide: bool) -> list[Tensor]:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    return [t for dtype in dtypes[: 4 if wide else 3] for t in case.normal(dtype=dtype)]


def _bracket_histogram(case: Case) -> Results:
    narrow, wide = _bracket_keys(case, False), _bracket_keys(case, True)
    results = [fg.ops.bracket_histogram(wide, 0, 52, 2_048, True)]
    for bins in (2_048, 8_192, 65_536):  # in shared memory, of two sizes, and in global memory
        results.append(fg.ops.bracket_histogram(narrow, 0x3F00 << 16, 9, bins, False))
    return results


def _bracket_split(case: Case) -> Results:
    results = []
    for wide, bits in ((False, 16), (True, 48)):
        for indices in fg.ops.bracket_split(_bracket_keys(case, wide), 0x3F90 << bits, 0x4000 << bits, wide):
            results += indices
    return results


def _random_k(case: Case) -> Results:
    nothing = [torch.empty(0, dtype=torch.int32, device=case.device) for _ in case.numels]
    return [
        *ops.randomk_select(case.numels, case.k, 11, nothing),
        *ops.randomk_select(case.numels, case.k, 11, case.indices()),
    ]


def _sparse_add(case: Case) -> Results:
    theta, index = case.normal()[0].requires_grad_(), case.indices()[0]
    delta = case.values([index])[0].requires_grad_()
    out = fg.ops.sparse_add(theta, index, delta)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), (theta, delta))]


def _sparse_take(case: Case) -> Results:
    theta, index = case.normal()[0].requires_grad_(), case.indices()[0]
    values = fg.ops.sparse_take(theta, index)
    return [values.detach(), *torch.autograd.grad(values.square().sum(), theta)]


# Of spd_perturb: norm, samples, and whether each has its own eps. Samples in registers, in tiles, and in one piece.
_SHIFTS = (("none", 1, False), ("none", 3, True), ("l2", 100, False), ("l2", 2, True), ("linf", 7, True))


def _shifts(case: Case) -> list[tuple[Tensor, Tensor, Sequence[object]]]:
    """x, g and the other arguments of spd_perturb. Nothing is near a limit, where a last bit decides on a gradient."""
    made = []
    for norm, samples, each in _SHIFTS:
        size = max(case.numels) // samples
        x, g = (t.reshape(samples, size) for t in case.normal(numels=[samples * size] * 2))
        eps = torch.linspace(0.1, 0.2, samples).to(case.device) if each else None
        made.append((torch.where(x > 0, 0.5, 2.0), g, (eps, 0.2, norm, 0.15, 0.0, 1.0)))
    return made


def _spd_perturb(case: Case) -> Results:
    return [t for x, g, rule in _shifts(case) for t in ops.spd_perturb(x, g, *rule)]


def _spd_perturb_backward(case: Case) -> Results:
    results = []
    for x, g, rule in _shifts(case):
        norms = ops.spd_perturb(x, g, *rule)[1]
        grad = case.normal(numels=[x.numel()])[0].reshape(x.shape)
        results += ops.spd_perturb_backward(grad, x, g, norms, *rule, True, True)
    return results


def _sgd(case: Case) -> Results:
    params, grads, indices = case.normal(), case.normal(), case.indices()
    momenta = case.zeros([index.numel() for index in indices])
    for first in (1, 0):
        fg.ops.sparse_sgd_(
            params, grads, indices, momenta, [first] * len(params), 0.1, 0.9, 0.0, 1e-4, bool(first), False
        )
    return [*params, *momenta]


def _adam(case: Case) -> Results:
    params, grads, indices = case.normal(), case.normal(), case.indices()
    sizes = [index.numel() for index in indices]
    first, second, largest = case.zeros(sizes), case.zeros(sizes), case.zeros(sizes)
    for count in (1.0, 2.0):
        steps = [torch.tensor(count) for _ in params]
        fg.ops.sparse_adam_(
            params, grads, indices, first, second, largest, steps, 0.1, 0.9, 0.999, 1e-8, 0.01, True, True, False
        )
    return [*params, *first, *second, *largest]


CASES: dict[str, Callable[[Case], Results]] = {
    "bracket_histogram": _bracket_histogram,
    "bracket_split": _bracket_split,
    "count_nonfinite": _count_nonfinite,
    "randomk_select": _random_k,
    "rms": _rms,
    "score_accumulate_": _accumulate,
    "score_accumulate_topk_": _accumulate_top_k,
    "sparse_adam_": _adam,
    "sparse_add": _sparse_add,
    "sparse_ascent_": _ascent,
    "sparse_gather": _gather,
    "sparse_perturb_": _perturb,
    "sparse_scatter_": _scatter,
    "sparse_sgd_": _sgd,
    "sparse_take": _sparse_take,
    "spd_perturb": _spd_perturb,
    "spd_perturb_backward": _spd_perturb_backward,
    "topk_select": _top_k,
    "topk_select_each": _top_k_each,
    "topk_select_packed": _top_k_packed,
}


def registered() -> set[str]:
    """The names of all ops of fgunlearn that torch knows."""
    names = torch._C._dispatch_get_all_op_names()
    return {name.partition("::")[2].partition(".")[0] for name in names if name.startswith("fgunlearn::")}


def differs(got: Tensor, expected: Tensor) -> bool:
    """Whether two results are not alike: integers exactly, floats to the rounding of a few operations."""
    got = got.cpu()
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return True
    if not got.is_floating_point():
        return not got.equal(expected)
    return not torch.allclose(got.double(), expected.double(), rtol=1e-2 if got.itemsize == 2 else 1e-5, atol=1e-6)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status: 0, or 1 where an op is missing, fails, or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--numel", type=int, help="one tensor of this size for every op, not compared with the CPU")
    parser.add_argument("--only", action="append", choices=sorted(CASES), help="this op; may be repeated")
    chosen = parser.parse_args(arguments)
    numels = [20_011, 1, 513, 4_097] if chosen.numel is None else [chosen.numel]
    bad = 0
    for name, body in CASES.items():
        if chosen.only and name not in chosen.only:
            continue
        try:
            got = body(Case(numels, chosen.device, "cpu" if chosen.numel is None else chosen.device))
            if torch.device(chosen.device).type == "cuda":
                torch.cuda.synchronize()
            compared = [] if chosen.numel is not None else body(Case(numels, "cpu"))
            wrong = [t for t, (a, b) in enumerate(zip(got, compared, strict=False)) if differs(a, b)]
            outcome = f"differs from the CPU in results {wrong}" if wrong else "ok"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        bad += outcome != "ok"
        print(f"{name}: {outcome}", flush=True)
    missing = registered() - set(CASES)
    for name in sorted(missing):
        print(f"{name}: no case for this op; add one to CASES")
    if bad or missing:
        return 1
    print("every op ran" if not chosen.only else "done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
