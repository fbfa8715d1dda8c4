"""Every kind of model through the same calls: convolutions, attention, batch norm, layer norm, several outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from architectures import (
    IMAGE_MODELS,
    SeriesCNN,
    TextTransformer,
    cross_entropy_with_auxiliary,
    image_model,
    mlp,
    torchvision_model,
)
from fgunlearn.batches import LossFunction
from fgunlearn.features import InputOf, penultimate_layer
from fgunlearn.spdgan import Fitting
from fgunlearn.unlearning.neighbours import NeighbourVotes
from text import loss_fn as text_loss

CLASSES = 3
Pairs = list[tuple[Tensor, Tensor]]

try:
    import torchvision  # noqa: F401

    WITHOUT_TORCHVISION = ""
except (ImportError, RuntimeError) as error:  # RuntimeError: one that was built for another torch
    WITHOUT_TORCHVISION = f"torchvision can't be imported: {error}"


@dataclass(frozen=True)
class Kind:
    """An architecture, and samples for it: the shape of one, and the layer whose input is the penultimate features."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    penultimate: str
    loss_fn: LossFunction | None = None
    batch: int = 16
    tokens: int = 0  # samples are token numbers below this

    def data(self, seed: int) -> Pairs:
        """Four batches of three classes that differ in the mean, or in the share of a word."""
        draw = torch.Generator().manual_seed(seed)
        y = torch.arange(4 * self.batch) % CLASSES
        if self.tokens:
            x = torch.randint(1, self.tokens, (len(y), *self.shape), generator=draw)
            x = torch.where(torch.rand(x.shape, generator=draw) < 0.5, 1 + y[:, None], x)
            x[::2, -2:] = 0  # padding
        else:
            x = torch.randn(len(y), *self.shape, generator=draw) + (y - 1.0).reshape(-1, *[1] * len(self.shape))
        return list(zip(x.split(self.batch), y.split(self.batch), strict=True))

    def batches(self, pairs: Pairs) -> list[Any]:
        """The form that ``loss_fn`` takes."""
        if not self.tokens:
            return list(pairs)
        return [{"input_ids": x, "attention_mask": (x != 0).long(), "labels": y} for x, y in pairs]


def image_kind(name: str) -> Kind:
    penultimate = {"vgg": "classifier.3", "densenet": "classifier"}.get(name, "head")
    loss_fn = cross_entropy_with_auxiliary if name == "inception" else None
    return Kind(lambda: image_model(name, 1, CLASSES), (1, 8, 8), penultimate, loss_fn)


KINDS = {
    **{name: image_kind(name) for name in IMAGE_MODELS},
    "text": Kind(lambda: TextTransformer(20, CLASSES, 10), (10,), "head", text_loss, tokens=20),
    "series": Kind(lambda: SeriesCNN(2, CLASSES), (2, 32), "head"),
    "vectors": Kind(lambda: mlp(12, CLASSES), (12,), "4"),
}

TORCHVISION_LAYERS = {
    "resnet": "fc",
    "vgg": "classifier.0",
    "densenet": "classifier",
    "inception": "fc",
    "vit": "heads.head",
}


class Unlearned:
    """A model trained for a moment, and what :func:`fgunlearn.unlearn` made of a copy of it."""

    def __init__(self, kind: Kind, perturb: Any = None, steps: int = 8, **repair: Any) -> None:
        self.kind = kind
        torch.manual_seed(0)
        self.source = kind.make().train()
        self.forget, self.retain = kind.data(1)[:1], kind.data(2)
        optimizer = torch.optim.AdamW(self.source.parameters(), 5e-3)
        loss_fn = kind.loss_fn or fg.unlearning.loop.cross_entropy
        for step in range(steps):
            optimizer.zero_grad()
            loss_fn(self.source, kind.batches(self.retain)[step % 4]).backward()
            optimizer.step()
        self.source.zero_grad(set_to_none=True)
        self.source.eval()
        self.perturb = fg.Shrink(0.0) if perturb is None else perturb
        self.result = self.run(copy.deepcopy(self.source), **repair)

    def run(self, model: nn.Module, **repair: Any) -> fg.Result:
        settings = {"epochs": 2, "lr": 0.05, **repair}
        return fg.unlearn(
            model,
            self.kind.batches(self.forget),
            self.kind.batches(self.retain),
            loss_fn=self.kind.loss_fn,
            strategy=fg.TopK(0.3, score="fisher_ratio"),
            perturb=self.perturb,
            repair=fg.Repair(**settings),
        )


