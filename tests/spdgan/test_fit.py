"""What a fit makes of the generator, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.features import InputOf
from fgunlearn.metrics import accuracy, median_bandwidth, squared_mmd
from fgunlearn.spdgan import Fitting, fit

Batches = list[tuple[Tensor, Tensor]]
Maker = Callable[..., fg.SPDGAN]

UNTRAINED = {"steps": 1, "lr": 1e-12}
FREE = {"critic_weight": 0.0, "magnitude_weight": 0.0}
"""Nothing but the shift counts."""


def shift_of(gan: fg.SPDGAN, model: nn.Module, data: Batches, reference: Batches) -> float:
    """How far the model's features of the perturbed data are from those of the reference."""
    look = InputOf(copy.deepcopy(model).eval())
    with torch.no_grad():
        expected = look(torch.cat([x for x, _ in reference]))
        found = look(gan.perturb(torch.cat([x for x, _ in data])))
        return float(squared_mmd(found, expected, median_bandwidth(expected)))


@pytest.mark.parametrize("others", [FREE, {"critic_weight": 0.1}])
def test_training_moves_the_features_off_the_training_data(
    small: Maker, source: nn.Module, forget: Batches, train: Batches, others: dict[str, float]
) -> None:
    shifts = []
    for fitting in (UNTRAINED, {"steps": 60, "lr": 3e-3, **others}):
        gan = small({"batch": 16, **fitting}, eps=0.4).fit(source, forget, train)
        shifts.append(shift_of(gan, source, forget, train))
    assert shifts[1] > max(shifts[0], 0.0) + 0.03


def test_the_history_tells_what_happened_step_by_step(small: Maker, source: nn.Module, forget: Batches) -> None:
    history = small({"steps": 7, "check_every": 3}).fit(source, forget).fitted.history
    for values in (history.shift, history.magnitude, history.generator_loss, history.critic_loss):
        assert len(values) == 7
    assert history.heldout_step == [3, 6, 7]
    assert len(history.heldout_shift) == 3
    assert not history.stopped
    assert small({"critic_weight": 0.0}).fit(source, forget).fitted.history.critic_loss == []


