"""Where in a model neighbours are looked for: the layer that tells most of those that have not memorised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.seeding import seeded
from fgunlearn.unlearning.neighbours import NeighbourVotes, Place, telling_layer
from overfitted import CLASSES, KEPT, UNSEEN, batches, data, overfitted


def test_neighbours_are_asked_where_wrong_labels_have_not_been_memorised() -> None:
    model, gone = overfitted(True)
    loaders = [batches(*part) for part in (gone, data(KEPT, 4), data(UNSEEN, 6))]
    place = telling_layer(model, *loaders, CLASSES, 10)

    def right(layer: Any, part: tuple[Tensor, Tensor]) -> float:
        votes, labels = NeighbourVotes(model, loaders[1], CLASSES, 10, layer)(batches(*part))
        return float((votes.argmax(1) == labels).float().mean())

    last = Place("6", given=True)
    assert right(last, gone) > 0.5  # the last features follow the wrong labels
    assert right(place, gone) < 0.3
    assert right(place, data(UNSEEN, 6)) > 0.6


class Parts(nn.Module):
    """Each linear layer after the first is given its own four features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.blind, self.weak, self.early, self.late = (nn.Linear(4, 4) for _ in range(4))
        nn.init.eye_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).split(4, 1)
        layers = (self.blind, self.weak, self.early, self.late)
        return sum((layer(part) for layer, part in zip(layers, parts, strict=True)), torch.zeros(()))


def named(y: Tensor, shares: tuple[float, float, float, float]) -> list[tuple[Tensor, Tensor]]:
    """Samples that by the features of each layer in turn are of class y, this share of them, and else of the next."""
    at = torch.arange(len(y)) // CLASSES / (len(y) // CLASSES)
    parts = [F.one_hot(torch.where(at < share, y, (y + 1) % CLASSES), CLASSES).float() for share in shares]
    return batches(torch.cat(parts, 1), y)


@pytest.mark.parametrize(
    ("forget", "place"),
    [
        # Right on less of the forget data than of held-out data: wrong labels, which the last layer has memorised. Of
        # the two that have not, the one that tells more; what is never right on either tells nothing.
        ((0.0, 0.12, 0.2, 1.0), "early"),
        # As often right on both everywhere: where held-out data is told best.
        ((0.2, 0.6, 0.8, 1.0), "late"),
    ],
)
def test_the_layer_is_the_one_that_tells_most_of_those_that_have_not_memorised(
    forget: tuple[float, float, float, float], place: str
) -> None:
    y = torch.arange(400) % CLASSES
    model = Parts().train()
    loaders = named(y, forget), named(y, (1.0, 1.0, 1.0, 1.0)), named(y, (0.2, 0.6, 0.8, 1.0))
    assert telling_layer(model, *loaders, CLASSES, 10) == Place(place, given=True)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


class TimeFirst(nn.Module):
    """A sequence model with time steps before samples inside, and a layer that is given one vector at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.mixed, self.last = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inside(self.first(x).transpose(0, 1)).mean(0)
        return self.last(self.mixed(torch.ones(5)) + self.mixed(hidden).relu())


def test_only_what_has_a_row_per_sample_is_looked_at() -> None:
    y = torch.arange(44) % 4
    with seeded(0):
        model, x = TimeFirst(), torch.randn(44, 4, 5)
    loader = batches(x, y)  # 4 time steps, and 4 samples in the last batch
    place = telling_layer(model, loader, loader, loader, 5, 3)
    assert place.layer in ("mixed", "last")
    for layer in (Place("mixed", given=True), Place("last", given=True)):
        votes, labels = NeighbourVotes(model, loader, 5, 1, layer)(loader)
        assert torch.equal(labels, y)
        assert float((votes.argmax(1) == y).float().mean()) > 0.8  # a sample's nearest is itself, but for ties
    with pytest.raises(ValueError, match="layer 'inside' has 4 rows for a batch of 20 samples"):
        NeighbourVotes(model, loader, 5, 3, "inside")
    with pytest.raises(ValueError, match=r"layer 'mixed' must return a tensor .*got \(5,\)"):
        NeighbourVotes(model, loader, 5, 3, "mixed")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_where_no_layer_comes_after_the_first_its_own_outputs_are_looked_at() -> None:
    part, kept, unseen = (batches(*data(n, seed)) for n, seed in ((20, 5), (60, 4), (40, 6)))
    for model, name in ((nn.Linear(22, 4), ""), (nn.Sequential(nn.Linear(22, 4)), "0")):
        assert telling_layer(model, part, kept, unseen, CLASSES, 10) == Place(name)
        repair = fg.Repair(epochs=1, forget="heldout")
        result = fg.unlearn(model, part, kept, strategy=fg.RandomK(0.5), repair=repair, heldout_loader=unseen)
        assert result.record.forget_steps == 3


def test_a_model_without_layers_needs_a_module_named() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(22, 4))
            self.named = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.named(x @ self.weight)

    part, kept, unseen = (batches(*data(n, seed)) for n, seed in ((20, 5), (60, 4), (40, 6)))
    with pytest.raises(ValueError, match="the model has none: name another module by neighbour_layer"):
        telling_layer(Bare(), part, kept, unseen, CLASSES, 10)
    repair = fg.Repair(epochs=1, forget="heldout", neighbour_layer="named")
    result = fg.unlearn(Bare(), part, kept, strategy=fg.RandomK(0.5), repair=repair, heldout_loader=unseen)
    assert result.record.forget_steps == 3
