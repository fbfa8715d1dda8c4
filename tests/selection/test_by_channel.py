from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fgunlearn as fg
from channel_members import members
from fgunlearn.ops.philox import philox_word_ref
from fgunlearn.ops.select import join_global
from fgunlearn.parameters import trainable
from fgunlearn.selection.by_channel import _sums_of_rows
from fgunlearn.selection.channels import channels_of, rows_of

Batches = list[tuple[Tensor, Tensor]]


def flat(selection: fg.Selection) -> list[int]:
    return join_global(selection.indices, [math.prod(s) for s in selection.shapes]).tolist()


def by_hand(channels: list[list[int]], scores: list[float], k: int, pool: str) -> list[int]:
    """Channels from the best down, whole while they fit; the next one's best coordinates fill what is left."""

    def worth(channel: list[int]) -> float:
        total = math.fsum(abs(scores[i]) for i in channel)
        return total / len(channel) if pool == "mean" else total

    chosen: list[int] = []
    for channel in sorted(channels, key=lambda c: (-worth(c), min(c))):
        best_first = sorted(channel, key=lambda i: (-abs(scores[i]), i))
        chosen += best_first[: k - len(chosen)]
    return sorted(chosen)


def whole_but_one(selection: fg.Selection, channels: list[list[int]]) -> bool:
    chosen = set(flat(selection))
    return sum(0 < len(chosen & set(c)) < len(c) for c in channels) <= 1


small_ints = st.integers(-4, 4).map(float)  # exact sums, many ties
layers = st.sampled_from(["linear", "conv", "norm", "attention", "transposed"])


def make(kinds: list[str], frozen: bool) -> nn.Module:
    made = {
        "linear": lambda: nn.Linear(3, 4),
        "conv": lambda: nn.Conv1d(2, 4, 3),
        "norm": lambda: nn.BatchNorm1d(4),
        "attention": lambda: nn.MultiheadAttention(4, 2),
        "transposed": lambda: nn.ConvTranspose1d(4, 4, 2, groups=2),
    }
    model = nn.Sequential(*(made[kind]() for kind in kinds))
    if frozen and len(kinds) > 1:
        model[0].requires_grad_(False)
    return model


@given(
    kinds=st.lists(layers, min_size=1, max_size=4),
    frozen=st.booleans(),
    ratio=st.floats(0, 1),
    pool=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_plain_rule(kinds: list[str], frozen: bool, ratio: float, pool: Any, seed: int) -> None:
    model = make(kinds, frozen)
    parameters = trainable(model)
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.randint(0, 4, p.shape, generator=generator).float() for n, p in parameters.items()}
    channels = channels_of(model)
    chosen = fg.TopK(ratio, scope="channel", pool=pool).choose(parameters, scores, channels)
    values = torch.cat([s.flatten() for s in scores.values()]).tolist()
    assert chosen.k == round(ratio * chosen.numel)
    assert flat(chosen) == by_hand(members(channels), values, chosen.k, pool)
    assert whole_but_one(chosen, members(channels))
    assert chosen.names == tuple(parameters)
    assert chosen.threshold is None
    fg.Selection(chosen.shapes, chosen.indices)  # ascending, in range, of the right dtype


@given(
    rows=st.lists(st.lists(small_ints, min_size=1, max_size=4), min_size=1, max_size=6),
    subset=st.integers(0, 63),
)
def test_no_whole_channels_of_that_size_hold_more_than_those_by_mean(rows: list[list[float]], subset: int) -> None:
    taken = [row for at, row in enumerate(rows) if subset >> at & 1]
    k = sum(len(row) for row in taken)
    tensors = [torch.tensor([row]) for row in rows]
    chosen = fg.topk(tensors, k=k, scope="channel", pool="mean")
    held = sum(float(t.abs()[mask].sum()) for t, mask in zip(tensors, chosen.masks(), strict=True))
    assert held >= sum(abs(x) for row in taken for x in row)


