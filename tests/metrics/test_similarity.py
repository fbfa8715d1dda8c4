from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.metrics.similarity import js_divergence

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def data() -> Batches:
    return [(torch.randn(n, 6), torch.randint(0, 3, (n,))) for n in (8, 5)]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def test_a_model_is_perfectly_like_itself(data: Batches) -> None:
    model = network()
    found = metrics.similarity(model, copy.deepcopy(model), data)
    assert found.js_divergence == pytest.approx(0.0, abs=1e-12)
    assert found.agreement == 1.0
    assert found.relative_l2 == 0.0
    assert found.cosine == pytest.approx(1.0)
    assert found.cka == pytest.approx(1.0)


class Constant(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.head = nn.Linear(6, len(logits))
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)  # type: ignore[no-any-return]


def test_predictions_that_share_nothing_have_the_largest_divergence(data: Batches) -> None:
    found = metrics.similarity(Constant(99.0, 0.0), Constant(0.0, 99.0), data)
    assert found.js_divergence == pytest.approx(math.log(2.0))
    assert found.agreement == 0.0


def test_the_divergence_is_in_nats_and_symmetric(data: Batches) -> None:
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.4, 0.6])
    m = (p + q) / 2
    expected = float(0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum())
    a, b = Constant(*p.log().tolist()), Constant(*q.log().tolist())
    assert metrics.similarity(a, b, data).js_divergence == pytest.approx(expected, abs=1e-6)
    assert metrics.similarity(b, a, data).js_divergence == pytest.approx(expected, abs=1e-6)


def test_parameters_twice_as_large_are_as_far_as_the_original_is_long(data: Batches) -> None:
    model, doubled = network(), network()
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    found = metrics.similarity(doubled, model, data)
    assert found.relative_l2 == pytest.approx(1.0)
    assert found.cosine == pytest.approx(1.0)


def test_cka_does_not_see_a_rotation_or_a_scale_of_the_features(data: Batches) -> None:
    class Features(nn.Module):
        def __init__(self, turn: Tensor) -> None:
            super().__init__()
            self.turn = nn.Parameter(turn)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x @ self.turn)  # type: ignore[no-any-return]

    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    turned = metrics.similarity(Features(3.0 * rotation), Features(torch.eye(6)), data)
    assert turned.cka == pytest.approx(1.0, abs=1e-5)
    projected = metrics.similarity(
        Features(torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0]))), Features(torch.eye(6)), data
    )
    assert 0.0 <= projected.cka < 0.95


def test_another_layer_can_be_named(data: Batches) -> None:
    a, b = network(), network()
    with torch.no_grad():
        b[0].weight.copy_(torch.randn_like(b[0].weight))
    assert metrics.similarity(a, b, data).cka < 0.999
    assert metrics.similarity(a, b, data, layer="0").cka == pytest.approx(1.0)  # the input of the first layer: the data


def test_layers_that_can_not_be_found_are_named(data: Batches) -> None:
    with pytest.raises(ValueError, match="'nowhere'"):
        metrics.similarity(network(), network(), data, layer="nowhere")
    without = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6))
    with pytest.raises(ValueError, match=r"no nn\.Linear.*layer="):
        metrics.similarity(without, without, data)


def test_models_of_different_architectures_are_refused_by_parameter(data: Batches) -> None:
    wider = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(ValueError, match=r"parameter '.*' has shape"):
        metrics.similarity(network(), wider, data)


def test_the_models_come_back_in_their_modes(data: Batches) -> None:
    a, b = network().train(), network(1).eval()
    metrics.similarity(a, b, data)
    assert a.training
    assert not b.training


def test_features_that_never_change_have_no_alignment(data: Batches) -> None:
    constant = network()
    with torch.no_grad():
        constant[0].weight.zero_()
    assert math.isnan(metrics.similarity(constant, network(1), data).cka)


def test_a_model_that_has_diverged_is_like_none(data: Batches) -> None:
    for position, name in enumerate("ab"):
        pair = [network(), network(1)]
        with torch.no_grad():
            pair[position][2].bias[0] = math.nan  # type: ignore[operator,index]
        with pytest.raises(ValueError, match=f"the logits of {name} hold 13 NaN"):
            metrics.similarity(pair[0], pair[1], data)
    unused = network()
    unused.register_parameter("unused", nn.Parameter(torch.tensor([math.nan])))
    found = metrics.similarity(unused, unused, data)
    assert math.isnan(found.cosine)
    assert math.isnan(found.relative_l2)
    assert math.isnan(js_divergence(torch.tensor([[math.nan, 0.0]]), torch.zeros(1, 2)))


def test_a_class_of_probability_0_adds_what_its_limit_is() -> None:
    masked, other = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert js_divergence(masked, masked) == 0.0
    assert js_divergence(masked, other) == pytest.approx(math.log(2.0))
    nearly = torch.tensor([[50.0, 0.0]])
    assert js_divergence(masked, 0.0 * nearly) == pytest.approx(js_divergence(nearly, 0.0 * nearly))


def test_models_without_parameters_are_refused(data: Batches) -> None:
    with pytest.raises(ValueError, match="a has no parameters"):
        metrics.similarity(nn.Flatten(), nn.Flatten(), data)