def check_selection_alone_changed(source: nn.Module, result: fg.Result) -> None:
    """Bit for bit, and the selection describes itself consistently."""
    before, after = dict(source.named_parameters()), dict(result.model.named_parameters())
    selection = result.selection
    assert selection.numel == sum(p.numel() for p in before.values())
    assert selection.k == round(0.3 * selection.numel)
    masks, density = selection.masks(), selection.density()
    assert list(density) == list(selection.names or []) == list(before)
    assert sum(int(mask.sum()) for mask in masks) == selection.k
    changed = 0
    for (name, was), mask in zip(before.items(), masks, strict=True):
        moved = was.detach().view(torch.int32) != after[name].detach().view(torch.int32)
        assert mask.shape == was.shape
        assert not bool((moved & ~mask).any()), name
        assert density[name] == pytest.approx(float(mask.float().mean()))
        assert result.changed[name] == int(moved.sum()), name
        changed += int(moved.sum())
    assert changed > 0.5 * selection.k
    running = {name for name, _ in source.named_buffers()}
    assert set(result.buffers) <= running
    for name, buffer in source.named_buffers():
        assert (name in result.buffers) is not buffer.equal(result.model.get_buffer(name)), name
    assert not result.model.training
    assert all(p.grad is None for p in result.model.parameters())


@pytest.fixture(scope="module", params=list(KINDS))
def unlearned(request: pytest.FixtureRequest) -> Unlearned:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Unlearned(KINDS[request.param])
    finally:
        torch.set_num_threads(before)


def test_the_selection_alone_changes(unlearned: Unlearned) -> None:
    check_selection_alone_changed(unlearned.source, unlearned.result)


def test_noise_changes_the_selection_alone_too(unlearned: Unlearned) -> None:
    noisy = copy.copy(unlearned)
    noisy.perturb = fg.Gaussian(0.2, seed=3)
    result = noisy.run(copy.deepcopy(unlearned.source), epochs=1)
    assert result.selection == unlearned.result.selection
    check_selection_alone_changed(unlearned.source, result)


