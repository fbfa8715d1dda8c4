from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn.spdgan.networks import Critic, check_shape, generator

SIDES = st.integers(8, 13)
SHAPES = (
    st.tuples(st.integers(1, 40))
    | st.tuples(st.integers(1, 6), SIDES)
    | st.tuples(st.integers(1, 4), SIDES, st.integers(8, 13))
)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, blocks=st.integers(0, 2), batch=st.integers(0, 3))
def test_every_shape_that_passes_comes_out_of_the_generator_and_gets_a_number_from_the_critic(
    shape: tuple[int, ...], blocks: int, batch: int
) -> None:
    check_shape(shape)
    x = torch.rand(batch, *shape) - 0.5
    assert generator(shape, 4, blocks)(x).shape == x.shape
    assert Critic(shape, 4)(x).shape == (batch,)


@pytest.mark.parametrize("shape", [(1, 9, 13), (3, 8, 8), (2, 11), (7,)])
def test_every_weight_of_the_generator_learns(shape: tuple[int, ...]) -> None:
    made = generator(shape, 4, 1)
    made(torch.rand(3, *shape)).square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("shape", [(1, 9, 13), (2, 11), (7,)])
def test_a_sample_does_not_depend_on_the_others_in_its_batch(shape: tuple[int, ...]) -> None:
    made, x = generator(shape, 4, 1).eval(), torch.rand(5, *shape)
    torch.testing.assert_close(made(x)[2:3], made(x[2:3]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((), r"vectors .*series .*images .*got shape \(\)"),
        ((1, 2, 8, 8), r"got shape \(1, 2, 8, 8\)"),
        ((0,), r"got shape \(0,\)"),
        ((1, 7, 9), r"at least 8 on each side, got shape \(1, 7, 9\)"),
        ((2, 7), r"at least 8 on each side, got shape \(2, 7\)"),
        ((5, 8, 8), r"1 to 4 channels, got shape \(5, 8, 8\)"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], words: str) -> None:
    for make in (lambda: check_shape(shape), lambda: generator(shape, 4, 1), lambda: Critic(shape, 4)):
        with pytest.raises(ValueError, match=words):
            make()


def stretch(critic: Critic, x: Tensor) -> float:
    """The largest change of the critic's answer that a small change of a sample makes, per unit of that."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x)
    return float(slope.flatten(1).norm(dim=1).max())


@pytest.mark.parametrize(("shape", "most"), [((12,), 1.0), ((1, 12), math.sqrt(3.0) ** 3), ((1, 9, 9), 3.0**3)])
def test_the_critic_is_as_smooth_as_it_says_after_some_forward_passes(shape: tuple[int, ...], most: float) -> None:
    critic = Critic(shape, 8)
    with torch.no_grad():
        for step in critic.steps:
            step.weight = 50.0 * step.weight  # whatever the weights were
        for _ in range(30):
            critic(torch.randn(2, *shape))
    assert stretch(critic.eval(), torch.randn(64, *shape)) <= 1.05 * most
