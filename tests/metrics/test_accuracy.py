from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn import metrics
from fgunlearn.metrics.accuracy import logits_and_labels

Batch = tuple[Tensor, Tensor]


class Echo(nn.Module):
    """Returns its input as logits, and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return x


def test_accuracy_is_the_share_of_samples_whose_largest_logit_is_their_labels() -> None:
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])
    assert metrics.accuracy(Echo(), [(logits, torch.tensor([0, 1, 2, 2]))]) == 0.75


def test_uneven_batches_weigh_samples_not_batches() -> None:
    right, wrong = torch.tensor([[9.0, 0, 0]]), torch.tensor([[0.0, 9, 0]])
    batches = [(right.repeat(9, 1), torch.zeros(9, dtype=torch.long)), (wrong, torch.tensor([0]))]
    assert metrics.accuracy(Echo(), batches) == pytest.approx(0.9)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_measured_in_eval_mode_without_gradients_and_gets_its_modes_back(training: bool) -> None:
    model = Echo().train(training)
    model.norm.eval()
    metrics.accuracy(model, [(torch.eye(3), torch.arange(3))])
    assert model.seen == [(False, False)]
    assert model.training is training
    assert not model.norm.training


def test_sample_losses_are_the_cross_entropies_in_order() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    found = metrics.sample_losses(Echo(), [(logits[:4], labels[:4]), (logits[4:], labels[4:])])
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))]])
def test_an_empty_loader_is_refused(batches: list[Batch]) -> None:
    with pytest.raises(ValueError, match="loader is empty"):
        metrics.accuracy(Echo(), batches)


def test_outputs_that_are_not_logits_are_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, classes\).*got \(2, 3, 1\)"):
        metrics.accuracy(Echo(), [(torch.zeros(2, 3, 1), torch.tensor([0, 1]))])


def test_batches_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(TypeError, match="batches"):
        logits_and_labels(Echo(), [torch.zeros(2, 3)])


def test_labels_of_any_integer_dtype_have_losses_and_those_that_are_no_classes_are_refused() -> None:
    logits, labels = torch.randn(3, 3), torch.tensor([0, 1, 2])
    for dtype in (torch.uint8, torch.int32):
        found = metrics.sample_losses(Echo(), [(logits, labels.to(dtype))])
        torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\], got -100 to 1"):  # torch's cross entropy says 0
        metrics.sample_losses(Echo(), [(logits, torch.tensor([0, -100, 1]))])
    with pytest.raises(ValueError, match=r"y must be integers, got torch\.float32"):
        metrics.sample_losses(Echo(), [(logits, torch.tensor([0.0, 1.7, 1.0]))])
    with pytest.raises(ValueError, match=r"logits of a floating dtype, got torch\.int64"):
        metrics.accuracy(Echo(), [(labels[:, None].expand(3, 3), labels)])


def test_what_float64_logits_tell_apart_is_not_rounded_off() -> None:
    logits = torch.tensor([[1e9, 1e9 - 5.0, 0.0]], dtype=torch.float64)  # float32 would round 1e9 - 5 to 1e9
    assert metrics.sample_losses(Echo(), [(logits, torch.tensor([0]))]).item() == pytest.approx(0.006715, rel=1e-3)
