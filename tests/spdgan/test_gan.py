"""The SPDGAN as its users meet it: settings, perturbing, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.metrics import Interval, unlearning_degree
from fgunlearn.spdgan import Fitting
from fgunlearn.spdgan.samples import CHUNK

Batches = list[tuple[Tensor, Tensor]]
Maker = Callable[..., fg.SPDGAN]


@pytest.fixture
def gan(small: Maker, source: nn.Module, forget: Batches) -> fg.SPDGAN:
    return small().fit(source, forget)


def test_a_fit_returns_the_gan_itself_and_shows_in_its_name(small: Maker, source: nn.Module, forget: Batches) -> None:
    gan = small(eps=0.25)
    assert repr(gan).endswith("not fitted)")
    assert gan.fit(source, forget) is gan
    assert "eps=0.25" in repr(gan)
    assert repr(gan).endswith("fitted to (1, 8, 8))")
    assert gan.fitted.seconds > 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_is_perturbed_keeps_its_dtype_and_has_no_gradient(
    gan: fg.SPDGAN, forget: Batches, dtype: torch.dtype
) -> None:
    x = forget[0][0].to(dtype).requires_grad_()
    shifted = gan.perturb(x)
    assert (shifted.dtype, shifted.shape, shifted.device) == (dtype, x.shape, x.device)
    assert not shifted.requires_grad
    expected = gan.perturb(forget[0][0])
    torch.testing.assert_close(shifted.float(), expected, atol=0.01, rtol=0.01)


def test_perturbing_leaves_x_and_torchs_random_numbers_alone(gan: fg.SPDGAN, forget: Batches) -> None:
    x, state = forget[0][0].clone(), torch.get_rng_state()
    first = gan.perturb(x)
    assert x.equal(forget[0][0])
    assert gan.perturb(x).equal(first)
    assert torch.get_rng_state().equal(state)


def test_an_empty_batch_and_one_of_many_chunks_will_do(gan: fg.SPDGAN, forget: Batches) -> None:
    empty = gan.perturb(torch.zeros(0, 1, 8, 8))
    assert empty.shape == (0, 1, 8, 8)
    x = forget[0][0]
    many = x.repeat(2 * CHUNK // len(x) + 1, 1, 1, 1)
    shifted = gan.perturb(many)
    assert len(shifted) == len(many) > 2 * CHUNK
    torch.testing.assert_close(shifted[-len(x) :], gan.perturb(x))


def test_channels_last_and_strided_batches_are_perturbed_alike(gan: fg.SPDGAN, forget: Batches) -> None:
    x = forget[0][0]
    expected = gan.perturb(x)
    torch.testing.assert_close(gan.perturb(x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(gan.perturb(x.repeat_interleave(2, 3)[..., ::2]), expected)


def test_autocast_and_gradients_around_it_make_no_difference(gan: fg.SPDGAN, forget: Batches) -> None:
    expected = gan.perturb(forget[0][0])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert gan.perturb(forget[0][0]).equal(expected)


def test_a_perturbed_loader_is_lazy_and_can_be_read_again(gan: fg.SPDGAN, forget: Batches) -> None:
    read: list[int] = []

    class Noting:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for i, batch in enumerate(forget):
                read.append(i)
                yield batch

    loader = gan.perturbed(Noting())
    assert read == []
    batches = iter(loader)
    x, y = next(batches)
    assert read == [0]
    assert x.equal(gan.perturb(forget[0][0]))
    assert y is forget[0][1]
    again = list(loader)
    assert len(again) == len(forget)
    assert again[0][0].equal(x)


def test_samples_outside_the_range_are_brought_back_or_refused(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    gan = small(lo=0.0, hi=1.0).fit(source, forget)
    at_the_border = torch.ones_like(forget[0][0])
    brought = gan.perturb(at_the_border + 10.0)
    assert brought.equal(gan.perturb(at_the_border))  # before they are shifted: as fit sees them
    assert not brought.equal(at_the_border)
    strict = small(lo=0.0, hi=1.0, outside="error").fit(source, forget)
    strict.perturb(forget[0][0])
    strict.perturb(torch.zeros(0, 1, 8, 8))
    for bad in (10.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"x leaves \[lo, hi\]"):
            strict.perturb(forget[0][0] + bad)


def test_with_outside_error_a_fit_says_which_loader_leaves_the_range(
    small: Maker, source: nn.Module, forget: Batches
) -> None:
    far = [(x + 1.0, y) for x, y in forget]
    for loaders, name in (((far,), "loader"), ((forget, far), "train_loader")):
        gan = small({"accuracy_budget": None}, lo=0.0, hi=1.0, outside="error")
        with pytest.raises(ValueError, match=rf"^{name}: x leaves \[lo, hi\]"):
            gan.fit(source, *loaders)


def test_it_serves_the_unlearning_degree(gan: fg.SPDGAN, source: nn.Module, forget: Batches, train: Batches) -> None:
    itself = unlearning_degree(source, copy.deepcopy(source), forget, gan, train, resamples=20)
    assert itself.net == itself.loss == Interval(0.0, 0.0, 0.0)
    assert itself.source_accuracy == gan.fitted.shifted_accuracy
    by_loader = unlearning_degree(source, source, gan.perturbed(forget), None, resamples=20)
    assert by_loader.source_accuracy == itself.source_accuracy


def test_what_is_not_fitted_can_not_be_used(small: Maker, forget: Batches) -> None:
    for use in (lambda g: g.perturb(forget[0][0]), lambda g: g.save("never"), lambda g: g.fitted):
        with pytest.raises(ValueError, match=r"not fitted yet: call fit\(model, loader\)"):
            use(small())


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(2, 1, 9, 8), ValueError, r"fitted to samples of shape \(1, 8, 8\), got .*shape \(2, 1, 9, 8\)"),
        (torch.zeros(1, 8, 8), ValueError, r"got a batch of shape \(1, 8, 8\)"),
        (torch.tensor(1.0), ValueError, r"got a batch of shape \(\)"),
        (torch.zeros(2, 1, 8, 8).long(), TypeError, r"x must be a floating-point tensor, got torch\.int64"),
        ([1.0], TypeError, "x must be a floating-point tensor, got list"),
    ],
)
def test_other_batches_are_refused(gan: fg.SPDGAN, x: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gan.perturb(x)


class Dict(nn.Module):
    """Takes or returns a dict, as the models of some libraries do."""

    def __init__(self, takes: bool) -> None:
        super().__init__()
        self.head, self.takes = nn.Linear(64, 4), takes

    def forward(self, x: Any) -> Any:
        return self.head(x["x"]) if self.takes else {"logits": self.head(x.flatten(1))}


IMAGES, LABELS = torch.rand(6, 1, 8, 8), torch.arange(6) % 4


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"loader": [(IMAGES[:1], LABELS[:1])]}, ValueError, "loader must hold 2 samples or more to forget, got 1"),
        ({"train_loader": [(IMAGES[:1], LABELS[:1])]}, ValueError, "train_loader must hold 2 samples or more, got 1"),
        ({"loader": []}, ValueError, "^loader is empty"),
        ({"train_loader": []}, ValueError, "^train_loader is empty"),
        ({"loader": [IMAGES]}, TypeError, r"^loader must give \(x, y\) batches"),
        (
            {"loader": [((255 * IMAGES).long(), LABELS)]},
            TypeError,
            r"^loader: x must be floating-point, got torch\.int",
        ),
        ({"loader": [({"x": IMAGES}, LABELS)], "model": Dict(takes=True)}, TypeError, r"^loader must .*got \(dict"),
        ({"model": Dict(takes=False)}, ValueError, r"model must return logits of shape \(6, classes\).*got dict"),
        ({"loader": [(IMAGES[:, :, :7], LABELS)]}, ValueError, r"at least 8 on each side, got shape \(1, 7, 8\)"),
        (
            {"train_loader": [(torch.rand(6, 3, 8, 8), LABELS)]},
            ValueError,
            r"train_loader's samples must have loader's shape, \(1, 8, 8\), got \(3, 8, 8\)",
        ),
        ({"model": nn.Sequential(nn.Flatten())}, ValueError, "no nn.Linear .*layer="),
        ({"layer": "nowhere"}, ValueError, "layer must name a module of the model, got 'nowhere'"),
        ({"features": []}, ValueError, "features must hold at least one model"),
        ({"features": nn.Sequential(nn.Linear(64, 4))}, TypeError, "features must be a sequence .*got one Sequential"),
    ],
)
def test_what_can_not_be_fitted_is_refused_by_name_before_any_training(
    monkeypatch: pytest.MonkeyPatch,
    small: Maker,
    source: nn.Module,
    changed: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("torch.optim.Adam.step", refuse)
    given = {"model": source, "loader": [(IMAGES, LABELS)]}
    gan = small()
    with pytest.raises(error, match=words):
        gan.fit(**{**given, **changed})
    with pytest.raises(ValueError, match="not fitted"):
        gan.perturb(IMAGES)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"eps": 0.0}, ValueError, "eps must be finite and > 0, got 0.0"),
        ({"eps": float("inf")}, ValueError, "eps must be finite"),
        ({"eps": "0.1"}, TypeError, "eps must be a number, got '0.1'"),
        ({"radius": -1.0}, ValueError, "radius must be finite and > 0, got -1.0"),
        ({"norm": "l1"}, ValueError, "norm must be 'none', 'l2' or 'linf', got 'l1'"),
        ({"outside": "wrap"}, ValueError, "outside must be 'clamp' or 'error', got 'wrap'"),
        ({"lo": 1.0, "hi": 0.0}, ValueError, "lo must be less than hi"),
        ({"width": 6}, ValueError, "width must be a multiple of 4, got 6"),
        ({"width": 0}, ValueError, "width must be an int >= 4, got 0"),
        ({"width": 8.0}, ValueError, "width must be an int >= 4, got 8.0"),
        ({"blocks": -1}, ValueError, "blocks must be an int >= 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be an int, got 0.5"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fg.SPDGAN(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be an int >= 1, got 0"),
        ({"batch": 1}, ValueError, "batch must be an int >= 2, got 1"),
        ({"check_every": 2.0}, ValueError, "check_every must be an int >= 1, got 2.0"),
        ({"patience": True}, ValueError, "patience must be an int >= 1, got True"),
        ({"lr": 0.0}, ValueError, "lr must be finite and > 0, got 0.0"),
        ({"lr": "1e-3"}, TypeError, "lr must be a number, got '1e-3'"),
        ({"critic_weight": -1.0}, ValueError, "critic_weight must be finite and >= 0, got -1.0"),
        ({"magnitude": float("nan")}, ValueError, "magnitude must be finite and >= 0, got nan"),
        ({"shift_weight": None}, TypeError, "shift_weight must be a number, got None"),
        ({"accuracy_budget": 1.5}, ValueError, r"accuracy_budget must be in \[0, 1\] or None, got 1.5"),
        ({"average": 1.0}, ValueError, r"average must be in \[0, 1\), got 1.0"),
        ({"heldout_share": -0.1}, ValueError, r"heldout_share must be in \[0, 1\), got -0.1"),
    ],
)
def test_bad_settings_of_the_training_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Fitting(**settings)