def test_batch_norm_learns_the_remaining_datas_statistics_unless_frozen(unlearned: Unlearned) -> None:
    source = unlearned.source
    normed = [name for name, part in source.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    expected = {f"{name}.{part}" for name in normed for part in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(unlearned.result.buffers) == expected
    frozen = unlearned.run(copy.deepcopy(source), epochs=1, batch_norm="eval")
    assert frozen.buffers == []
    check_selection_alone_changed(source, frozen)


def test_the_repair_repairs(unlearned: Unlearned) -> None:
    broken = unlearned.run(copy.deepcopy(unlearned.source), epochs=0).model
    losses = [
        float(fg.metrics.sample_losses(model, unlearned.retain).mean()) for model in (broken, unlearned.result.model)
    ]
    assert losses[1] < losses[0]


def test_the_penultimate_layer_is_found(unlearned: Unlearned) -> None:
    source, kind = unlearned.source, unlearned.kind
    assert penultimate_layer(source) == kind.penultimate
    x = unlearned.forget[0][0]
    head = source.get_submodule(kind.penultimate)
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        torch.testing.assert_close(head(InputOf(source)(x)), source(x))


def test_the_metrics_take_it(unlearned: Unlearned) -> None:
    source, model, retain = unlearned.source, unlearned.result.model, unlearned.retain
    with torch.no_grad():
        right = [int((source(x).argmax(1) == y).sum()) for x, y in retain]
    assert fg.metrics.accuracy(source, retain) == pytest.approx(sum(right) / (4 * unlearned.kind.batch))
    itself = fg.metrics.similarity(source, copy.deepcopy(source), retain)
    assert (itself.agreement, itself.relative_l2) == (1.0, 0.0)
    assert itself.cka == pytest.approx(1.0, abs=1e-6)
    other = fg.metrics.similarity(model, source, retain)
    assert other.relative_l2 > 0.0
    assert 0.0 <= other.cka < 1.0
    assert 0.0 <= fg.metrics.membership_auc(model, unlearned.forget, retain) <= 1.0


def test_data_shifted_for_the_unlearning_degree_fits_the_model(unlearned: Unlearned) -> None:
    source, kind, result = unlearned.source, unlearned.kind, unlearned.result
    gan = fg.SPDGAN(width=4, blocks=0, fitting=Fitting(steps=4, batch=8, accuracy_budget=None))
    if kind.tokens:  # there is no small step from a word to another
        with pytest.raises(TypeError, match="floating-point"):
            gan.fit(source, unlearned.forget, unlearned.retain)
        degree = fg.metrics.unlearning_degree(source, result.model, unlearned.forget, None, unlearned.retain)
    else:
        gan.fit(source, unlearned.forget, unlearned.retain)
        x = unlearned.forget[0][0]
        shifted = gan.perturb(x)
        assert shifted.shape == x.shape
        assert not shifted.equal(x)
        degree = fg.metrics.unlearning_degree(source, result.model, unlearned.forget, gan, unlearned.retain)
        itself = fg.metrics.unlearning_degree(source, source, unlearned.forget, gan, unlearned.retain)
        assert itself.net is not None
        assert (itself.acc.value, itself.loss.value, itself.net.value) == (0.0, 0.0, 0.0)
    assert degree.net is not None
    assert -2.0 <= degree.net.value <= 2.0


def test_a_selection_read_from_a_file_does_the_same(unlearned: Unlearned, tmp_path: Path) -> None:
    selection = unlearned.result.selection
    selection.save(tmp_path / "selection.safetensors")
    read = fg.Selection.load(tmp_path / "selection.safetensors")
    assert read == selection
    models = [copy.deepcopy(unlearned.source) for _ in range(2)]
    for model, chosen in zip(models, (selection, read), strict=True):
        fg.perturb_(model, chosen, fg.Gaussian(0.1, seed=5))
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert a.equal(b), name


def test_neighbours_are_found_in_an_early_layer(unlearned: Unlearned) -> None:
    votes, labels = NeighbourVotes(unlearned.source, unlearned.retain, CLASSES, 5)(unlearned.forget)
    assert labels.equal(unlearned.forget[0][1])
    torch.testing.assert_close(votes.sum(1), torch.ones(len(labels)))
    # Classes differ in the mean, and in words attention has mixed: neighbours tell them apart.
    assert float((votes.argmax(1) == labels).float().mean()) > 0.6


def test_an_auxiliary_classifier_is_repaired_but_not_scored() -> None:
    ours = Unlearned(KINDS["inception"])
    density = ours.result.selection.density()
    assert (density["auxiliary.weight"], density["auxiliary.bias"]) == (0.0, 0.0)
    everything = copy.deepcopy(ours.source)
    ours.run(everything, update="all")
    assert not everything.auxiliary.weight.equal(ours.source.auxiliary.weight)


@pytest.mark.parametrize("forget", ["none", "neighbour"])
def test_the_default_loss_refuses_several_outputs_and_leaves_the_model_as_it_was(forget: Any) -> None:
    kind = KINDS["inception"]
    torch.manual_seed(0)
    model = kind.make().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=r"returns logits, got InceptionOutputs; give a loss_fn"):
        fg.unlearn(
            model, kind.data(1)[:1], kind.data(2), strategy=fg.RandomK(0.3), repair=fg.Repair(lr=0.05, forget=forget)
        )
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_text_needs_no_mask_and_padding_changes_nothing() -> None:
    model = KINDS["text"].make().eval()
    ids = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 1]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model(ids, (ids != 0).long()))
        torch.testing.assert_close(model(ids)[:1], model(ids[:1, :3]))


@pytest.mark.parametrize("make", [image_model, torchvision_model])
def test_unknown_models_are_refused_by_name(make: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"model must be one of resnet, vgg, densenet, inception, vit, got 'lenet'"):
        make("lenet")


@pytest.mark.skipif(bool(WITHOUT_TORCHVISION), reason=WITHOUT_TORCHVISION)
@pytest.mark.parametrize("name", list(IMAGE_MODELS))
def test_torchvisions_models_go_the_same_way(name: str, tmp_path: Path) -> None:
    _, size = torchvision_model(name, CLASSES)
    kind = Kind(
        lambda: torchvision_model(name, CLASSES)[0],
        (3, size, size),
        TORCHVISION_LAYERS[name],
        cross_entropy_with_auxiliary if name == "inception" else None,
        batch=2 if name == "inception" else 8,
    )
    ours = Unlearned(kind, steps=2, epochs=1, lr=1e-3)
    check_selection_alone_changed(ours.source, ours.result)
    assert bool(ours.result.buffers) is (name != "vit")
    assert penultimate_layer(ours.source) == kind.penultimate
    assert fg.metrics.similarity(ours.source, ours.source, ours.forget).cka == pytest.approx(1.0, abs=1e-6)
    ours.result.selection.save(tmp_path / "selection.safetensors")
    assert fg.Selection.load(tmp_path / "selection.safetensors") == ours.result.selection
