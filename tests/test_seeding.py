from __future__ import annotations

import pytest
import torch

from fgunlearn.seeding import derived_seed, seeded


def test_inside_numbers_are_a_function_of_the_seed_and_outside_they_go_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = torch.rand(2)
    with seeded(7):
        inside = torch.rand(3)
    assert torch.cat([first, torch.rand(2)]).equal(expected)
    torch.manual_seed(7)
    assert inside.equal(torch.rand(3))


def test_no_other_devices_generator_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("seeded CUDA")

    monkeypatch.setattr("torch.cuda.manual_seed_all", refuse)
    with seeded(7):
        torch.rand(1)


def test_an_error_inside_brings_the_generator_back_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(7):
        raise RuntimeError
    assert torch.get_rng_state().equal(before)


def test_derived_seeds_differ_and_fit_in_64_bits() -> None:
    seeds = [derived_seed(seed, position) for seed in (-(2**63), 0, 2**63 - 1) for position in range(100)]
    assert len(set(seeds)) == 300
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