def test_training_stops_where_the_held_out_shift_has_levelled_off(
    monkeypatch: pytest.MonkeyPatch, small: Maker, source: nn.Module, forget: Batches
) -> None:
    found = iter([0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
    monkeypatch.setattr(fit._Shift, "heldout", lambda self, shifted: torch.tensor(next(found)))
    history = small({"check_every": 1, "patience": 2, "steps": 50}).fit(source, forget).fitted.history
    assert history.stopped
    assert history.heldout_step == [1, 2, 3, 4, 5, 6]  # 0.3 and 0.3, after 0.3 and 0.3
    assert len(history.shift) == 6


def test_a_generator_that_has_lost_its_shift_to_the_critic_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, small: Maker, source: nn.Module, forget: Batches
) -> None:
    def fitted_to(*found: float) -> fg.SPDGAN:
        left = iter(found)
        monkeypatch.setattr(fit._Shift, "heldout", lambda self, shifted: torch.tensor(next(left)))
        return small({"check_every": 1, "steps": len(found), "critic_ramp": 0.0}).fit(source, forget)

    x = forget[0][0]
    third = fitted_to(0.1, 0.5, 0.3, 0.2)
    assert third.fitted.history.kept_step == 3  # 0.2 is less than half of 0.5
    assert third.perturb(x).equal(fitted_to(0.1, 0.5, 0.3).perturb(x))
    assert not third.perturb(x).equal(fitted_to(0.1, 0.5, 0.3, 0.4).perturb(x))


@pytest.mark.parametrize(
    ("fitting", "kept"),
    [
        ({"steps": 6, "critic_ramp": 4 / 6}, 5),  # has its weight from step 4 on
        ({"steps": 6, "critic_weight": 0.0}, 3),
        ({"steps": 50, "patience": 2}, 4),  # stopped before it had
    ],
)
def test_only_what_the_critic_with_its_weight_has_left_is_compared(
    monkeypatch: pytest.MonkeyPatch,
    small: Maker,
    source: nn.Module,
    forget: Batches,
    fitting: dict[str, float],
    kept: int,
) -> None:
    found = iter([0.9, 0.8, 0.7, 0.2, 0.3, 0.1])
    monkeypatch.setattr(fit._Shift, "heldout", lambda self, shifted: torch.tensor(next(found)))
    gan = small({"check_every": 1, "critic_weight": 0.8, **fitting}).fit(source, forget)
    assert gan.fitted.history.kept_step == kept


def test_the_critic_waits_for_half_its_ramp_and_then_comes_to_its_weight() -> None:
    shares = [Fitting(steps=16, critic_ramp=0.5).critic_share(step) for step in (1, 4, 5, 6, 7, 8, 9, 16)]
    assert shares == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert Fitting(critic_ramp=0.0).critic_share(1) == 1.0


def test_what_has_levelled_off_is_asked_of_means_not_of_single_looks() -> None:
    assert not fit._levelled_off([0.3, 0.3, 0.3], 2)  # too few to compare
    assert fit._levelled_off([0.3, 0.3, 0.3, 0.3], 2)
    assert fit._levelled_off([0.2, 0.4, 0.25, 0.355], 2)  # 0.3025 after 0.3
    assert not fit._levelled_off([0.2, 0.4, 0.25, 0.36], 2)  # 0.305 after 0.3
    assert not fit._levelled_off([0.4, 0.2, 0.1, 0.6], 2)
    assert fit._levelled_off([0.5, 0.5, 0.3, 0.3], 2)


@pytest.mark.parametrize(
    "found", [[-0.02, -0.02, -0.02, -0.02], [-0.02, -0.02, -0.01, -0.01], [-0.02, -0.02, 0.01, 0.01]]
)
def test_a_shift_that_is_not_there_yet_has_not_levelled_off(found: list[float]) -> None:
    assert not fit._levelled_off(found, 2)


def test_a_training_loader_sorted_by_class_is_no_other_than_a_mixed_one(
    monkeypatch: pytest.MonkeyPatch, small: Maker, source: nn.Module, forget: Batches, train: Batches
) -> None:
    monkeypatch.setattr(fit, "_MOST_HELDOUT", 40)  # a quarter of the training data: one class, if taken in order
    x, y = (torch.cat(parts) for parts in zip(*train, strict=True))
    order = y.argsort()
    history = small(UNTRAINED, eps=1e-3).fit(source, forget, [(x[order], y[order])]).fitted.history
    assert abs(history.heldout_shift[0]) < 0.1


def test_what_is_held_out_is_not_learned_from_though_the_training_data_has_it(
    monkeypatch: pytest.MonkeyPatch, small: Maker, source: nn.Module, forget: Batches, train: Batches
) -> None:
    seen = []

    class SeenError(Exception):
        pass

    def look(generator: nn.Module, material: fit.Material, *_: object) -> None:
        seen.append(material)
        raise SeenError

    monkeypatch.setattr("fgunlearn.spdgan.gan.fit_generator", look)
    for loader in ([*forget, *train], forget):
        with pytest.raises(SeenError):
            small({"heldout_share": 0.25}).fit(source, forget, loader)
        material = seen.pop()
        assert len(material.heldout) >= 2
        for part in material.inputs:
            assert len(part) >= 2
            distances = torch.cdist(
                material.heldout.flatten(1), part.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
            )
            assert float(distances.min()) > 0.0
        assert len(material.reference) == sum(len(x) for x, _ in loader)


def test_one_seed_gives_one_generator(small: Maker, source: nn.Module, forget: Batches, train: Batches) -> None:
    x = forget[0][0]
    first, second, other = (small(seed=seed).fit(source, forget, train) for seed in (3, 3, 4))
    assert first.perturb(x).equal(second.perturb(x))
    assert first.fitted.history == second.fitted.history
    assert not first.perturb(x).equal(other.perturb(x))


def test_torchs_own_random_numbers_go_on_as_if_nothing_had_been(
    monkeypatch: pytest.MonkeyPatch, small: Maker, source: nn.Module, forget: Batches
) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("seeded CUDA")

    monkeypatch.setattr("torch.cuda.manual_seed_all", refuse)
    before = torch.get_rng_state()
    small().fit(source, forget).perturb(forget[0][0])
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("training", [True, False])
def test_the_source_model_is_not_changed(
    small: Maker,
    source: nn.Module,
    forget: Batches,
    state_of: Callable[[nn.Module], dict[str, Tensor]],
    assert_same: Callable[..., None],
    training: bool,
) -> None:
    source.train(training)
    source[1].eval()
    before, asked = state_of(source), [p.requires_grad for p in source.parameters()]
    gan = small().fit(source, forget, features=[source, copy.deepcopy(source)])
    gan.perturb(forget[0][0])
    assert_same(before, state_of(source))
    assert [p.requires_grad for p in source.parameters()] == asked
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in source.modules())


@pytest.mark.parametrize("norm", ["none", "l2", "linf"])
def test_a_perturbation_keeps_to_eps_to_the_ball_and_to_the_range(
    small: Maker, source: nn.Module, forget: Batches, norm: str
) -> None:
    gan = small({"steps": 10, "lr": 1e-2, **FREE}, eps=0.3, norm=norm, radius=0.25).fit(source, forget)
    fitted = gan.fitted
    low, high = float(fitted.range.low), float(fitted.range.high)
    x = torch.cat([x for x, _ in forget])
    shifted = gan.perturb(x)
    assert float(shifted.min()) >= low
    assert float(shifted.max()) <= high
    delta = ((shifted - x) / (high - low)).flatten(1)
    assert float(delta.abs().max()) <= fitted.scale * 0.3 * (1 + 1e-5)
    assert float(delta.abs().max()) > 0.01
    if norm != "none":
        size = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
        assert float(size.max()) <= fitted.scale * 0.25 * (1 + 1e-5)


