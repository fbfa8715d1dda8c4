"""Seconds against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgunlearn.benchmarks import floors
from fgunlearn.planning import ModelSize, Rates, Setting, made, time
from fgunlearn.selection import readings as code

MODEL = ModelSize(10**9, "bf16", layers=10, width=1000, largest_tensor=10**8)
SETTING = Setting(k=10**6, tokens=1000)
RATES = Rates(flops=1e13, bandwidth=1e11)


def test_a_pass_is_six_operations_per_parameter_and_token() -> None:
    work = time.repair(MODEL, SETTING)
    assert (work.flops, work.passes, work.pass_bytes, work.sent) == (6e12, 1, 6e9, 0)
    # 6 + 32 to gather, 4 + 2 + 64 + 16 to step, for each of 1e6
    assert work.bytes == 1e6 * (38 + 86)
    assert work.seconds(RATES) == pytest.approx(0.6 + 124e6 / 1e11)
    assert time.repair(MODEL, replace(SETTING, recompute=True)).flops == 8e12


def test_a_pass_over_few_tokens_is_as_long_as_its_bytes() -> None:
    assert time.repair(MODEL, replace(SETTING, tokens=1, k=0)).seconds(RATES) == pytest.approx(6e9 / 1e11)


def test_streaming_one_batch_takes_two_passes_and_dense_one() -> None:
    dense, streaming = time.select_dense(MODEL, SETTING), time.select_streaming(MODEL, SETTING)
    assert (dense.passes, streaming.passes) == (1, 2)
    assert dense.bytes == floors.accumulate_top_k(10**9, 10**6, gradient=2)
    assert streaming.bytes == 2 * 2e9 + 4e6


@pytest.mark.parametrize(
    ("budget", "groups", "passes"), [(2**40, 1, 1), (4 * 10**9, 1, 1), (10**9, 4, 5), (4 * 10**8, 10, 11)]
)
def test_more_batches_go_through_the_groups_that_fit_the_budget(budget: int, groups: int, passes: float) -> None:
    setting = replace(SETTING, batches=3, memory_budget=budget)
    assert time.groups(MODEL, setting) == groups
    assert time.readings(MODEL, setting) == passes
    assert time.select_streaming(MODEL, setting).passes == 3 * passes


def test_by_default_there_are_so_many_groups_however_large_the_model() -> None:
    several = replace(SETTING, batches=3)
    for parameters in (10**9, 10**10, 10**12):
        assert time.groups(ModelSize.of(parameters, "bf16"), several) == 8
        assert time.groups(ModelSize.of(parameters, "f32"), several) == 4
    assert time.readings(MODEL, several) == 9


def test_shards_take_whole_passes_for_every_group() -> None:
    several = replace(SETTING, batches=3, devices=4, memory_budget=2 * 10**8)
    assert time.groups(MODEL, several) == 5
    assert time.readings(MODEL, several) == 10
    assert time.readings(MODEL, replace(several, score="fisher_ratio", memory_budget=10**9)) == 10
    assert time.readings(MODEL, replace(several, batches=1)) == 2
    # Each gradient is added up twice, whatever the groups.
    assert time.select_streaming(MODEL, several).bytes == 6 * 1e9 / 4 * 10 + 2 * 1e9 + 4e6 / 4


def test_the_groups_are_those_that_the_code_makes() -> None:
    setting = Setting(k=10, tokens=1, batches=2, memory_budget=40_000)
    made_of_them = code.grouped([4 * 1000] * 100, 40_000)
    assert time.groups(ModelSize.of(100_000, "f32"), setting) == len(made_of_them) == 10


def test_fisher_ratio_reads_the_remaining_data_too() -> None:
    one = replace(SETTING, score="fisher_ratio", memory_budget=2**40)
    assert time.readings(MODEL, one) == 2
    assert time.readings(MODEL, replace(one, memory_budget=4 * 10**9)) == 5 * 1.5
    assert time.select_dense(MODEL, one).passes == 2


def test_dense_adamw_moves_seven_values_a_parameter_and_28_bytes_in_mixed_precision() -> None:
    assert time.adamw(MODEL, SETTING).bytes == 14e9
    assert time.adamw_mixed(MODEL, SETTING).bytes == 28e9


def test_shards_send_and_divide_what_is_done_with_them() -> None:
    work = time.adamw(MODEL, replace(SETTING, devices=4))
    assert (work.flops, work.bytes, work.sent) == (6e12, 14e9 / 4, 4.5e9)
    slow = replace(RATES, link=1e9)
    assert work.seconds(slow) == pytest.approx(4.5 + 0.035)
    assert work.seconds(RATES) == pytest.approx(0.6 + 0.035)


def test_without_rates_there_are_no_seconds() -> None:
    assert {way.seconds for way in made(MODEL, SETTING).ways} == {None}
    assert {way.seconds for way in made(MODEL, SETTING, Rates(flops=1e12)).ways} == {None}


@given(st.integers(10**6, 10**12), st.integers(1, 10**5), st.integers(1, 8), st.integers(2, 9))
def test_more_work_never_takes_less_time(parameters: int, tokens: int, batches: int, times: int) -> None:
    def seconds(model: ModelSize, setting: Setting) -> list[float]:
        return [way.seconds for way in made(model, setting, RATES).ways if way.seconds is not None]

    model, setting = ModelSize.of(parameters), Setting(k=100, tokens=tokens, batches=batches)
    base = seconds(model, setting)
    for more in (replace(setting, tokens=tokens * times), replace(setting, batches=batches * times)):
        assert all(b >= a for a, b in zip(base, seconds(model, more), strict=True))
    faster = made(model, setting, Rates(2e13, 2e11)).ways
    assert all(way.seconds == pytest.approx(a / 2) for a, way in zip(base, faster, strict=True))


@pytest.mark.parametrize("bad", [{"flops": 0.0}, {"bandwidth": float("nan")}, {"link": -1.0}])
def test_rates_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be positive and finite"):
        Rates(**bad)