def test_lists_are_ranked_by_rows() -> None:
    tensors = [torch.tensor([[1.0, -1.0], [3.0, 0.0]]), torch.tensor([2.0, -2.5]), torch.tensor(-9.0)]
    assert flat(fg.topk(tensors, k=3, scope="channel")) == [2, 3, 6]
    # Ties: the row that begins first; in the last row, the largest first, then the smallest index.
    assert flat(fg.topk(tensors, k=5, scope="channel")) == [0, 2, 3, 5, 6]
    assert flat(fg.topk(tensors, k=6, scope="channel")) == [0, 1, 2, 3, 5, 6]
    assert flat(fg.topk(tensors, k=4, scope="channel", pool="mean")) == [2, 4, 5, 6]
    assert fg.topk(tensors, k=3, scope="channel").names is None


@given(k=st.integers(0, 7), seed=st.integers(-(2**63), 2**63 - 1))
def test_where_every_row_is_one_coordinate_it_is_the_global_scope(k: int, seed: int) -> None:
    tensors = [torch.tensor([1.0, -2.0, 2.0, 0.0, -1.0]), torch.tensor(2.0), torch.tensor([[-3.0]])]
    for pool in ("sum", "mean"):
        assert fg.topk(tensors, k=k, scope="channel", pool=pool) == fg.topk(tensors, k=k)  # type: ignore[arg-type]
    assert fg.randomk(tensors, k=k, seed=seed, scope="channel") == fg.randomk(tensors, k=k, seed=seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_layout_and_dtype_is_ranked_by_value(dtype: torch.dtype) -> None:
    tensors = [torch.randn(6, 4, 3, 3).to(dtype), torch.randn(8, 5).to(dtype).T, torch.zeros(0, 3), torch.randn(3)]
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    values = torch.cat([t.double().flatten() for t in tensors]).tolist()
    channels = members(rows_of([tuple(t.shape) for t in tensors]))
    for k in (1, 37, 200, len(values)):
        assert flat(fg.topk(tensors, k=k, scope="channel")) == by_hand(channels, values, k, "sum")


def test_infinite_values_are_largest_and_nan_is_refused() -> None:
    tensors = [torch.tensor([[1.0, 2.0], [0.0, -math.inf]]), torch.tensor([math.inf])]
    assert flat(fg.topk(tensors, k=3, scope="channel")) == [2, 3, 4]
    assert flat(fg.topk(tensors, k=1, scope="channel")) == [3]
    with pytest.raises(ValueError, match="tensor number 1 holds 2 NaN"):
        fg.topk([torch.zeros(3), torch.tensor([[math.nan], [math.nan]])], k=1, scope="channel")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("kind", [fg.TopK, fg.RandomK, fg.RandomTopK])
def test_nothing_and_everything_can_be_selected(model: nn.Module, batches: Batches, ratio: float, kind: Any) -> None:
    chosen = fg.select(model, batches, None, kind(ratio, scope="channel"))
    assert chosen.ratio == ratio
    assert fg.topk([], k=0, scope="channel").k == fg.randomk([], k=0, scope="channel").k == 0


@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher", "saliency", "fisher_ratio"])
@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
def test_a_models_selection_is_that_by_its_scores_and_channels(
    model: nn.Module, batches: Batches, kind: Any, share: float | None
) -> None:
    strategy: Any = fg.TopK(0.3, score=kind, scope="channel")
    if share is not None:
        strategy = fg.RandomTopK(0.3, top_share=share, score=kind, scope="channel", seed=4)
    chosen = fg.select(model, batches, None, strategy, retain_loader=batches)
    scores = fg.score(model, batches, kind=kind, retain_loader=batches)
    assert chosen == strategy.choose(dict(trainable(model)), scores, channels_of(model))
    assert chosen.k == round(0.3 * chosen.numel)
    assert chosen.names == tuple(trainable(model))
    assert whole_but_one(chosen, members(channels_of(model)))


def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match="score of 'weight' has 1 NaN or infinite values of 2"):
        fg.select(
            layer,
            [torch.tensor([[1.0, torch.inf]])],
            lambda module, x: (module.weight * x).sum(),
            fg.TopK(k=1, scope="channel"),
        )


def drawn_order(first: Tensor, seed: int) -> list[int]:
    """Channels by the 63-bit keys of Random-k, largest first."""
    high, low = (philox_word_ref(seed, stream, first).tolist() for stream in (0, 1))
    keys = [(h & 0x7FFFFFFF) << 32 | w for h, w in zip(high, low, strict=True)]
    return sorted(range(len(keys)), key=lambda c: (-keys[c], c))


