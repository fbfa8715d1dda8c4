from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.benchmarks.select_memory import in_a_process
from fgunlearn.parameters import trainable
from fgunlearn.scoring import default_budget
from fgunlearn.selection import arriving, readings
from fgunlearn.selection.readings import Source, grouped

Batches = list[tuple[Tensor, Tensor]]
KINDS = ("grad", "abs_grad", "fisher", "saliency", "fisher_ratio")
# One parameter at a time and no room for candidates; a few groups; everything at once.
BUDGETS = (1, 3_000, None)


def same(model: nn.Module, loader: Any, strategy: Any, loss_fn: Any = None, **how: Any) -> fg.Selection:
    """The streaming selection, after it was held to the dense one."""
    retain = how.pop("retain_loader", loader)
    dense = fg.select(model, loader, loss_fn, strategy, retain_loader=retain)
    streamed = fg.select(model, loader, loss_fn, strategy, retain_loader=retain, memory="streaming", **how)
    assert streamed == dense
    assert streamed.threshold == dense.threshold
    assert streamed.seed == dense.seed
    assert [i.dtype for i in streamed.indices] == [i.dtype for i in dense.indices]
    return streamed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("share", [None, 0.0, 0.4])
@pytest.mark.parametrize("count", [1, 3])
def test_it_is_the_dense_selection_bit_for_bit(
    model: nn.Module, batches: Batches, kind: Any, scope: Any, share: float | None, count: int
) -> None:
    strategy: Any = fg.TopK(0.1, score=kind, scope=scope)
    if share is not None:
        strategy = fg.RandomTopK(0.1, top_share=share, score=kind, scope=scope, seed=4)
    for budget in BUDGETS:
        chosen = same(model, batches[:count], strategy, retain_loader=batches[1:], memory_budget=budget)
        assert chosen.k == round(0.1 * chosen.numel)


class Mixed(nn.Module):
    """Layers of four dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 16).bfloat16(), nn.Linear(16, 16).half()
        self.c, self.d = nn.Linear(16, 16), nn.Linear(16, 10).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(1).bfloat16()).relu()
        return self.d(self.c(self.b(x.half()).relu().float()).relu().double())  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Embeddings tied to the output, an LSTM, attention, layer norm, a transposed and a channels-last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.up = nn.ConvTranspose1d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(1, 1, 3, padding=1).to(memory_format=torch.channels_last)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layer(self.lstm(self.embed(ids))[0])
        x = self.norm(self.up(x.transpose(1, 2)))
        x = self.down(x[:, None])[:, 0].transpose(1, 2)
        return F.linear(x, self.embed.weight)


def next_word(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_can_be_mixed(batches: Batches, kind: Any) -> None:
    mixed = Mixed()
    for budget in BUDGETS:
        for loader in (batches, batches[:1]):
            same(mixed, loader, fg.TopK(0.2, score=kind), memory_budget=budget)
            same(mixed, loader, fg.TopK(0.2, score=kind, scope="tensor"), memory_budget=budget)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_all_sorts_and_tied_tensors_will_do(kind: Any) -> None:
    model = Recurrent()
    texts = [torch.randint(0, 30, (n, 9)) for n in (3, 5)]
    for budget in BUDGETS:
        for loader in (texts, texts[:1]):
            same(model, loader, fg.TopK(0.1, score=kind), next_word, memory_budget=budget)


class Weighted(nn.Module):
    """Parameters whose gradients are what the batch says; some that it does not reach, or is empty, or has no shape."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(n // 2))
        self.first, self.second = nn.Parameter(torch.ones(n)), nn.Parameter(torch.ones(2, n))
        self.empty, self.scalar = nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(n), requires_grad=False)


def weighted(model: Any, x: Tensor) -> Tensor:
    return ((model.first + model.second[0] + model.frozen) * x[0]).sum() + (model.second[1] * x[0]).sum() * model.scalar


