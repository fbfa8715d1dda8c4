"""Which coordinates to select: Top-K, Random-k and their mixture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.arguments import check_choice, check_seed
from fgunlearn.parameters import check_tensors, shapes_of
from fgunlearn.scoring import ScoreKind
from fgunlearn.seeding import derived_seed
from fgunlearn.selection.by_channel import Pool, choose_channels
from fgunlearn.selection.channels import Channels, rows_of
from fgunlearn.selection.selection import Selection

Scope = Literal["global", "tensor", "channel"]


def _check_size(k: int | None, ratio: float | None) -> None:
    if (k is None) == (ratio is None):
        raise ValueError(f"give exactly one of k and ratio, got k={k} and ratio={ratio}")
    if k is not None:
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"k must be an int, got {k!r}")
        if k < 0:
            raise ValueError(f"k must be >= 0, got {k}")
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
            raise TypeError(f"ratio must be a number, got {ratio!r}")
        if not 0.0 <= ratio <= 1.0:  # also refuses NaN
            raise ValueError(f"ratio must be in [0, 1], got {ratio}")


def _check_pool(pool: object, scope: str) -> None:
    check_choice(pool, get_args(Pool), "pool")
    if pool != "sum" and scope != "channel":
        raise ValueError(f"pool={pool!r} is for scope='channel', got scope={scope!r}")


def resolve_k(n: int, k: int | None, ratio: float | None) -> int:
    """k itself, or round(ratio * n).

    Raises:
        ValueError: k > n.
    """
    if k is None:
        assert ratio is not None
        return round(ratio * n)
    if k > n:
        raise ValueError(f"k must be at most the number of coordinates, {n}, got {k}")
    return k


def apportion(k: int, numels: Sequence[int]) -> list[int]:
    """Splits k over tensors in proportion to their sizes; exactly k, by largest remainder, first tensor first."""
    n = sum(numels)
    if n == 0:
        return [0] * len(numels)
    shares = [k * numel // n for numel in numels]
    by_remainder = sorted(range(len(numels)), key=lambda t: (-(k * numels[t] % n), t))
    for t in by_remainder[: k - sum(shares)]:
        shares[t] += 1
    return shares


def _top(keys: Sequence[Tensor], k: int, scope: Scope, labels: Sequence[str]) -> tuple[list[Tensor], float | None]:
    try:
        if scope == "global":
            indices, threshold = ops.topk_select(keys, k)
            return indices, float(threshold)
        indices, _ = ops.topk_select_each(keys, apportion(k, [t.numel() for t in keys]))
        return indices, None
    except RuntimeError as error:
        found = re.search(r"keys\[(\d+)\] holds (\d+) NaN", str(error))
        if found is None:
            raise
        raise ValueError(f"{labels[int(found[1])]} holds {found[2]} NaN: there is no order to select by") from None


def _random(
    numels: Sequence[int], k: int, seed: int, scope: Scope, device: torch.device, base: Sequence[Tensor] = ()
) -> list[Tensor]:
    """k random coordinates outside base, united with it."""
    if scope == "global":
        return ops.randomk_select(numels, k, seed, base, device=device)
    free = [numel - (base[t].numel() if base else 0) for t, numel in enumerate(numels)]
    indices = []
    for t, share in enumerate(apportion(k, free)):
        # A seed for each, so that tensors of one shape don't get the same subset.
        indices += ops.randomk_select([numels[t]], share, derived_seed(seed, t), base[t : t + 1], device=device)
    return indices


def _device_of(tensors: Iterable[Tensor]) -> torch.device:
    return next((t.device for t in tensors), torch.device("cpu"))


def _channels(parameters: Mapping[str, Tensor], channels: Channels | None, k: int, **how: Any) -> list[Tensor]:
    """:func:`choose_channels`; of rows where no channels are given."""
    channels = rows_of(shapes_of(parameters.values())) if channels is None else channels
    return choose_channels(channels, k, _device_of(parameters.values()), **how)


@dataclass(frozen=True)
class TopK:
    """The k coordinates with the largest score; ties go to the smallest global index.

    Args:
        ratio: share of all coordinates, in [0, 1]; k = round(ratio * n).
        k: their number. Exactly one of the two.
        score: what to rank by, see :func:`fgunlearn.score`.
        scope: "global" ranks all tensors together; "tensor" takes the same share of each (exactly k in all); "channel"
            ranks and takes whole channels, neurons and heads (:func:`fgunlearn.selection.channels_of` says what they
            are), the last one in part, its largest scores first, so that it is exactly k.
        pool: what scope "channel" ranks by: "sum", the total score of a channel, which prefers large ones; or "mean",
            the score per coordinate (the greedy rule of the knapsack problem): no whole channels with k coordinates at
            most have a larger total than what it selects. Ties go to the channel with the smallest global index.
    """

    ratio: float | None = None
    _: KW_ONLY
    k: int | None = None
    score: ScoreKind = "grad"
    scope: Scope = "global"
    pool: Pool = "sum"

    def __post_init__(self) -> None:
        _check_size(self.k, self.ratio)
        check_choice(self.score, get_args(ScoreKind), "score")
        check_choice(self.scope, get_args(Scope), "scope")
        _check_pool(self.pool, self.scope)

    @property
    def score_kind(self) -> ScoreKind | None:
        """The score this strategy ranks by; None when it needs none."""
        return self.score

    def choose(
        self,
        parameters: Mapping[str, Tensor],
        scores: Mapping[str, Tensor] | None,
        channels: Channels | None = None,
    ) -> Selection:
        """The selection from scores by parameter name.

        ``channels`` are those of scope "channel"; rows of the first dimensions if None.
        """
        assert scores is not None
        keys = [scores[name] for name in parameters]
        k = resolve_k(sum(t.numel() for t in keys), self.k, self.ratio)
        labels = [f"the score of {name!r}" for name in parameters]
        if self.scope == "channel":
            top = _channels(parameters, channels, k, ranked=k, keys=keys, pool=self.pool, labels=labels)
            return self.complete(parameters, top, None)
        return self.complete(parameters, *_top(keys, self.top_count(k), self.scope, labels))

    def top_count(self, k: int) -> int:
        """How many of k are ranked."""
        return k

    def complete(self, parameters: Mapping[str, Tensor], top: Sequence[Tensor], threshold: float | None) -> Selection:
        """The selection from the ranked coordinates, per parameter."""
        return Selection.of_kernel(shapes_of(parameters.values()), top, names=list(parameters), threshold=threshold)


@dataclass(frozen=True)
class RandomK:
    """A uniform k-subset, a pure function of seed and coordinate: the same on any number of threads or shards.

    Args:
        ratio: share of all coordinates, in [0, 1]; k = round(ratio * n).
        k: their number. Exactly one of the two.
        seed: any 64-bit integer.
        scope: "global" draws from all tensors together; "tensor" draws the same share from each (exactly k in all);
            "channel" draws whole channels, neurons and heads, large or small with the same chance, and a uniform part
            of the last one.
    """

    ratio: float | None = None
    _: KW_ONLY
    k: int | None = None
    seed: int = 0
    scope: Scope = "global"

    def __post_init__(self) -> None:
        _check_size(self.k, self.ratio)
        check_seed(self.seed)
        check_choice(self.scope, get_args(Scope), "scope")

    @property
    def score_kind(self) -> ScoreKind | None:
        """None: no score is needed."""
        return None

    def choose(
        self,
        parameters: Mapping[str, Tensor],
        scores: Mapping[str, Tensor] | None,
        channels: Channels | None = None,
    ) -> Selection:
        """The selection; ``scores`` is not looked at; ``channels`` as for :meth:`TopK.choose`."""
        numels = [t.numel() for t in parameters.values()]
        k = resolve_k(sum(numels), self.k, self.ratio)
        if self.scope == "channel":
            indices = _channels(parameters, channels, k, seed=self.seed)
        else:
            indices = _random(numels, k, self.seed, self.scope, _device_of(parameters.values()))
        return Selection.of_kernel(shapes_of(parameters.values()), indices, names=list(parameters), seed=self.seed)


@dataclass(frozen=True)
class RandomTopK:
    """floor(top_share * k) coordinates by Top-K, the rest uniform from the others.

    Args:
        ratio: share of all coordinates, in [0, 1]; k = round(ratio * n).
        k: their number. Exactly one of the two.
        top_share: 0 is Random-k, 1 is Top-K.
        score: what to rank by, see :func:`fgunlearn.score`.
        seed: any 64-bit integer.
        scope: "global", "tensor" or "channel"; with "channel" the channel in which the ranked part ends is taken whole
            before others are drawn, so that one channel at most is taken in part.
        pool: as for :class:`TopK`.
    """

    ratio: float | None = None
    _: KW_ONLY
    k: int | None = None
    top_share: float = 0.5
    score: ScoreKind = "grad"
    seed: int = 0
    scope: Scope = "global"
    pool: Pool = "sum"

    def __post_init__(self) -> None:
        _check_size(self.k, self.ratio)
        check_choice(self.score, get_args(ScoreKind), "score")
        check_seed(self.seed)
        check_choice(self.scope, get_args(Scope), "scope")
        _check_pool(self.pool, self.scope)
        if isinstance(self.top_share, bool) or not isinstance(self.top_share, (int, float)):
            raise TypeError(f"top_share must be a number, got {self.top_share!r}")
        if not 0.0 <= self.top_share <= 1.0:
            raise ValueError(f"top_share must be in [0, 1], got {self.top_share}")

    @property
    def score_kind(self) -> ScoreKind | None:
        """The score the top part ranks by; None when there is no top part."""
        return self.score if self.top_share > 0 else None

    def choose(
        self,
        parameters: Mapping[str, Tensor],
        scores: Mapping[str, Tensor] | None,
        channels: Channels | None = None,
    ) -> Selection:
        """The selection from scores by parameter name; ``channels`` as for :meth:`TopK.choose`."""
        numels = [t.numel() for t in parameters.values()]
        k = resolve_k(sum(numels), self.k, self.ratio)
        top = self.top_count(k)
        assert scores is not None or top == 0
        keys = [scores[name] for name in parameters] if scores is not None else []
        labels = [f"the score of {name!r}" for name in parameters]
        if self.scope == "channel":
            indices = _channels(
                parameters, channels, k, ranked=top, keys=keys, pool=self.pool, seed=self.seed, labels=labels
            )
            return self._selection(parameters, indices, None)
        return self.complete(parameters, *(_top(keys, top, self.scope, labels) if top else ([], None)))

    def top_count(self, k: int) -> int:
        """How many of k are ranked: floor(top_share * k), of the share as it is written: 29 of 100 for 0.29."""
        return math.floor(self.top_share * k + 1e-9)

    def complete(self, parameters: Mapping[str, Tensor], top: Sequence[Tensor], threshold: float | None) -> Selection:
        """The selection from the ranked coordinates, per parameter (an empty list where none are), and random ones."""
        numels = [t.numel() for t in parameters.values()]
        rest = resolve_k(sum(numels), self.k, self.ratio) - sum(index.numel() for index in top)
        indices = _random(numels, rest, self.seed, self.scope, _device_of(parameters.values()), top)
        return self._selection(parameters, indices, threshold)

    def _selection(
        self, parameters: Mapping[str, Tensor], indices: Sequence[Tensor], threshold: float | None
    ) -> Selection:
        return Selection.of_kernel(
            shapes_of(parameters.values()), indices, names=list(parameters), threshold=threshold, seed=self.seed
        )


Strategy = TopK | RandomK | RandomTopK


def _listed(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(f"tensors must be a list of tensors, got {type(tensors).__name__}")
    return {str(t): tensor for t, tensor in enumerate(tensors)}


def _processes(named: Mapping[str, Tensor], group: Any) -> Any:
    from fgunlearn.distributed.processes import processes_of  # which is above this module

    return processes_of({f"tensor {name!r}": tensor for name, tensor in named.items()}, group)


def topk(
    tensors: Sequence[Tensor],
    *,
    k: int | None = None,
    ratio: float | None = None,
    scope: Scope = "global",
    pool: Pool = "sum",
    group: Any = None,
) -> Selection:
    """The k coordinates with the largest absolute value over a list of tensors.

    Exact, without a copy or a sort; ties go to the smallest global index (tensors one after another, C order).

    Args:
        tensors: float32, float64, float16 or bfloat16 tensors of any shapes, mixed if need be, on one device; the
            selection is there as well.
        k: how many; or
        ratio: their share, k = round(ratio * n). Exactly one of the two.
        scope: "global" ranks all tensors together; "tensor" takes the same share of each; "channel" ranks and takes
            whole rows of the tensors' first dimensions, see :class:`TopK`.
        pool: what scope "channel" ranks rows by: the "sum" of their absolute values or the "mean".
        group: a ``torch.distributed`` process group, all of which call this: tensor t is then the concatenation along
            dimension 0 of what its ranks have as tensor t, which may differ in length there or be empty. DTensors are
            ranked over their whole mesh with or without it. Counts are sent, below 200 KB (scope "tensor": below 1 MiB
            with up to 700 tensors, 450 if one is float64, and with more at most 1.5 KB, or 2.3 KB, for each), and no
            values; scope "channel" is refused.

    Returns:
        The selection; over several processes a :class:`fgunlearn.distributed.ShardedSelection` of this one's part.

    Raises:
        TypeError, ValueError: what is wrong with which argument or tensor; a NaN is refused with tensor and count. Over
            several processes on all of them, with the ranks that differ.
    """

    named = _listed(tensors)

    def check() -> None:
        _check_size(k, ratio)
        check_choice(scope, get_args(Scope), "scope")
        _check_pool(pool, scope)
        check_tensors(named, "tensor")

    processes = _processes(named, group)
    if processes is not None:
        from fgunlearn.distributed.selecting import topk_over  # which is above this module

        return topk_over(named, k, ratio, scope, check, processes)
    check()
    count = resolve_k(sum(t.numel() for t in tensors), k, ratio)
    labels = [f"tensor number {t}" for t in named]
    with torch.no_grad():
        if scope == "channel":
            rows = _channels(named, None, count, ranked=count, keys=tensors, pool=pool, labels=labels)
            return Selection.of_kernel(shapes_of(tensors), rows)
        indices, threshold = _top(list(tensors), count, scope, labels)
    return Selection.of_kernel(shapes_of(tensors), indices, threshold=threshold)


def randomk(
    tensors: Sequence[Tensor],
    *,
    k: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    scope: Scope = "global",
    group: Any = None,
) -> Selection:
    """A uniform k-subset of the coordinates of a list of tensors, whose values are not read.

    Args:
        tensors: as for :func:`topk`; only the shapes matter.
        k: how many; or
        ratio: their share, k = round(ratio * n). Exactly one of the two.
        seed: any 64-bit integer; with the shapes it determines the answer on any machine.
        scope: "global" draws from all tensors together; "tensor" draws the same share from each; "channel" draws whole
            rows of the tensors' first dimensions, see :class:`RandomK`.
        group: as for :func:`topk`: the subset is the one that a single process draws of the whole tensors.

    Returns:
        The selection; over several processes a :class:`fgunlearn.distributed.ShardedSelection` of this one's part.

    Raises:
        TypeError, ValueError: what is wrong with which argument or tensor; over several processes on all of them.
    """

    named = _listed(tensors)

    def check() -> None:
        _check_size(k, ratio)
        check_seed(seed)
        check_choice(scope, get_args(Scope), "scope")
        check_tensors(named, "tensor")

    processes = _processes(named, group)
    if processes is not None:
        from fgunlearn.distributed.selecting import randomk_over  # which is above this module

        return randomk_over(named, k, ratio, seed, scope, check, processes)
    check()
    numels = [t.numel() for t in tensors]
    count = resolve_k(sum(numels), k, ratio)
    if scope == "channel":
        indices = _channels(named, None, count, seed=seed)
    else:
        indices = _random(numels, count, seed, scope, _device_of(tensors))
    return Selection.of_kernel(shapes_of(tensors), indices, seed=seed)