@given(k=st.integers(0, 46), seed=st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None)
def test_random_channels_come_whole_in_the_order_of_their_keys(k: int, seed: int) -> None:
    tensors = [torch.zeros(4, 5), torch.zeros(6), torch.zeros(2, 10)]
    rows = rows_of([tuple(t.shape) for t in tensors])
    channels = members(rows)
    chosen = fg.randomk(tensors, k=k, seed=seed, scope="channel")
    left, found = k, set(flat(chosen))
    assert chosen.k == k
    assert chosen.seed == seed
    for channel in drawn_order(rows.first, seed):
        part = found & set(channels[channel])
        assert len(part) == min(left, len(channels[channel]))
        left -= len(part)


def test_every_channel_is_drawn_with_the_same_chance_and_every_part_of_the_last() -> None:
    tensors = [torch.zeros(4, 1), torch.zeros(4, 8)]
    draws = 1200
    counts = torch.zeros(36)
    for seed in range(draws):
        counts[flat(fg.randomk(tensors, k=1, seed=seed, scope="channel"))] += 1
    by_channel = torch.cat([counts[:4], counts[4:].view(4, 8).sum(1)])
    # chi-square, 7 and 31 degrees of freedom: the 99.9% points are 24.3 and 61.1.
    assert float(((by_channel - draws / 8) ** 2 / (draws / 8)).sum()) < 24.3
    within = counts[4:]
    expected = by_channel[4:].repeat_interleave(8) / 8
    assert float(((within - expected) ** 2 / expected).sum()) < 61.1


def test_random_topk_completes_the_channel_its_ranked_part_ends_in() -> None:
    scores = {"w": torch.tensor([[5.0, 1.0, 1.0, 1.0], [4.0, 0, 0, 0], [3.0, 0, 0, 0], [2.0, 0, 0, 0]])}
    strategy = fg.RandomTopK(k=8, top_share=5 / 8, scope="channel", seed=2)
    assert flat(strategy.choose(scores, scores)) == list(range(8))
    # What is left of k is less than that channel: its best coordinates.
    strategy = fg.RandomTopK(k=6, top_share=5 / 6, scope="channel", seed=2)
    assert flat(strategy.choose(scores, scores)) == [0, 1, 2, 3, 4, 5]
    drawn = set()
    for seed in range(30):
        chosen = flat(fg.RandomTopK(k=8, top_share=0.5, scope="channel", seed=seed).choose(scores, scores))
        assert chosen[:4] == [0, 1, 2, 3]
        drawn.add(tuple(chosen[4:]))
    assert drawn == {(4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)}


def test_random_topk_at_the_ends_is_topk_and_random_k() -> None:
    scores = {"a": torch.rand(20, 3), "b": torch.rand(7)}
    for k in (0, 1, 30, 67):
        assert fg.RandomTopK(k=k, top_share=1.0, scope="channel").choose(scores, scores) == fg.TopK(
            k=k, scope="channel"
        ).choose(scores, scores)
        assert fg.RandomTopK(k=k, top_share=0.0, scope="channel", seed=3).choose(scores, None) == fg.RandomK(
            k=k, scope="channel", seed=3
        ).choose(scores, None)


def test_the_answer_is_the_same_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    # One long row, a few, many short ones, columns: torch divides each of these among threads in another way.
    shapes = [(1, 300_000), (3, 70_001), (4000, 90), (1, 2**15), (5, 2**15 - 1)]
    tensors = [torch.randn(shape) for shape in shapes]
    attention = nn.MultiheadAttention(256, 2)
    parameters = trainable(attention)
    scores = {name: torch.rand(p.shape) for name, p in parameters.items()}
    answers = []
    for count in (1, 2, 8):
        threads(count)
        answers.append(
            (
                torch.cat([_sums_of_rows(t) for t in tensors]).tolist(),
                flat(fg.topk(tensors, ratio=0.4, scope="channel")),
                flat(fg.randomk(tensors, ratio=0.4, scope="channel", seed=1)),
                flat(fg.TopK(0.4, scope="channel").choose(parameters, scores, channels_of(attention))),
            )
        )
    assert answers[0] == answers[1] == answers[2]


def uneven(*shape: int) -> Tensor:
    """float64 of very different sizes: no order of adding them up rounds like another."""
    return torch.randn(*shape, dtype=torch.float64).mul_(8).exp_()


