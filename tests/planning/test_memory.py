"""Bytes against sums done by hand, and what must hold of them for any model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fgunlearn as fg
from fgunlearn.planning import Memory, ModelSize, Setting, made, memory
from fgunlearn.planning.setting import STATES
from fgunlearn.selection import streaming

LLAMA = ModelSize(8_030_261_248, "bf16", layers=32, width=4096, largest_tensor=128_256 * 4096)
SETTING = Setting(k=8_030_261, tokens=4096, activations=10**9)
N, M, K = LLAMA.parameters, LLAMA.largest_tensor, SETTING.k


def test_dense_selection_holds_gradients_scores_a_bit_each_and_the_keys_around_the_threshold() -> None:
    assert memory.select_dense(LLAMA, SETTING) == Memory(
        weights=16_060_522_496,
        gradients=16_060_522_496,
        scores=32_121_044_992,
        work=1_003_782_656 + 642_420_900,
        selection=64_242_088,
        state=0,
        activations=10**9,
    )


@pytest.mark.parametrize(("score", "per_coordinate", "ranked_with"), [("saliency", 4, 0), ("fisher_ratio", 8, 0)])
def test_other_scores_are_ranked_once_the_gradients_are_gone(score: str, per_coordinate: int, ranked_with: int) -> None:
    need = memory.select_dense(LLAMA, replace(SETTING, score=score))
    assert (need.scores, need.work) == (per_coordinate * N, ranked_with)


def test_streaming_one_batch_holds_a_gradient_and_a_piece_of_its_score() -> None:
    need = memory.select_streaming(LLAMA, SETTING)
    assert need.gradients == 1_050_673_152
    assert need.scores == 2**24
    assert need.selection == 64_242_088
    assert need.work == memory.COUNTS + 2**20 + 48 * K + 72_272_349
    capped = memory.select_streaming(LLAMA, replace(SETTING, memory_budget=2**28))
    assert capped.work == memory.COUNTS + 2**20 + 2**26 + 72_272_349  # the collected are no more than its quarter
    assert need.total < 18.7e9


def test_streaming_more_batches_holds_the_budget_or_the_largest_tensor_s_sums() -> None:
    several = replace(SETTING, batches=3)
    assert memory.select_streaming(LLAMA, replace(several, memory_budget=2**28)).scores == 4 * M
    assert memory.select_streaming(LLAMA, several).scores == 2 * N // 4  # a quarter of the parameters' bytes
    assert memory.select_streaming(replace(LLAMA, dtype="f32"), several).scores == N
    assert memory.select_streaming(LLAMA, replace(several, devices=8)).scores == 2 * -(-N // 8) // 4
    assert memory.select_streaming(ModelSize.of(10**9, largest_tensor=10**8), several).scores == 5 * 10**8
    assert memory.select_streaming(ModelSize.of(10**8, largest_tensor=10**7), several).scores == 2**28
    assert memory.select_streaming(LLAMA, replace(several, memory_budget=2**33)).scores == 2**33
    assert memory.select_streaming(LLAMA, replace(several, memory_budget=2**40)).scores == 4 * N
    ratio = replace(SETTING, score="fisher_ratio", memory_budget=2**28)
    assert memory.select_streaming(LLAMA, ratio).scores == 8 * M


def test_a_tied_gradient_waits_for_its_second_part() -> None:
    assert memory.select_streaming(replace(LLAMA, tied=True), SETTING).gradients == 2 * 1_050_673_152


def test_a_repair_holds_states_of_the_selected_alone() -> None:
    dense = memory.repair(LLAMA, SETTING, free_grads=False)
    freed = memory.repair(LLAMA, SETTING, free_grads=True)
    assert (dense.gradients, dense.selection, dense.state) == (2 * N, 4 * K, 8 * K)
    assert (freed.gradients, freed.selection, freed.state) == (2 * M, 22 * K, 8 * K)
    assert memory.repair(LLAMA, replace(SETTING, optimizer="sgd"), free_grads=True).state == 0
    assert memory.repair(LLAMA, replace(SETTING, optimizer="momentum"), free_grads=True).state == 4 * K


def test_dense_adamw_takes_eight_bytes_a_parameter_and_sixteen_in_mixed_precision() -> None:
    plain, mixed = memory.adamw(LLAMA, SETTING), memory.adamw_mixed(LLAMA, SETTING)
    assert plain.weights + plain.gradients + plain.state == 8 * N
    assert mixed.weights + mixed.gradients + mixed.state == 16 * N


def test_a_shard_is_a_part_and_what_is_gathered_comes_on_top() -> None:
    one, eight = (memory.select_dense(LLAMA, replace(SETTING, devices=devices)) for devices in (1, 8))
    block = -(-(N - 2 * M) // 32)
    assert eight.weights == 2 * -(-N // 8) + 2 * (2 * M + 2 * block)
    assert eight.gradients == 2 * -(-N // 8) + 2 * max(M + 2 * block, 4 * M)
    assert eight.scores == 4 * -(-N // 8)
    assert eight.selection == pytest.approx(one.selection / 8, abs=8)
    assert memory.repair(LLAMA, replace(SETTING, devices=8), free_grads=True).selection == 6 * -(-K // 8)


@pytest.mark.parametrize(("elements", "devices", "bytes_each"), [(2**31 - 1, 1, 4), (2**31, 1, 8), (2**31, 2, 4)])
def test_indices_are_wide_where_a_tensor_has_two_to_the_31_elements(
    elements: int, devices: int, bytes_each: int
) -> None:
    model = ModelSize.of(10**12, largest_tensor=elements)
    setting = Setting(k=1000, tokens=1, devices=devices)
    assert memory.repair(model, setting, free_grads=False).selection == bytes_each * 1000 // devices


def test_float64_has_sums_and_states_of_eight_bytes() -> None:
    model = ModelSize.of(10**6, "f64")
    assert memory.select_dense(model, Setting(k=10, tokens=1)).scores == 8 * 10**6
    assert memory.repair(model, Setting(k=10, tokens=1), free_grads=True).state == 160


models = st.builds(
    ModelSize.of,
    st.integers(10**5, 10**13),
    st.sampled_from(["bf16", "f32", "f64"]),
    layers=st.none() | st.integers(1, 200),
    tied=st.booleans(),
)
settings = st.builds(
    Setting,
    k=st.integers(0, 10**5),
    tokens=st.integers(1, 10**5),
    batches=st.integers(1, 20),
    devices=st.integers(1, 512),
    score=st.sampled_from(["grad", "fisher", "saliency", "fisher_ratio"]),
    optimizer=st.sampled_from(list(STATES)),
    recompute=st.booleans(),
)


@given(models, settings, st.integers(2, 10))
def test_more_of_anything_never_needs_less(model: ModelSize, setting: Setting, times: int) -> None:
    def totals(model: ModelSize, setting: Setting) -> list[int]:
        return [way.memory.total for way in made(model, setting).ways]

    base = totals(model, setting)
    assert all(total > 0 for total in base)
    more_k = replace(setting, k=min(setting.k * times, model.parameters))
    assert all(b >= a for a, b in zip(base, totals(model, more_k), strict=True))
    more_tokens = replace(setting, tokens=setting.tokens * times)
    assert all(b > a for a, b in zip(base, totals(model, more_tokens), strict=True))
    larger = replace(model, parameters=model.parameters * times)
    assert all(b >= a for a, b in zip(base, totals(larger, setting), strict=True))


@given(models, settings)
def test_streaming_and_freed_gradients_are_the_smaller_ways_of_a_large_model(
    model: ModelSize, setting: Setting
) -> None:
    if model.parameters < 10**9 or model.largest_tensor > model.parameters // 8 or setting.devices > 1:
        return
    planned = made(model, setting)
    assert planned.way("select_streaming").memory.total < planned.way("select_dense").memory.total
    assert planned.way("repair_freed").memory.total < planned.way("repair").memory.total
    assert planned.way("repair").memory.total < planned.way("adamw").memory.total


def test_what_fsdp_costs_streaming_of_several_batches_is_noted() -> None:
    assert [way.key for way in made(LLAMA, replace(SETTING, devices=2, batches=3)).ways if way.note] == [
        "select_streaming"
    ]
    assert not any(way.note for way in made(LLAMA, replace(SETTING, devices=2)).ways)
    assert not any(way.note for way in made(LLAMA, replace(SETTING, batches=3)).ways)


def test_the_constants_are_the_code_s() -> None:
    assert streaming.BYTES_PER_COLLECTED == 4 * memory.COLLECTED
    assert "0.1 to 0.4% of the keys (16 bytes" in (
        Path(__file__).parents[2] / "csrc" / "cpu" / "select.h"
    ).read_text().replace("\n// ", " ")


@pytest.mark.parametrize("name", list(STATES))
def test_an_optimizer_has_the_states_that_are_counted(name: str) -> None:
    layer = torch.nn.Linear(20, 10, dtype=torch.bfloat16)
    selection = fg.randomk([p.detach() for p in layer.parameters()], k=50)
    kinds = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adamw": torch.optim.AdamW}
    more = {"momentum": 0.9} if name == "momentum" else {}
    wrapped = kinds[name](layer.parameters(), lr=0.1, **more)
    optimizer = fg.SparseOptimizer(wrapped, selection, free_grads=True)
    layer(torch.ones(1, 20, dtype=torch.bfloat16)).sum().backward()
    freed = layer.weight.grad
    assert freed is not None
    at = selection.indices[0].numel()
    assert freed._indices().nbytes == 2 * memory.INT64 * at
    assert freed._values().nbytes == 2 * at
    assert selection.indices[0].nbytes == 4 * at
    optimizer.step()
    held = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim() > 0)
    assert held == STATES[name] * 4 * 50


def test_what_makes_no_model_or_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be one of bf16, f16, f32, f64, got 'int8'"):
        ModelSize.of(10, "int8")
    with pytest.raises(ValueError, match="parameters must be >= 1, got 0"):
        ModelSize.of(0)
    with pytest.raises(ValueError, match="largest_tensor must be at most the number of parameters, 10, got 11"):
        ModelSize.of(10, largest_tensor=11)
    with pytest.raises(ValueError, match="devices must be >= 1, got 0"):
        Setting(k=1, tokens=1, devices=0)
    with pytest.raises(ValueError, match="optimizer must be one of 'sgd', 'momentum', 'adamw', got 'lion'"):
        Setting(k=1, tokens=1, optimizer="lion")
    with pytest.raises(ValueError, match="k must be at most the number of parameters, 10, got 11"):
        made(ModelSize.of(10), Setting(k=11, tokens=1))


def test_usual_sizes_are_near_those_of_published_decoders() -> None:
    model = ModelSize.of(8_030_261_248)
    assert model.layers == pytest.approx(32, rel=0.1)
    assert model.width == pytest.approx(4096, rel=0.1)
    assert model.largest_tensor == pytest.approx(128_256 * 4096, rel=0.15)
