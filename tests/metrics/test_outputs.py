from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.metrics import Outputs, accuracy


def of_probabilities(*rows: list[float], labels: list[int]) -> Outputs:
    return Outputs(torch.tensor(rows, dtype=torch.float64).log(), torch.tensor(labels))


def test_every_quantity_of_a_sample_by_hand() -> None:
    found = of_probabilities([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], labels=[0, 1])
    assert found.accuracy == 0.5
    log = math.log
    expected = {
        "losses": [-log(0.7), -log(0.2)],
        "confidence": [0.7, 0.2],
        "log_odds": [log(0.7 / 0.3), log(0.2 / 0.8)],
        "entropy": [-(0.7 * log(0.7) + 0.2 * log(0.2) + 0.1 * log(0.1))] * 2,
        "modified_entropy": [
            -0.3 * log(0.7) - 0.2 * log(0.8) - 0.1 * log(0.9),
            -0.8 * log(0.2) - 0.7 * log(0.3) - 0.1 * log(0.9),
        ],
    }
    for name, values in expected.items():
        torch.testing.assert_close(getattr(found, name), torch.tensor(values, dtype=torch.float64), msg=name)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), classes=st.integers(2, 6), scale=st.sampled_from([0.1, 1.0, 3.0]), seed=st.integers(0, 99))
def test_they_are_the_textbook_formulas(n: int, classes: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Not so large that the textbook's 1 - p loses its own digits, as the other test's do.
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    found = Outputs(logits, labels)
    p = logits.softmax(1)
    own = F.one_hot(labels, classes).bool()
    torch.testing.assert_close(found.losses, F.cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(found.confidence, p[own])
    torch.testing.assert_close(found.log_odds, p[own].logit(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum(1))
    wrong = (p * torch.log1p(-p)).masked_fill(own, 0.0).sum(1)
    torch.testing.assert_close(found.modified_entropy, -(1 - p[own]) * p[own].log() - wrong, atol=1e-6, rtol=1e-6)


def test_samples_that_the_model_is_surer_of_than_float64_can_say_keep_their_order() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [60.0, 0.0, 0.0], [0.0, 60.0, 0.0], [0.0, 9e4, 0.0]])
    found = Outputs(logits, torch.zeros(4, dtype=torch.long))
    assert 0.0 < float(found.losses[1]) < float(found.losses[0]) < 1e-20
    torch.testing.assert_close(found.log_odds[:2], torch.tensor([50.0, 60.0]).double() - math.log(2.0))
    assert 0.0 < float(found.modified_entropy[1]) < float(found.modified_entropy[0])
    # Surely wrong: -log p_y - log(1 - p_wrong), 60 + 60 - log 2 - ... and no infinity.
    assert float(found.modified_entropy[2]) == pytest.approx(120.0 - math.log(2.0))
    for values in (found.losses, found.entropy, found.modified_entropy):
        assert bool(values.isfinite().all())


def test_of_a_model_it_is_one_pass_in_order(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    found = Outputs.of(model, batches)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.logits, torch.cat([model(x) for x, _ in batches]))
    assert found.labels.equal(torch.cat([y for _, y in batches]))
    assert found.accuracy == accuracy(model, batches)
    assert len(found) == 40


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_become_int64(dtype: torch.dtype) -> None:
    assert Outputs(torch.eye(3), torch.arange(3).to(dtype)).labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"logits must be float of shape \(samples, classes\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "samples >= 1"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), r"classes >= 2, got torch.float32 of shape \(3, 1\)"),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), "got torch.int64"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), r"labels must be integers of shape \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3), "got torch.float32"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"labels must be in \[0, 1\], got 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), r"labels must be in \[0, 1\], got -1 to 1"),
        (torch.tensor([[0.0, math.nan], [math.inf, 0.0]]), torch.tensor([0, 1]), "2 values that are NaN or infinite"),
    ],
)
def test_what_are_no_logits_and_labels_is_refused(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Outputs(logits, labels)


def test_the_loader_is_named(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="retain_loader: the loader is empty"):
        Outputs.of(model, [], "retain_loader")
