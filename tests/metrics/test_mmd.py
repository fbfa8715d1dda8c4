from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn.metrics import median_bandwidth, mmd_test, squared_mmd


def normals(n: int, seed: int, features: int = 3, shift: float = 0.0) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def restated(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Gretton et al., equation 3, pair by pair."""

    def kernel(a: list[float], b: list[float]) -> float:
        distance = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        return sum(math.exp(-distance / (2.0 * scale * bandwidth)) for scale in (0.25, 0.5, 1.0, 2.0, 4.0)) / 5.0

    xs, ys = x.tolist(), y.tolist()
    of_x = [kernel(a, b) for a, b in itertools.permutations(xs, 2)]
    of_y = [kernel(a, b) for a, b in itertools.permutations(ys, 2)]
    across = [kernel(a, b) for a, b in itertools.product(xs, ys)]
    return sum(of_x) / len(of_x) + sum(of_y) / len(of_y) - 2.0 * sum(across) / len(across)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 6),
    m=st.integers(2, 6),
    features=st.integers(1, 3),
    bandwidth=st.floats(0.1, 10.0),
    shift=st.floats(-3.0, 3.0),
)
def test_the_value_is_that_of_the_definition(n: int, m: int, features: int, bandwidth: float, shift: float) -> None:
    x, y = normals(n, 0, features), normals(m, 1, features, shift)
    assert float(squared_mmd(x, y, bandwidth)) == pytest.approx(restated(x, y, bandwidth), abs=1e-9)


def test_float32_far_from_the_origin_loses_nothing_that_matters() -> None:
    x, y = normals(20, 0) + 1000.0, normals(30, 1) + 1000.0
    x, y = x.float(), y.float()
    assert float(squared_mmd(x, y, 3.0)) == pytest.approx(restated(x.double(), y.double(), 3.0), abs=1e-5)


def test_it_is_0_on_average_for_samples_of_one_distribution_and_often_negative() -> None:
    found = [float(squared_mmd(normals(12, 2 * i), normals(9, 2 * i + 1), 6.0)) for i in range(800)]
    values = torch.tensor(found, dtype=torch.float64)
    assert abs(float(values.mean())) < 4.0 * float(values.std()) / math.sqrt(len(values))
    assert 0.4 < float((values < 0).double().mean()) < 0.75


def test_it_grows_with_the_shift_and_ends_below_2() -> None:
    found = [float(squared_mmd(normals(40, 0), normals(40, 1, shift=shift), 6.0)) for shift in (0.0, 0.5, 1.0, 100.0)]
    assert found == sorted(found)
    assert found[0] < 0.05
    assert 0.5 < found[-1] <= 2.0


def test_it_does_not_depend_on_which_set_comes_first() -> None:
    x, y = normals(7, 0), normals(9, 1, shift=0.5)
    torch.testing.assert_close(squared_mmd(x, y, 2.0), squared_mmd(y, x, 2.0))


def test_its_gradient_is_the_numerical_one_for_both_sets() -> None:
    x, y = normals(4, 0).requires_grad_(), normals(5, 1, shift=0.7).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: squared_mmd(a, b, 2.0), (x, y))


def test_equal_samples_have_a_gradient_too() -> None:
    x = torch.zeros(4, 2, requires_grad=True)
    squared_mmd(x, torch.ones(3, 2), 1.0).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_autocast_does_not_make_it_coarser() -> None:
    x, y = normals(30, 0, 16).float(), normals(30, 1, 16).float()
    expected = squared_mmd(x, y, 30.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(squared_mmd(x, y, 30.0)) == float(expected)


def test_the_bandwidth_is_the_median_squared_distance_of_pairs() -> None:
    assert float(median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))) == 4.0  # of 1, 4 and 9


def test_where_most_pairs_are_equal_the_bandwidth_is_the_mean_of_the_others() -> None:
    x = torch.tensor([[0.0]] * 9 + [[2.0]])
    assert float(median_bandwidth(x)) == 4.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), features=st.integers(1, 100))
def test_equal_rows_are_at_distance_0_whatever_they_hold(seed: int, features: int) -> None:
    row, other = torch.randn(2, 1, features, generator=torch.Generator().manual_seed(seed))
    far = float((row - other).square().sum())
    assert float(median_bandwidth(torch.cat([row.expand(9, features), other]))) == pytest.approx(far, rel=1e-5)


def test_constant_features_are_at_distance_0_and_no_ground_to_reject() -> None:
    x, y = torch.full((8, 3), 5.0), torch.full((6, 3), 5.0)
    assert float(median_bandwidth(x)) == 1.0
    assert float(squared_mmd(x, y, median_bandwidth(x))) == 0.0
    assert mmd_test(x, y, permutations=50).p_value == 1.0


def test_p_values_are_uniform_under_the_hypothesis() -> None:
    found = [mmd_test(normals(15, 2 * i), normals(10, 2 * i + 1), permutations=99).p_value for i in range(300)]
    p = torch.tensor(found, dtype=torch.float64).sort().values
    expected = torch.arange(1, len(p) + 1, dtype=torch.float64) / len(p)
    assert float((p - expected).abs().max()) < 1.63 / math.sqrt(len(p))  # Kolmogorov and Smirnov's 1% limit


def test_a_shift_gets_the_smallest_p_value_there_is() -> None:
    found = mmd_test(normals(40, 0), normals(40, 1, shift=1.0), permutations=199)
    assert found.p_value == 1.0 / 200.0
    assert found.permutations == 199


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 8), m=st.integers(2, 8), permutations=st.integers(1, 700), shift=st.sampled_from([0.0, 0.5, 50.0])
)
def test_a_p_value_is_never_below_one_over_the_permutations_and_itself(
    n: int, m: int, permutations: int, shift: float
) -> None:
    p = mmd_test(normals(n, 0), normals(m, 1, shift=shift), permutations=permutations).p_value
    assert 1.0 / (1 + permutations) <= p <= 1.0


def test_the_test_reports_the_squared_mmd_of_the_sets() -> None:
    x, y = normals(9, 0), normals(12, 1, shift=0.3)
    found = mmd_test(x, y, bandwidth=2.0, permutations=10)
    assert found.squared_mmd == pytest.approx(float(squared_mmd(x, y, 2.0)))


def test_one_seed_gives_one_answer() -> None:
    x, y = normals(12, 0), normals(12, 1, shift=0.3)
    assert mmd_test(x, y, seed=4) == mmd_test(x, y, seed=4)
    assert mmd_test(x, y, seed=4).p_value != mmd_test(x, y, seed=5).p_value


@pytest.mark.parametrize(("n", "m"), [(1000, 2), (400, 3)])
def test_permutations_that_tie_but_for_rounding_count_as_at_least_as_large(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (0.37 * torch.randint(0, 2, (size, 1), generator=generator).double() for size in (n, m))
    permutations, bandwidth = 200, 0.05
    order = torch.rand(permutations, n + m, generator=torch.Generator().manual_seed(0)).argsort(1)
    both = torch.cat([x, y])
    # All that a part's squared MMD depends on is how many of its m samples are above 0.
    above = (both[order[:, n:], 0] > 0).sum(1)
    rows = {int(count): row for count, row in zip(above, order, strict=True)}
    parts = {count: float(squared_mmd(both[row[:n]], both[row[n:]], bandwidth)) for count, row in rows.items()}
    found = float(squared_mmd(x, y, bandwidth))
    at_least = sum(parts[int(count)] > found - 1e-7 for count in above)
    assert mmd_test(x, y, bandwidth=bandwidth, permutations=permutations).p_value == (1 + at_least) / (1 + permutations)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("argument", ["x", "y"])
def test_samples_that_are_not_finite_are_no_ground_to_reject_but_refused(bad: float, argument: str) -> None:
    sets = {"x": normals(6, 0), "y": normals(6, 1)}
    sets[argument][2, 1] = bad
    with pytest.raises(ValueError, match=f"{argument} holds NaN or infinity"):
        mmd_test(**sets)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"x must be of shape \(samples, features\) with two.*got \(1, 3\)"),
        (torch.zeros(4, 3), torch.zeros(4), r"y must be of shape .*got \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "as many features, got 3 and 2"),
    ],
)
def test_sets_that_do_not_fit_are_refused(x: Tensor, y: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        squared_mmd(x, y, 1.0)
    with pytest.raises(ValueError, match=words):
        mmd_test(x, y)


def test_arguments_out_of_range_are_refused() -> None:
    x = normals(4, 0)
    for bandwidth in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="bandwidth must be > 0"):
            squared_mmd(x, x, bandwidth)
    with pytest.raises(ValueError, match="permutations must be >= 1, got 0"):
        mmd_test(x, x, permutations=0)
    with pytest.raises(ValueError, match="x must be of shape"):
        median_bandwidth(x[:1])


def test_sets_whose_kernel_would_not_fit_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16,384 samples together, got 16,000 and 400"):
        mmd_test(torch.zeros(16_000, 1), torch.zeros(400, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_the_rounding_of_the_samples(dtype: torch.dtype) -> None:
    x, y = (100.0 * torch.randn(200, 30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x, y = x.to(dtype), y.to(dtype) + 5.0  # squared distances near 6e5, which float16 does not hold
    bandwidth = median_bandwidth(x)
    assert float(bandwidth) == pytest.approx(float(median_bandwidth(x.double())), rel=1e-5)
    found = float(squared_mmd(x, y, bandwidth))
    assert found == pytest.approx(float(squared_mmd(x.double(), y.double(), bandwidth.double())), abs=1e-5)


def test_samples_bandwidths_and_draws_that_will_not_do_are_refused() -> None:
    x = torch.arange(8).reshape(4, 2)
    for refused in (lambda: median_bandwidth(x), lambda: squared_mmd(x, x, 1.0), lambda: mmd_test(x, x)):
        with pytest.raises(TypeError, match=r"x must be float, got torch\.int64"):
            refused()
    x = x.double()
    for bandwidth in (math.inf, math.nan, 0.0):
        with pytest.raises(ValueError, match=f"bandwidth must be > 0 and finite, got {bandwidth}"):
            squared_mmd(x, x, bandwidth)
    with pytest.raises(TypeError, match=r"permutations must be an int, got 9\.5"):
        mmd_test(x, x, permutations=9.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must fit in 64 bits"):
        mmd_test(x, x, seed=2**63)
