"""A model on a CUDA device through score, select, perturb_, the optimizer and unlearn."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from cases import assert_same_bits
from fgunlearn.batches import cross_entropy
from fgunlearn.parameters import trainable
from fgunlearn.selection.scores import top_scores

pytestmark = pytest.mark.cuda

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def on_cuda(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cuda()


def moved(batches: Batches) -> Batches:
    return [(x.cuda(), y.cuda()) for x, y in batches]


def cuda_zero() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters() if p.requires_grad]


def test_a_score_lies_where_the_model_does_and_is_that_of_the_cpu(
    model: nn.Module, on_cuda: nn.Module, batches: Batches
) -> None:
    here, there = fg.score(model, batches, kind="fisher"), fg.score(on_cuda, moved(batches), kind="fisher")
    for name, value in here.items():
        assert there[name].device == cuda_zero()
        torch.testing.assert_close(there[name].cpu(), value, rtol=1e-2, atol=1e-6)


def test_batches_on_the_cpu_are_moved_by_the_default_loss(on_cuda: nn.Module, batches: Batches) -> None:
    assert fg.select(on_cuda, batches, None, fg.TopK(0.1)).device == cuda_zero()
    assert 0.0 <= fg.metrics.accuracy(on_cuda, batches) <= 1.0


@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher"])
@pytest.mark.parametrize("each", [False, True])
def test_the_fused_pass_selects_what_the_separate_ones_do(
    on_cuda: nn.Module, batches: Batches, kind: str, each: bool
) -> None:
    parameters = trainable(on_cuda)
    k = [p.numel() // 3 for p in parameters.values()] if each else [77]
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        fused, separate = (
            top_scores(on_cuda, parameters, moved(batches), cross_entropy, kind, k, each, False, fused=one)
            for one in (True, False)
        )
    assert_same_bits([*fused[0], fused[1]], [*separate[0], separate[1]])


@pytest.mark.parametrize("strategy", [fg.TopK(0.1), fg.TopK(0.1, scope="tensor"), fg.RandomTopK(0.1, seed=2)])
def test_a_selection_is_that_by_the_score(on_cuda: nn.Module, batches: Batches, strategy: Any) -> None:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        chosen = fg.select(on_cuda, moved(batches), None, strategy)
        expected = strategy.choose(dict(trainable(on_cuda)), fg.score(on_cuda, moved(batches)))
    assert chosen == expected
    assert chosen.threshold == expected.threshold
    assert chosen.device == cuda_zero()


@pytest.mark.parametrize("scope", ["global", "tensor", "channel"])
def test_random_and_topk_selections_of_cuda_tensors_are_those_of_the_cpu(scope: Any) -> None:
    tensors = [torch.randn(300, 20), torch.randn(50).half(), torch.zeros(0), torch.randn(())]
    there = [t.cuda() for t in tensors]
    for here, got in (
        (fg.topk(tensors, k=400, scope=scope), fg.topk(there, k=400, scope=scope)),
        (fg.randomk(tensors, k=400, seed=3, scope=scope), fg.randomk(there, k=400, seed=3, scope=scope)),
    ):
        assert got.device == cuda_zero()
        assert got == here
        assert here == got
        assert got.threshold == here.threshold
        assert all(a.cpu().equal(b) for a, b in zip(got.masks(), here.masks(), strict=True))
        assert (got | here) == here
        assert (got & here).k == 400
        assert (got - here).k == 0


def test_a_selection_moves_and_is_saved_from_any_device(tmp_path: Path) -> None:
    chosen = fg.topk([torch.randn(300, device="cuda")], k=30)
    chosen.save(tmp_path / "s")
    back = fg.Selection.load(tmp_path / "s")
    assert back.device == torch.device("cpu")
    assert back == chosen
    assert back.threshold == chosen.threshold
    assert back.to("cuda").device == cuda_zero()
    with pytest.raises(ValueError, match=r"indices of tensor number 1 are on cpu, those before on cuda:0"):
        fg.Selection([(5,), (5,)], [torch.tensor([1], device="cuda"), torch.tensor([1])])
    with pytest.raises(ValueError, match="index 5 of tensor number 0 is out of range"):
        fg.Selection([(5,)], [torch.tensor([1, 5], device="cuda")])


@pytest.mark.parametrize("how", [fg.Gaussian(0.5), fg.Reset(1), fg.Zero(), fg.Shrink(0.5)])
def test_a_perturbation_is_that_of_the_cpu(model: nn.Module, on_cuda: nn.Module, how: Any) -> None:
    here = fg.select(model, [], None, fg.RandomK(0.3, seed=3))
    there = fg.select(on_cuda, [], None, fg.RandomK(0.3, seed=3))
    assert there == here
    before = [t.clone() for t in parameters_of(on_cuda)]
    fg.perturb_(model, here, how)
    fg.perturb_(on_cuda, there, how)
    for a, b, was, mask in zip(parameters_of(on_cuda), parameters_of(model), before, there.masks(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-7)
        assert_same_bits([a[~mask]], [was[~mask]])


def test_ascent_works_on_cuda(on_cuda: nn.Module, batches: Batches) -> None:
    chosen = fg.select(on_cuda, moved(batches), None, fg.TopK(0.2))
    before = [t.clone() for t in parameters_of(on_cuda)]
    fg.perturb_(on_cuda, chosen, fg.Ascent(0.1), loader=moved(batches))
    changed = 0
    for was, now, mask in zip(before, parameters_of(on_cuda), chosen.masks(), strict=True):
        assert_same_bits([now[~mask]], [was[~mask]])
        changed += int((now != was).sum())
    assert changed > 0


def test_a_selection_on_another_device_is_refused_with_the_cure(on_cuda: nn.Module, model: nn.Module) -> None:
    chosen = fg.select(model, [], None, fg.RandomK(0.3))
    before = [t.clone() for t in parameters_of(on_cuda)]
    with pytest.raises(ValueError, match=r"selection is on cpu and the model on cuda:0: use selection\.to\('cuda:0'\)"):
        fg.perturb_(on_cuda, chosen, fg.Zero())
    assert_same_bits(parameters_of(on_cuda), before)
    fg.perturb_(on_cuda, chosen.to("cuda:0"), fg.Zero())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimizer_steps_the_selection_as_on_the_cpu(model: nn.Module, on_cuda: nn.Module, momentum: float) -> None:
    generator = torch.Generator().manual_seed(1)
    selections = [fg.select(m, [], None, fg.RandomK(0.3, seed=3)) for m in (model, on_cuda)]
    before = [t.clone() for t in parameters_of(on_cuda)]
    optimizers = []
    for m, s in zip((model, on_cuda), selections, strict=True):
        sgd = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1, momentum=momentum)
        optimizers.append(fg.SparseOptimizer(sgd, s))
    for _ in range(3):
        for a, b in zip(model.parameters(), on_cuda.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, was, mask in zip(
        parameters_of(on_cuda), parameters_of(model), before, selections[1].masks(), strict=True
    ):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-7)
        assert_same_bits([a[~mask]], [was[~mask]])


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three clusters in the plane, far apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[4.0, 0.0], [-2.0, 3.5], [-2.0, -3.5]])
    return centres[y] + 0.5 * torch.randn(n, 2, generator=generator), y


def cut(x: Tensor, y: Tensor) -> Batches:
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(y), 32)]


@pytest.mark.parametrize("loaders_on_cuda", [False, True])
@pytest.mark.parametrize("forget", ["none", "unlikelihood", "neighbour", "random_label"])
def test_a_class_is_unlearned_and_nothing_moves_off_the_selection(loaders_on_cuda: bool, forget: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    ).cuda()
    x, y = blobs(600, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        for bx, by in moved(cut(x, y)):
            optimizer.zero_grad()
            F.cross_entropy(model(bx), by).backward()
            optimizer.step()
    model.eval()
    gone, rest, heldout = cut(x[y == 2], y[y == 2]), cut(x[y != 2], y[y != 2]), cut(*blobs(200, 1))
    if loaders_on_cuda:
        gone, rest, heldout = moved(gone), moved(rest), moved(heldout)
    assert fg.metrics.accuracy(model, gone) > 0.9
    before = [t.clone() for t in parameters_of(model)]
    result = fg.unlearn(
        model,
        gone,
        rest,
        strategy=fg.TopK(0.6),
        perturb=fg.Shrink(0.0),
        repair=fg.Repair(epochs=6, lr=0.1, forget=forget, forget_batch=8, weight=0.5),
        heldout_loader=heldout,
    )
    assert result.selection.device == cuda_zero()
    moved_on = 0
    for was, now, mask in zip(before, parameters_of(model), result.selection.masks(), strict=True):
        assert_same_bits([now[~mask]], [was[~mask]])
        moved_on += int((was != now).sum())
    assert sum(result.changed.values()) == moved_on > 0
    assert fg.metrics.accuracy(model, gone) < 0.5
    assert fg.metrics.accuracy(model, rest) > 0.9
    assert 0.0 <= fg.metrics.membership_auc(model, gone, heldout) <= 1.0


def test_an_error_in_the_repair_leaves_the_model_as_it_was(on_cuda: nn.Module, batches: Batches) -> None:
    before = [t.clone() for t in parameters_of(on_cuda)]
    with pytest.raises(ValueError, match="diverged"):
        fg.unlearn(
            on_cuda,
            moved(batches),
            moved(batches),
            strategy=fg.TopK(1.0),
            perturb=fg.Gaussian(1e30),
            repair=fg.Repair(epochs=3, lr=1e30),
        )
    assert_same_bits(parameters_of(on_cuda), before)


def test_models_on_two_kinds_of_device_are_compared(model: nn.Module, on_cuda: nn.Module, batches: Batches) -> None:
    found = fg.metrics.similarity(on_cuda, model, batches)
    assert found.agreement > 0.9
    assert found.relative_l2 == 0.0
