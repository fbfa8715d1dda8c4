"""One call of every op, as data: arguments on the CPU, what it returns and writes, and its specification.

The lists are awkward on purpose: all dtypes, strides, storage offsets that are no multiple of 16 bytes, a number,
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.bracket import bracket_histogram_ref, bracket_split_ref
from fgunlearn.ops.gather import sparse_gather_ref, sparse_scatter_ref
from fgunlearn.ops.perturb import GAUSSIAN_STREAM, rms_ref, sparse_ascent_ref, sparse_perturb_ref
from fgunlearn.ops.score import count_nonfinite_ref, score_accumulate_ref, score_accumulate_topk_ref
from fgunlearn.ops.select import (
    randomk_select_ref,
    topk_select_each_ref,
    topk_select_packed_ref,
    topk_select_ref,
)
from fgunlearn.ops.sparse_add import sparse_add_ref, sparse_take_ref
from fgunlearn.ops.spd_perturb import spd_perturb_ref
from fgunlearn.ops.update import sparse_adam_ref, sparse_sgd_ref

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """``make(seed)`` gives the arguments, of the same shapes and index counts for every seed.

    ``writes`` are the positions of the arguments that are written to. Outputs are what is returned and then what is
    written, in one list of tensors: ``reference`` gives the same. ``tolerance`` is towards the reference, relative,
    by dtype; 0 is bit for bit. ``between_devices`` is that towards the CPU. ``waits``: on CUDA the host waits for the
    result. ``raw``: called as torch.ops.fgunlearn has it; the public function has other arguments, or there is none.
    """

    op: str
    make: Callable[[int], Arguments]
    reference: Callable[..., Any]
    writes: tuple[int, ...] = ()
    tolerance: dict[torch.dtype, float] = field(default_factory=dict)
    between_devices: float = 0.0
    waits: bool = False
    raw: bool = False

    def run(self, arguments: Arguments) -> list[Tensor]:
        returned = getattr(torch.ops.fgunlearn if self.raw else ops, self.op)(*arguments)
        return [*leaves(returned), *leaves([arguments[at] for at in self.writes])]

    def expected(self, arguments: Arguments) -> list[Tensor]:
        return leaves(self.reference(*arguments))


def leaves(nested: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    return [leaf for part in nested for leaf in leaves(part)] if isinstance(nested, (list, tuple)) else []


def placed(nested: Any, device: torch.device | str) -> Any:
    """A copy with every tensor on the device, of the same strides and storage offset."""
    if isinstance(nested, Tensor):
        room = nested.untyped_storage().nbytes() // nested.element_size()
        storage = nested.detach().as_strided((room,), (1,), 0).to(device, copy=True)
        return storage.as_strided(nested.size(), nested.stride(), nested.storage_offset())
    if isinstance(nested, (list, tuple)):
        return type(nested)(placed(part, device) for part in nested)
    return nested


def assert_same_bits(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(got) == len(wanted)
    for position, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.dtype == b.dtype, position
        assert a.shape == b.shape, position
        a, b = (x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        assert a.equal(b), f"output {position} differs in {int((a != b).sum())} bytes of {a.numel()}"


def assert_close(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: dict[torch.dtype, float]) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        if tolerance.get(a.dtype, 0.0) == 0.0:
            assert_same_bits([a], [b])
        else:
            rtol = tolerance[a.dtype]
            torch.testing.assert_close(a.detach().cpu(), b.detach(), rtol=rtol, atol=rtol)


def tensors(seed: int, wide: bool = True) -> list[Tensor]:
    """Random tensors; without ``wide`` none is float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    made = [
        normal(331, 7),
        normal(2, 3, 5, 4).bfloat16().to(memory_format=torch.channels_last),
        normal(1_001)[1:],
        normal(0, 3),
        normal(70_003),
        normal(500, 2).half()[:, 0],
        normal(40, 33).half().t(),
        normal().bfloat16(),
        normal(8_193)[1:].bfloat16(),
        normal(64, 65),
    ]
    return [*made, normal(40, 33).double(), normal(9_001).double()[1:]] if wide else made