def test_the_accuracy_budget_is_kept_by_scaling_down_what_was_learned(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    strong = {"steps": 40, "lr": 1e-2, "batch": 16, **FREE}
    unlimited = small({**strong, "accuracy_budget": None}, eps=1.0).fit(source, forget).fitted
    assert unlimited.scale == 1.0
    assert unlimited.accuracy - unlimited.shifted_accuracy > 0.1  # or there is nothing to keep
    gan = small({**strong, "accuracy_budget": 0.02}, eps=1.0).fit(source, forget)
    assert 0.0 < gan.fitted.scale < 1.0
    assert gan.fitted.accuracy == accuracy(source, forget)
    assert gan.fitted.shifted_accuracy == accuracy(source, gan.perturbed(forget))
    assert gan.fitted.accuracy - gan.fitted.shifted_accuracy <= 0.02


def test_a_budget_that_no_scale_keeps_is_not_passed_over(small: Maker, source: nn.Module, forget: Batches) -> None:
    with pytest.raises(ValueError, match=r"accuracy_budget=0\.1 can't be kept.*do lo and hi fit the data"):
        small(lo=0.0, hi=0.01).fit(source, forget)  # all of the image is cut off


def test_a_batch_whose_perturbation_is_all_cut_off_does_not_end_in_nan(small: Maker) -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    constant = [(torch.zeros(20, 1), torch.zeros(20, dtype=torch.long))]
    for seed in range(4):
        assert small(seed=seed).fit(model, constant).perturb(torch.zeros(3, 1)).isfinite().all()


def test_other_models_features_can_be_shifted_instead(small: Maker, source: nn.Module, forget: Batches) -> None:
    other = copy.deepcopy(source)
    with torch.no_grad():
        other[5].weight.mul_(-1.0)
    x = forget[0][0]
    of_source, of_other, of_both, of_layer = (
        small().fit(source, forget, features=models, layer=layer).perturb(x)
        for models, layer in ((None, None), ([other], None), ([source, other], None), (None, "5"))
    )
    assert of_source.equal(small().fit(source, forget, features=(source,)).perturb(x))
    for found in (of_other, of_both, of_layer):
        assert not found.equal(of_source)


def test_loaders_are_read_once_so_iterators_will_do(
    small: Maker, source: nn.Module, forget: Batches, train: Batches
) -> None:
    x = forget[0][0]
    of_lists = small().fit(source, forget, train).perturb(x)
    assert small().fit(source, iter(forget), iter(train)).perturb(x).equal(of_lists)


def test_gradients_and_autocast_around_a_fit_make_no_difference(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    x = forget[0][0]
    gan = small().fit(source, forget)
    with torch.no_grad():
        assert small().fit(source, forget).perturb(x).equal(gan.perturb(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small().fit(source, forget).perturb(x).equal(gan.perturb(x))


class Series(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.LSTM(2, 6, batch_first=True, dtype=dtype)
        self.head = nn.Linear(6, 4, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Vectors; two layers share a weight, nothing is to be trained, and the input is changed in place."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(5, 5, dtype=dtype) for _ in range(2))
        self.second.weight = self.first.weight
        self.head = nn.Linear(5, 4, dtype=dtype)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.sub_(0.5)).relu()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("make", "shape"), [(Series, (2, 9)), (Tied, (5,))])
def test_series_and_vectors_and_models_of_any_precision_will_do(
    small: Maker, make: Callable[[torch.dtype], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    model = make(dtype).train()
    x, y = torch.rand(24, *shape, dtype=dtype), torch.arange(24) % 4
    kept = x.clone()
    gan = small({"accuracy_budget": None}).fit(model, [(x, y)])
    assert gan.fitted.accuracy == accuracy(model, [(x.clone(), y)])
    shifted = gan.perturb(x)
    assert (shifted.dtype, shifted.shape) == (dtype, x.shape)
    assert x.equal(kept)
    assert not shifted.equal(x)
    assert all(p.grad is None for p in model.parameters())


def test_training_that_diverges_says_so_and_leaves_the_earlier_fit(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    gan = small().fit(source, forget)
    before, shifted = gan.fitted, gan.perturb(forget[0][0])
    gan.fitting = Fitting(steps=30, batch=8, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"diverged: .* is NaN or infinite at step \d+; a smaller lr"):
        gan.fit(source, forget)
    assert gan.fitted is before
    assert gan.perturb(forget[0][0]).equal(shifted)
    assert source.training


def test_an_error_or_an_interrupt_leaves_the_earlier_fit(small: Maker, source: nn.Module, forget: Batches) -> None:
    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield forget[0]
        raise KeyboardInterrupt

    gan = small().fit(source, forget)
    before = gan.fitted
    for loaders in ((interrupted(),), (forget, interrupted())):
        with pytest.raises(KeyboardInterrupt):
            gan.fit(source, *loaders)
    assert gan.fitted is before


def test_features_that_are_not_finite_are_not_called_a_divergence(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    with torch.no_grad():
        source[5].bias[0] = float("nan")
    with pytest.raises(ValueError, match="features of the data hold NaN or infinity"):
        small().fit(source, forget)