@pytest.mark.parametrize("values", [(0.0,), (1.0,), (0.0, 1.0, 2.0), (0.0, 0.0, 0.0, 3.0)])
@pytest.mark.parametrize("chunk", [7, 2**22])
def test_plateaus_go_to_the_smallest_index(
    values: tuple[float, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "CHUNK", chunk)
    model = Weighted(101)
    x = torch.tensor(values)[torch.randint(0, len(values), (1, 101))]
    n = sum(p.numel() for p in trainable(model).values())
    for k in (0, 1, 100, 202, n - 1, n):
        for loader in ([x], [x, x]):
            for budget in BUDGETS:
                same(model, loader, fg.TopK(k=k), weighted, memory_budget=budget)
                same(model, loader, fg.TopK(k=k, scope="tensor"), weighted, memory_budget=budget)


def test_a_ranked_part_of_nothing_is_fine(model: nn.Module, batches: Batches) -> None:
    assert same(model, batches, fg.RandomTopK(k=1, top_share=0.5)).threshold is None
    assert same(model, batches, fg.TopK(k=0)).threshold == float("inf")


def test_a_last_batch_that_reaches_not_every_parameter_is_fine(batches: Batches) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.sometimes = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            out = self.always(x.flatten(1))
            return out + self.sometimes(x.flatten(1)) if len(x) == 16 else out  # type: ignore[no-any-return]

    for budget in BUDGETS:
        same(Unused(), batches, fg.TopK(0.1), memory_budget=budget)


def test_empty_batches_are_left_out(model: nn.Module, batches: Batches) -> None:
    nothing = (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    same(model, [nothing, batches[0], nothing], fg.TopK(0.1))
    same(model, [nothing, *batches, nothing], fg.TopK(0.1), memory_budget=3_000)


class Counted(list[Any]):
    """A loader that counts its readings."""

    readings = 0

    def __iter__(self) -> Iterator[Any]:
        self.readings += 1
        return super().__iter__()


def test_the_readings_are_those_of_the_formula(model: nn.Module, batches: Batches) -> None:
    loader, retain, backward = Counted(batches), Counted(batches), [0]

    def loss(module: nn.Module, batch: Any) -> Tensor:
        backward[0] += 1
        return F.cross_entropy(module(batch[0]), batch[1])

    def count(kind: Any, batches_read: Counted, **how: Any) -> tuple[int, int, int]:
        loader.readings = retain.readings = batches_read.readings = backward[0] = 0
        strategy = fg.TopK(0.1, score=kind, scope=how.pop("scope", "global"))
        fg.select(model, batches_read, loss, strategy, retain_loader=retain, memory="streaming", **how)
        return batches_read.readings, retain.readings, backward[0]

    budget = 5_900
    groups = len(grouped([4 * p.numel() for p in trainable(model).values()], budget))
    assert groups == 2
    # A first look tells one batch from more.
    assert count("grad", loader, memory_budget=budget) == (2 * groups + 1, 0, 2 * groups * 3)
    assert count("grad", loader, memory_budget=budget, scope="tensor") == (groups + 1, 0, groups * 3)
    assert count("grad", loader) == (2, 0, 3)
    assert count("grad", Counted(batches[:1])) == (1, 0, 2)
    assert count("grad", Counted(batches[:1]), scope="tensor") == (1, 0, 1)
    # Twice the sums, no look, and its damping takes the retained data once more.
    read, retained, _ = count("fisher_ratio", loader, memory_budget=2 * budget)
    assert read % groups == 0
    assert retained == read + groups
    assert count("fisher_ratio", loader) == (1, 1, 6)


def test_groups_are_neighbours_that_fit_and_large_ones_are_alone() -> None:
    sizes = [4 * size for size in (3, 4, 100, 0, 5, 6, 1)]
    assert grouped(sizes, 4 * 10) == [[0, 1], [2], [3, 4], [5, 6]]
    assert grouped(sizes, 1) == [[0], [1], [2], [3], [4], [5], [6]]
    assert grouped(sizes, 4 * 200) == [[0, 1, 2, 3, 4, 5, 6]]


def test_sums_of_float64_take_twice_the_room() -> None:
    model = nn.ParameterDict({"a": torch.zeros(4).double(), "b": torch.zeros(4).half()})
    source = Source(model, trainable(model), [], F.cross_entropy, "grad", None, False)
    assert source.sum_sizes == [32, 16]
    assert source.parameter_bytes == 40


@pytest.mark.parametrize(
    ("parameters", "budget"), [(2**20, 2**28), (2**30, 2**28), (2**32, 2**30), (16 * 10**9, 4 * 10**9)]
)
def test_the_budget_grows_with_the_model_so_that_the_groups_do_not(parameters: int, budget: int) -> None:
    assert default_budget(parameters) == budget


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("memory", ["streaming", "compact"])
def test_the_model_and_what_hangs_on_it_come_back_as_they_were(
    model: nn.Module, batches: Batches, count: int, memory: Any, state_of: Any, assert_same: Any
) -> None:
    model.train()
    model[1].eval()  # a submodule in another mode than the rest
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    called = []
    handles = [p.register_post_accumulate_grad_hook(called.append) for p in trainable(model).values()]
    before, gradients = state_of(model), [p.grad for p in model.parameters()]
    fg.select(model, batches[:count], None, fg.TopK(0.1), memory=memory)
    assert_same(before, state_of(model))
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert not called  # an optimizer in the backward pass would step
    for handle in handles:
        handle.remove()


def test_a_hook_of_the_users_that_changes_a_gradient_counts_as_in_the_dense_way(
    model: nn.Module, batches: Batches
) -> None:
    model[0].weight.register_hook(lambda g: 100.0 * g)
    for loader in (batches, batches[:1]):
        same(model, loader, fg.TopK(0.02))


@pytest.mark.parametrize("memory", ["streaming", "compact"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_error_in_the_loss_leaves_nothing_behind(
    model: nn.Module, batches: Batches, memory: Any, count: int, where: str, state_of: Any, assert_same: Any
) -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradient: Tensor) -> Tensor:
            raise ArithmeticError("backward")

    def loss(module: nn.Module, batch: Any) -> Tensor:
        if where == "forward":
            raise ArithmeticError("forward")
        return F.cross_entropy(module[5](Failing.apply(module[:5](batch[0]))), batch[1])

    model.train()
    before = state_of(model)
    with pytest.raises(ArithmeticError, match=where):
        fg.select(model, batches[:count], loss, fg.TopK(0.1), memory=memory)
    assert_same(before, state_of(model))
    assert not any(p._backward_hooks for p in model.parameters())


@pytest.mark.parametrize("memory", ["streaming", "compact"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count(
    memory: Any, scope: Any, count: int, value: float
) -> None:
    model = Weighted(3)
    x = torch.tensor([[1.0, value, value]])
    for k in (0, 1):
        with pytest.raises(ValueError, match="score of 'first' has 2 NaN or infinite values of 3"):
            fg.select(model, [x] * count, weighted, fg.TopK(k=k, scope=scope), memory=memory)


def never() -> Iterator[Any]:
    raise AssertionError("read")
    yield


@pytest.mark.parametrize("memory", ["streaming", "compact"])
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loader": []}, ValueError, "^loader is empty"),
        ({"loader": [(torch.zeros(0, 1, 8, 8), torch.zeros(0))]}, ValueError, "^loader is empty"),
        ({"loader": ["text"]}, TypeError, "a batch must hold a tensor"),
        ({"strategy": fg.TopK(0.1, score="fisher_ratio")}, ValueError, "needs retain_loader"),
        ({"strategy": fg.TopK(0.1, score="fisher_ratio"), "retain_loader": []}, ValueError, "^retain_loader is empty"),
        ({"strategy": fg.TopK(0.1, scope="channel")}, ValueError, "scope='channel' .* use memory='dense'"),
        ({"strategy": fg.TopK(k=10**9)}, ValueError, "k must be at most"),
        ({"loss_fn": lambda m, b: m(b[0])}, ValueError, r"scalar, got shape \(16, 10\)"),
        ({"loss_fn": lambda m, b: m(b[0]).sum().detach()}, ValueError, "without a graph"),
        ({"memory": "sparse"}, ValueError, "memory must be one of 'dense', 'streaming', 'compact', got 'sparse'"),
        ({"memory": "dense", "memory_budget": 5}, ValueError, "memory_budget is for memory='streaming', got 5"),
        ({"memory": "compact", "memory_budget": 5}, ValueError, "memory_budget is for memory='streaming', got 5"),
        ({"memory": "streaming", "memory_budget": 0}, ValueError, "memory_budget must be >= 1, got 0"),
        ({"memory": "streaming", "memory_budget": 0.5}, TypeError, "memory_budget must be an int, got 0.5"),
    ],
)
def test_bad_input_is_refused_and_nothing_changes(
    model: nn.Module,
    batches: Batches,
    memory: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
    state_of: Any,
    assert_same: Any,
) -> None:
    before = state_of(model)
    given = {"loader": batches, "loss_fn": None, "strategy": fg.TopK(0.1), "memory": memory, **arguments}
    with pytest.raises(error, match=words):
        fg.select(model, **given)
    assert_same(before, state_of(model))


def test_data_that_can_be_read_only_once_is_refused_unread(model: nn.Module, batches: Batches) -> None:
    with pytest.raises(TypeError, match=r"loader must be .* give list\(loader\), or memory='dense'"):
        fg.select(model, never(), None, fg.TopK(0.1), memory="streaming")
    with pytest.raises(TypeError, match=r"retain_loader must be .* give list\(retain_loader\), or memory='dense'"):
        fg.select(
            model,
            batches,
            None,
            fg.TopK(0.1, score="fisher_ratio"),
            retain_loader=never(),
            memory="streaming",
        )
    # Nothing is read for Random-k, and once for the compact way.
    fg.select(model, never(), None, fg.RandomK(0.1), memory="streaming")
    fg.select(model, iter(batches), None, fg.TopK(0.1), memory="compact")


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_that_change_from_reading_to_reading_are_found_out(
    model: nn.Module, batches: Batches, count: int
) -> None:
    scale = (1.3**power for power in range(200))

    def loss(module: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1]) * next(scale)

    with pytest.raises(RuntimeError, match=r"the gradients changed .* or use memory='dense'"):
        fg.select(model, batches[:count], loss, fg.TopK(0.1), memory="streaming", memory_budget=1)


def test_another_number_of_samples_is_found_out(model: nn.Module, batches: Batches) -> None:
    class Growing:
        readings = 0

        def __iter__(self) -> Iterator[Any]:
            self.readings += 1
            return iter(batches if self.readings < 4 else batches[1:])

    with pytest.raises(RuntimeError, match="the gradients changed from one reading to the next"):
        fg.select(model, Growing(), None, fg.TopK(0.1), memory="streaming", memory_budget=1)


def test_gradients_arrive_one_at_a_time_and_are_gone_before_the_next(model: nn.Module, batches: Batches) -> None:

    alive: list[Callable[[], object]] = []
    arrived = []

    def receive(t: int, gradient: Tensor) -> None:
        assert not any(storage() is not None for storage in alive)
        alive.append(weakref.ref(gradient.untyped_storage()))
        arrived.append(t)

    parameters = trainable(model)
    arriving.arriving_gradients(model, parameters, batches[0], lambda m, b: F.cross_entropy(m(b[0]), b[1]), receive)
    assert sorted(arrived) == list(range(len(parameters)))


def test_it_takes_the_memory_it_says() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells a peak of memory: /proc/self/clear_refs is missing")
    # Of 2.5e7 parameters, 100 MB, none larger than 4 MB.
    how = {"params": 2.5e7, "kind": "abs_grad", "parts": 4, "repeats": 0}
    one = in_a_process("dense", "streaming", batches=1, **how)
    many = in_a_process("streaming", "compact", batches=2, **how)

    def bytes_a_parameter(found: dict[str, Any]) -> float:
        return found["peak"] / found["parameters"]

    assert bytes_a_parameter(one["dense"]) > 7.9  # gradients and scores
    assert bytes_a_parameter(one["streaming"]) < 1.0  # a gradient, its scores, and nothing of size n
    assert bytes_a_parameter(many["streaming"]) < 2.0  # and a quarter of the sums
    assert 1.9 < bytes_a_parameter(many["compact"]) < 3.0  # sums in bfloat16
