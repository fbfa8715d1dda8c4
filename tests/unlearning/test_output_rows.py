"""The output rows of a class that is forgotten as a whole: which coordinates change, and what it is good for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fgunlearn as fg
from fgunlearn.metrics import Outputs
from fgunlearn.unlearning import forget_term
from fgunlearn.unlearning.output_rows import forget_rows_, output_layer
from fgunlearn.unlearning.targets import Targets
from overfitted import CLASSES, KEPT, UNSEEN, batches, data, overfitted, seen

KNOWN = torch.tensor([True, True, False, True, False])  # of which class 4 is nobody's
ONLY = torch.tensor([False, False, True, False, False])


class Rescaled(nn.Module):
    """Its logits are no linear layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return 2.0 * logits


class Lengthened(nn.Module):
    """Its logits are a linear layer's output in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.bfloat16())
        return logits.float()


class Tied(nn.Module):
    """Its output layer's weight is also an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.head = nn.Linear(6, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))


def weight_normed() -> nn.Sequential:
    model = classifier()
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def pruned() -> nn.Sequential:
    model = classifier()
    prune.l1_unstructured(model[2], "weight", amount=0.5)
    return model


def frozen() -> nn.Sequential:
    model = classifier()
    model[2].weight.requires_grad_(False)
    return model


def everything(model: nn.Module, ratio: float = 1.0) -> fg.Selection:
    return fg.select(model, [], None, fg.RandomK(ratio))


def test_the_rows_become_the_mean_of_the_known_ones() -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    forget_rows_(model, everything(model), torch.randn(2, 6), ONLY, KNOWN)
    for name, tensor in model.state_dict().items():
        expected = before[name].clone()
        if name.startswith("2."):
            expected[2] = before[name][KNOWN].mean(0)
        torch.testing.assert_close(tensor, expected, rtol=0.0, atol=0.0, msg=name)


def test_nothing_but_selected_coordinates_of_those_rows_changes() -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    selection = everything(model, 0.5)
    forget_rows_(model, selection, torch.randn(2, 6), ONLY, KNOWN)
    masks = dict(zip(selection.names, selection.masks(), strict=True))
    moved = {name: tensor != before[name] for name, tensor in model.state_dict().items()}
    assert all(not bool((moved[name] & ~mask).any()) for name, mask in masks.items())
    assert bool((moved["2.weight"][2] == masks["2.weight"][2]).all())
    assert 0 < int(moved["2.weight"].sum()) < 6
    assert not bool(moved["0.weight"].any())
    assert not bool(moved["2.weight"][[0, 1, 3, 4]].any())


@pytest.mark.parametrize(
    ("make", "gone", "known"),
    [
        pytest.param(classifier, ~KNOWN & False, KNOWN, id="no class is forgotten as a whole"),
        pytest.param(classifier, ONLY, KNOWN & False, id="nothing is known"),
        pytest.param(classifier, ONLY[:4], KNOWN[:4], id="more rows than classes"),
        pytest.param(Rescaled, ONLY, KNOWN, id="logits of no linear layer"),
        pytest.param(Tied, ONLY, KNOWN, id="rows of an embedding"),
        pytest.param(weight_normed, ONLY, KNOWN, id="a weight computed from others"),
        pytest.param(pruned, ONLY, KNOWN, id="a weight with zeros to keep"),
        pytest.param(frozen, ONLY, KNOWN, id="a frozen weight"),
    ],
)
def test_other_models_stay_as_they_are(make: Callable[[], nn.Module], gone: Tensor, known: Tensor) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    forget_rows_(model, everything(model), torch.randn(2, 6), gone, known)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_output_layer_is_found_by_what_it_returns() -> None:
    model = classifier()
    model.append(nn.Linear(5, 5))
    assert output_layer(model, torch.randn(2, 6), 5) is model[3]
    assert output_layer(Rescaled(), torch.randn(2, 6), 5) is None
    lengthened = Lengthened()
    assert output_layer(lengthened, torch.randn(2, 6), 5) is lengthened.head
    assert all(not module._forward_hooks for module in model.modules())


def test_the_classes_logit_is_then_the_mean_of_the_known_ones_whatever_is_asked() -> None:
    model = classifier()
    forget_rows_(model, everything(model), torch.randn(2, 6), ONLY, KNOWN)
    logits = model(torch.randn(50, 6))
    torch.testing.assert_close(logits[:, 2], logits[:, KNOWN].mean(1))


@pytest.mark.parametrize(("forgotten", "share", "rows_go"), [(2, 1.0, True), (None, 1.0, False), (2, 0.0, False)])
def test_targets_are_made_after_the_rows_of_whole_classes_are_forgotten(
    forgotten: int | None, share: float, rows_go: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []

    class Spied(Targets):
        def __init__(self, source: Outputs, *others: Tensor) -> None:
            sources.append(source)
            super().__init__(source, *others)

    monkeypatch.setattr(forget_term, "Targets", Spied)
    x, y = data(KEPT, 4)
    to_forget = torch.arange(KEPT) < 30 if forgotten is None else y == forgotten
    model = copy.deepcopy(overfitted(False)[0])
    before = seen(model, (x[to_forget], y[to_forget])).logits
    fg.unlearn(
        model,
        batches(x[to_forget], y[to_forget]),
        batches(x[~to_forget], y[~to_forget]),
        strategy=fg.RandomK(1.0),
        repair=fg.Repair(epochs=1, lr=0.05, forget="heldout", neighbours=30, forget_share=share),
        heldout_loader=batches(*data(UNSEEN, 6)),
    )
    (source,) = sources
    if rows_go:
        others = [label for label in range(CLASSES) if label != forgotten]
        torch.testing.assert_close(source.logits[:, forgotten], before[:, others].mean(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(source.logits[:, others], before[:, others])
    else:
        torch.testing.assert_close(source.logits, before)


def test_an_error_after_the_rows_were_forgotten_gives_the_model_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> Targets:
        raise ValueError("no targets today")

    monkeypatch.setattr(forget_term, "Targets", failing)
    x, y = data(KEPT, 4)
    model = copy.deepcopy(overfitted(False)[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no targets today"):
        fg.unlearn(
            model,
            batches(x[y == 2], y[y == 2]),
            batches(x[y != 2], y[y != 2]),
            strategy=fg.RandomK(0.5),
            repair=fg.Repair(forget="heldout", neighbours=30),
            heldout_loader=batches(*data(UNSEEN, 6)),
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
