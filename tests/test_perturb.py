from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.initial import initial_distribution

Batches = list[tuple[Tensor, Tensor]]


def choose(model: nn.Module, ratio: float = 0.3) -> fg.Selection:
    return fg.select(model, [], None, fg.RandomK(ratio, seed=3))


def parts(model: nn.Module, selection: fg.Selection) -> list[tuple[Tensor, Tensor]]:
    parameters = [p.detach() for p in model.parameters() if p.requires_grad]
    return [(p[m], p[~m]) for p, m in zip(parameters, selection.masks(), strict=True)]


@pytest.mark.parametrize("how", [fg.Gaussian(0.5), fg.Reset(), fg.Zero(), fg.Shrink(0.5), fg.Ascent(0.1)])
def test_only_the_selected_coordinates_change(model: nn.Module, batches: Batches, how: Any) -> None:
    selection = choose(model)
    before = parts(copy.deepcopy(model), selection)
    buffers = [b.clone() for b in model.buffers()]
    assert fg.perturb_(model, selection, how, loader=batches) is model
    after = parts(model, selection)
    assert any(not a.equal(b) for (a, _), (b, _) in zip(before, after, strict=True))
    assert all(a.equal(b) for (_, a), (_, b) in zip(before, after, strict=True))
    assert all(a.equal(b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_gaussian_noise_is_relative_to_the_tensors_rms() -> None:
    big = nn.Linear(300, 300)
    was = big.weight.detach().clone()
    fg.perturb_(big, choose(big, 1.0), fg.Gaussian(0.5))
    ratio = float((big.weight - was).std() / was.square().mean().sqrt())
    assert ratio == pytest.approx(0.5, rel=0.02)
    was = big.weight.detach().clone()
    fg.perturb_(big, choose(big, 1.0), fg.Gaussian(0.5, relative=False, seed=1))
    assert float((big.weight - was).std()) == pytest.approx(0.5, rel=0.02)


def test_the_noise_at_a_place_does_not_depend_on_what_else_is_selected() -> None:
    one, two = nn.Linear(20, 20), nn.Linear(20, 20)
    two.load_state_dict(one.state_dict())
    fg.perturb_(one, choose(one, 0.3), fg.Gaussian(1.0))
    fg.perturb_(two, choose(two, 1.0), fg.Gaussian(1.0))
    mask = choose(one, 0.3).masks()[0]
    assert one.weight[mask].equal(two.weight[mask])


def test_zero_and_shrink_do_what_they_say(model: nn.Module) -> None:
    selection = choose(model)
    before = parts(copy.deepcopy(model), selection)
    shapes = [p.dim() for p in model.parameters() if p.requires_grad]
    fg.perturb_(model, selection, fg.Shrink(0.25))
    for (a, _), (b, _), dim in zip(before, parts(model, selection), shapes, strict=True):
        assert b.equal(a * 0.25 if dim > 1 else a)
    fg.perturb_(model, selection, fg.Zero())
    assert all(not bool(chosen.any()) for chosen, _ in parts(model, selection))


LAYERS: list[nn.Module] = [
    nn.Linear(7, 5),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.BatchNorm2d(4),
    nn.LayerNorm((3, 4)),
    nn.GroupNorm(2, 4),
    nn.Embedding(11, 4),
    nn.LSTM(3, 8),
    nn.GRUCell(3, 8),
    nn.Bilinear(3, 4, 5),
    nn.PReLU(3, init=0.3),
    nn.MultiheadAttention(8, 2),
    nn.RMSNorm(6),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_reset_draws_from_the_distribution_torch_initialises_the_layer_with(layer: nn.Module) -> None:
    made = []
    for seed in range(60):
        torch.manual_seed(seed)
        layer._reset_parameters() if isinstance(layer, nn.MultiheadAttention) else layer.reset_parameters()  # type: ignore[operator]
        if isinstance(layer, nn.MultiheadAttention):
            layer.out_proj.reset_parameters()
            nn.init.zeros_(layer.out_proj.bias)
        made.append({name: p.detach().clone() for name, p in layer.named_parameters()})
    drawn = []
    for seed in range(60):
        fg.perturb_(layer, choose(layer, 1.0), fg.Reset(seed))
        drawn.append({name: p.detach().clone() for name, p in layer.named_parameters()})
    for name in made[0]:
        ours, torchs = (torch.stack([one[name] for one in all_]).flatten() for all_ in (drawn, made))
        if initial_distribution(layer, name).draw == "none":
            assert ours.equal(torchs), name
            continue
        scale = float(torchs.std())
        assert float(ours.mean()) == pytest.approx(0.0, abs=5 * scale / math.sqrt(len(ours))), name
        assert float(ours.std()) == pytest.approx(scale, rel=6 / math.sqrt(len(ours))), name
        if initial_distribution(layer, name).draw == "uniform":
            assert float(ours.abs().max()) == pytest.approx(float(torchs.abs().max()), rel=0.05), name


def test_reset_refuses_a_layer_it_does_not_know_and_changes_nothing(state_of: Any, assert_same: Any) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    model = Own()
    before = state_of(model)
    with pytest.raises(ValueError, match="'scale', a parameter of Own"):
        fg.perturb_(model, choose(model, 1.0), fg.Reset())
    assert_same(before, state_of(model))
    nothing = choose(model, 0.0)
    fg.perturb_(model, nothing, fg.Reset())  # nothing of it is selected
    assert_same(before, state_of(model))


def test_ascent_is_one_step_up_the_mean_loss(batches: Batches) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    reference = copy.deepcopy(model)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    nn.functional.cross_entropy(reference(x), y).backward()
    fg.perturb_(model, choose(model, 1.0), fg.Ascent(0.3), loader=batches)
    for p, r in zip(model.parameters(), reference.parameters(), strict=True):
        assert r.grad is not None
        torch.testing.assert_close(p.detach(), r.detach() + 0.3 * r.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fg.Gaussian(-0.1), ValueError, "std must be >= 0, got -0.1"),
        (lambda: fg.Gaussian(math.nan), ValueError, "std must be finite"),
        (lambda: fg.Gaussian("1"), TypeError, "std must be a number"),  # type: ignore[arg-type]
        (lambda: fg.Gaussian(seed=0.5), TypeError, "seed must be an int"),  # type: ignore[arg-type]
        (lambda: fg.Reset(2**63), ValueError, "64 bits"),
        (lambda: fg.Shrink(1.0), ValueError, r"factor must be in \[0, 1\), got 1.0"),
        (lambda: fg.Ascent(0.0), ValueError, "lr must be > 0, got 0.0"),
    ],
)
def test_bad_settings_are_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


class Other(nn.Sequential):
    pass


@pytest.mark.parametrize(
    ("selection", "how", "loader", "error", "words"),
    [
        (
            lambda m: fg.Selection([(2,)], [torch.tensor([0])]),
            fg.Zero(),
            None,
            ValueError,
            r"shape \(4, 1, 3, 3\) in the model",
        ),
        (lambda m: choose(nn.Linear(3, 3)), fg.Zero(), None, ValueError, "another model: parameter 0 is '0.weight'"),
        (lambda m: choose(nn.Sequential(*m, nn.Linear(2, 2))), fg.Zero(), None, ValueError, "'7.weight'"),
        (lambda m: choose(nn.Sequential(*m[:5])), fg.Zero(), None, ValueError, "'5.weight' is not in the selection"),
        (lambda m: "all", fg.Zero(), None, TypeError, "selection must be a Selection, got str"),
        (choose, "zero", None, TypeError, "perturbation must be .* got 'zero'"),
        (choose, fg.Ascent(0.1), None, ValueError, "Ascent needs loader"),
        (choose, fg.Ascent(0.1), [], ValueError, "loader is empty"),
    ],
)
def test_bad_input_is_refused_and_the_model_stays(
    model: nn.Module,
    selection: Any,
    how: Any,
    loader: Any,
    error: type[Exception],
    words: str,
    state_of: Any,
    assert_same: Any,
) -> None:
    chosen = selection(model)
    before = state_of(model)
    with pytest.raises(error, match=words):
        fg.perturb_(model, chosen, how, loader=loader)
    assert_same(before, state_of(model))


def test_noise_relative_to_a_tensor_with_nan_is_refused(model: nn.Module, state_of: Any, assert_same: Any) -> None:
    with torch.no_grad():
        model[5].bias[3] = math.nan
    before = state_of(model)
    with pytest.raises(ValueError, match=r"parameter '5.bias' holds NaN"):
        fg.perturb_(model, choose(model, 1.0), fg.Gaussian(0.1))
    assert_same(before, state_of(model))


def test_tied_and_empty_parameters_work() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    tied.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    tied.register_parameter("scalar", nn.Parameter(torch.tensor(2.0)))
    fg.perturb_(tied, choose(tied, 1.0), fg.Zero())
    assert not any(bool(p.any()) for p in tied.parameters())