def indices_into(parts: Sequence[Tensor], seed: int, share: float = 0.15) -> list[Tensor]:
    """Ascending random indices, of int32 and int64 in turn."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randperm(t.numel(), generator=generator)[: round(share * t.numel() + 0.4)]
        .sort()
        .values.to(torch.int64 if position % 2 else torch.int32)
        for position, t in enumerate(parts)
    ]


def state_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _scores(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    grads = tensors(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    scores = []
    for position, g in enumerate(grads):
        odd = position % 3  # a storage offset, for some
        room = torch.randn(g.numel() + odd, generator=generator).to(state_dtype(g))
        scores.append(room[odd:].reshape(g.shape))
    return scores, grads


def _perturb(seed: int) -> Arguments:
    theta = tensors(seed)
    count = len(theta)
    offsets = [10**10 * (t % 2) + sum(x.numel() for x in theta[:t]) for t in range(count)]
    draw = [("none", "normal", "uniform")[t % 3] for t in range(count)]
    keep = [(0.0, 1.0, 0.5, 1.0)[t % 4] for t in range(count)]
    index = indices_into(theta, seed + 1)
    return theta, index, draw, keep, [0.25] * count, [0.5] * count, 7, GAUSSIAN_STREAM, offsets


def _sgd(seed: int, momentum: float, nesterov: bool) -> Arguments:
    param = tensors(seed)
    grad = [t.contiguous() for t in tensors(seed + 1)]
    index = indices_into(param, seed + 2)
    buffers = [torch.zeros(i.numel(), dtype=state_dtype(p)) for i, p in zip(index, param, strict=True)]
    first = [t % 2 for t in range(len(param))]
    return param, grad, index, buffers if momentum else [], first, 0.1, momentum, 0.0, 0.01, nesterov, False


def _adam(seed: int, decoupled: bool, amsgrad: bool) -> Arguments:
    param, grad, index, first_moment, *_ = _sgd(seed, 0.9, False)
    second_moment = [torch.full_like(t, 0.5) for t in first_moment]
    largest = [torch.full_like(t, 0.7) for t in first_moment] if amsgrad else []
    step = [torch.tensor(1.0 + t) for t in range(len(param))]
    rule = (0.1, 0.9, 0.999, 1e-8, 0.01, decoupled, amsgrad, False)
    return param, grad, index, first_moment, second_moment, largest, step, *rule


def _base(numels: list[int], seed: int) -> list[Tensor]:
    return ops.randomk_select(numels, sum(numels) // 50, seed)


_NUMELS = [70_003, 0, 1, 331, 4_096, 64]
_ROUNDING = {
    torch.float32: 1e-6,
    torch.float64: 1e-12,
    torch.float16: float(torch.finfo(torch.float16).eps),
    torch.bfloat16: float(torch.finfo(torch.bfloat16).eps),
}


def _add(dtype: torch.dtype, seed: int) -> Arguments:
    theta = torch.randn(281 * 249 + 1, generator=torch.Generator().manual_seed(seed)).to(dtype)[1:].reshape(281, -1).t()
    (index,) = indices_into([theta], seed + 1)
    return theta, index, torch.randn(index.numel(), generator=torch.Generator().manual_seed(seed + 2))


def _shift(seed: int, shape: tuple[int, ...], dtype: torch.dtype, norm: str, each: bool) -> Arguments:
    """x + delta is not near a limit, where a last bit decides on a gradient; every fourth sample is inside the ball."""
    generator = torch.Generator().manual_seed(seed)
    room = torch.Size([math.prod(shape) + 3])
    place = torch.randint(0, 3, room, generator=generator)
    x = torch.tensor([-2.0, 0.35, 2.0])[place] + 0.3 * torch.rand(room, generator=generator)
    g = 2 * torch.randn(room, generator=generator)
    x, g = (t.to(dtype)[3 * (seed % 2) :][: math.prod(shape)].reshape(shape) for t in (x, g))
    g[::4] *= 1e-3
    eps = 0.05 + 0.2 * torch.rand(shape[0], generator=generator) if each else None
    return x, g, eps, 0.2, norm, 0.15 if norm == "linf" else 1.5, 0.0, 1.0


def _shift_ref(
    x: Tensor, g: Tensor, each: Tensor | None, eps: float, norm: str, radius: float, lo: float, hi: float
) -> tuple[Tensor, Tensor]:
    used = eps if each is None else each
    out = spd_perturb_ref(x, g, eps=used, norm=norm, radius=radius, lo=lo, hi=hi)
    delta = (used if each is None else used.double().reshape(-1, *[1] * (x.dim() - 1))) * torch.tanh(g.double())
    order = {"l2": 2.0, "linf": torch.inf}.get(norm)
    norms = delta.new_empty(0) if order is None else torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
    return out, norms.to(state_dtype(x))


def _shift_backward(seed: int, shape: tuple[int, ...], dtype: torch.dtype, norm: str, each: bool) -> Arguments:
    x, g, *rule = _shift(seed, shape, dtype, norm, each)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    return grad, x, g, _shift_ref(x, g, *rule)[1], *rule, True, True


def _shift_backward_ref(grad: Tensor, x: Tensor, g: Tensor, norms: Tensor, *how: Any) -> tuple[Tensor, ...]:
    *rule, to_x, to_g = how
    assert to_x
    assert to_g
    x, g = x.detach().requires_grad_(), g.detach().requires_grad_()
    return torch.autograd.grad(_shift_ref(x, g, *rule)[0], (x, g), grad)


_SHIFTS = {
    "plain": ((3, 2, 5, 7), torch.float32, "none", False),
    "eps for each": ((5, 70_003), torch.bfloat16, "none", True),
    "many small l2": ((700, 1, 8, 8), torch.float32, "l2", False),
    "small linf": ((9, 3, 31, 33), torch.float16, "linf", True),
    "l2": ((3, 3, 101, 103), torch.float32, "l2", True),
    "linf": ((2, 20_001), torch.bfloat16, "linf", False),
    "l2 in float64": ((3, 9_001), torch.float64, "l2", False),
}

CASES: dict[str, Case] = {
    "topk_select": Case("topk_select", lambda seed: (tensors(seed), 4_321), topk_select_ref, waits=True),
    "topk_select without float64": Case(
        "topk_select", lambda seed: (tensors(seed, wide=False), 4_321), topk_select_ref, waits=True
    ),
    "topk_select_each": Case(
        "topk_select_each",
        lambda seed: (tensors(seed), [t.numel() // 9 for t in tensors(seed)]),
        topk_select_each_ref,
        waits=True,
    ),
    "topk_select_packed": Case("topk_select_packed", lambda seed: (tensors(seed), 4_321), topk_select_packed_ref),
    "topk_select_packed without float64": Case(
        "topk_select_packed", lambda seed: (tensors(seed, wide=False), 4_321), topk_select_packed_ref
    ),
    "randomk_select": Case(
        "randomk_select",
        lambda seed: (_NUMELS, 3_210, seed, [torch.zeros(0, dtype=torch.int32)] * len(_NUMELS)),
        randomk_select_ref,
        waits=True,
    ),
    "randomk_select outside a base": Case(
        "randomk_select",
        lambda seed: (_NUMELS, 3_210, seed, _base(_NUMELS, seed + 1)),
        randomk_select_ref,
        waits=True,
    ),
    **{
        f"bracket_histogram {name}": Case(
            "bracket_histogram",
            lambda seed, how=how: (tensors(seed, wide=how[-1]), *how),
            bracket_histogram_ref,
        )
        for name, how in (
            ("of all keys", (0, 20, 2_048, False)),
            ("of wide keys", (0x3FE0 << 48, 42, 2_049, True)),
            ("of many bins", (0x3F00 << 16, 8, 65_536, False)),
        )
    },
    "bracket_split": Case(
        "bracket_split",
        lambda seed: (tensors(seed, wide=False), 0x3FF0 << 16, 0x4000 << 16, False),
        bracket_split_ref,
        waits=True,
    ),
    "bracket_split of wide keys": Case(
        "bracket_split",
        lambda seed: (tensors(seed), 0x3FE0 << 48, 0x4000 << 48, True),
        bracket_split_ref,
        waits=True,
    ),
    **{
        f"score_accumulate_ {kind}": Case(
            "score_accumulate_",
            lambda seed, kind=kind: (*_scores(seed), kind, 0.37),
            score_accumulate_ref,
            writes=(0,),
        )
        for kind in ("grad", "abs_grad", "fisher")
    },
    **{
        f"score_accumulate_topk_ {kind}": Case(
            "score_accumulate_topk_",
            lambda seed, kind=kind: (*_scores(seed), kind, 0.37, [4_321]),
            score_accumulate_topk_ref,
            writes=(0,),
        )
        for kind in ("grad", "abs_grad", "fisher")
    },
    "score_accumulate_topk_ each": Case(
        "score_accumulate_topk_",
        lambda seed: (*_scores(seed), "grad", 0.37, [t.numel() // 9 for t in tensors(seed)], True),
        score_accumulate_topk_ref,
        writes=(0,),
    ),
    "count_nonfinite": Case(
        "count_nonfinite",
        lambda seed: ([torch.where(t.abs() > 1.5, torch.inf if seed % 2 else torch.nan, t) for t in tensors(seed)],),
        count_nonfinite_ref,
    ),
    "sparse_perturb_": Case(
        "sparse_perturb_",
        _perturb,
        sparse_perturb_ref,
        writes=(0,),
        tolerance=_ROUNDING,
    ),
    "sparse_ascent_": Case(
        "sparse_ascent_",
        lambda seed: (tensors(seed), tensors(seed + 1), indices_into(tensors(seed), seed + 2), 0.3),
        sparse_ascent_ref,
        writes=(0,),
    ),
    "rms": Case("rms", lambda seed: (tensors(seed),), rms_ref, tolerance={torch.float64: 1e-12}, between_devices=1e-12),
    "sparse_gather": Case(
        "sparse_gather", lambda seed: (tensors(seed), indices_into(tensors(seed), seed + 1)), sparse_gather_ref
    ),
    "sparse_scatter_": Case(
        "sparse_scatter_",
        lambda seed: (
            tensors(seed),
            indices_into(tensors(seed), 1),
            sparse_gather_ref(tensors(seed + 1), indices_into(tensors(seed), 1)),
        ),
        sparse_scatter_ref,
        writes=(0,),
    ),
    **{
        f"sparse_add {str(dtype)[6:]}": Case("sparse_add", lambda seed, dtype=dtype: _add(dtype, seed), sparse_add_ref)
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    },
    "sparse_take": Case("sparse_take", lambda seed: _add(torch.float16, seed)[:2], sparse_take_ref),
    **{
        f"sparse_sgd_ {name}": Case(
            "sparse_sgd_",
            lambda seed, momentum=momentum, nesterov=nesterov: _sgd(seed, momentum, nesterov),
            sparse_sgd_ref,
            writes=(0, 3),
            tolerance=_ROUNDING,
        )
        for name, momentum, nesterov in (("plain", 0.0, False), ("momentum", 0.9, False), ("nesterov", 0.9, True))
    },
    **{
        f"sparse_adam_ {name}": Case(
            "sparse_adam_",
            lambda seed, decoupled=decoupled, amsgrad=amsgrad: _adam(seed, decoupled, amsgrad),
            sparse_adam_ref,
            writes=(0, 3, 4, 5),
            tolerance=_ROUNDING,
        )
        for name, decoupled, amsgrad in (("adam", False, False), ("adamw", True, False), ("amsgrad", False, True))
    },
    **{
        f"{op} {name}": Case(
            op,
            lambda seed, make=make, how=how: make(seed, *how),
            reference,
            tolerance={dtype: 8 * rounding for dtype, rounding in _ROUNDING.items()},
            between_devices=0.0 if how[2] == "none" else _ROUNDING[how[1]],
            raw=True,
        )
        for op, make, reference in (
            ("spd_perturb", _shift, _shift_ref),
            ("spd_perturb_backward", _shift_backward, _shift_backward_ref),
        )
        for name, how in _SHIFTS.items()
    },
}