@pytest.mark.parametrize(
    "matrix",
    [
        lambda: uneven(1, 300_000),
        lambda: uneven(3, 70_001),
        lambda: uneven(4000, 90),
        lambda: uneven(1, 2**15),
        lambda: uneven(5, 2**15 - 1),
        lambda: uneven(1, 2**15 - 1),
        lambda: uneven(1, 2**15 + 1),
        lambda: uneven(1, 50_001),
        lambda: uneven(2, 2**17 + 5),
    ],
)
def test_sums_that_round_are_the_same_bits_on_any_number_of_threads(
    matrix: Callable[[], Tensor], threads: Callable[[int], None]
) -> None:
    of = matrix()
    found = []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append(_sums_of_rows(of))
    assert all(sums.equal(found[0]) for sums in found[1:])


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_channels_that_differ_by_rounding_keep_their_order_on_any_number_of_threads(
    kind: str, threads: Callable[[int], None]
) -> None:
    n = 70_000
    layers = [
        nn.Linear(n, 1, bias=False) if kind == "rows" else nn.ConvTranspose1d(n, 1, 1, bias=False) for _ in "abcdef"
    ]
    parameters = trainable(nn.Sequential(*layers))
    values = uneven(n)  # the same for each channel, added up in turn
    scores = {name: values[torch.randperm(n)].reshape(p.shape) for name, p in parameters.items()}
    firsts = set()
    for count in (1, 2, 3, 8):
        threads(count)
        chosen = fg.TopK(k=n, scope="channel").choose(parameters, scores, channels_of(nn.Sequential(*layers)))
        firsts.add(flat(chosen)[0])
    assert len(firsts) == 1


@pytest.mark.parametrize("length", [1, 2, 2**14, 2**15 - 1, 2**15, 2**15 + 1, 2**17 + 3, 600_000])
def test_sums_are_those_of_magnitudes_in_double_precision(length: int) -> None:
    matrix = torch.randn(3, length)
    torch.testing.assert_close(_sums_of_rows(matrix), matrix.double().abs().sum(1), rtol=1e-13, atol=0.0)


def test_it_is_saved_and_combined_like_any_other(model: nn.Module, tmp_path: Path) -> None:
    chosen = fg.select(model, [], None, fg.RandomK(0.3, scope="channel", seed=9))
    chosen.save(tmp_path / "s")
    back = fg.Selection.load(tmp_path / "s")
    assert back == chosen
    assert back.seed == 9
    assert (chosen | back) == chosen
    assert [m.shape for m in chosen.masks()] == [p.shape for p in trainable(model).values()]


@pytest.mark.parametrize(
    "strategy",
    [
        fg.TopK(ratio=0.5, score="fisher_ratio", scope="channel"),
        fg.TopK(ratio=0.5, score="fisher_ratio", scope="channel", pool="mean"),
        fg.RandomK(0.5, scope="channel"),
        fg.RandomTopK(0.5, scope="channel"),
    ],
)
def test_unlearning_moves_whole_channels_and_nothing_else(model: nn.Module, batches: Batches, strategy: Any) -> None:
    model[4].p = 0.0
    source = copy.deepcopy(model)
    result = fg.unlearn(
        model, batches[:1], batches[1:], strategy=strategy, perturb=fg.Gaussian(0.5), repair=fg.Repair(epochs=2)
    )
    assert result.selection.k == round(0.5 * result.selection.numel)
    assert whole_but_one(result.selection, members(channels_of(source)))
    pairs = zip(trainable(source).values(), trainable(model).values(), result.selection.masks(), strict=True)
    for before, after, mask in pairs:
        assert before[~mask].equal(after[~mask])
    assert sum(result.changed.values()) > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fg.TopK(0.1, scope="head"), "scope must be one of 'global', 'tensor', 'channel', got 'head'"),  # type: ignore[arg-type]
        (lambda: fg.topk([torch.zeros(2)], k=1, scope="row"), "scope must be one of .*, got 'row'"),  # type: ignore[arg-type]
        (lambda: fg.TopK(0.1, scope="channel", pool="max"), "pool must be one of 'sum', 'mean', got 'max'"),  # type: ignore[arg-type]
        (lambda: fg.RandomTopK(0.1, pool="mean"), "pool='mean' is for scope='channel', got scope='global'"),
        (lambda: fg.topk([torch.zeros(2)], k=3, scope="channel"), "k must be at most .* 2, got 3"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
