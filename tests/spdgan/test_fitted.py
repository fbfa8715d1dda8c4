"""The file that an SPDGAN is saved in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import fgunlearn as fg

Batches = list[tuple[Tensor, Tensor]]
Saved = tuple[fg.SPDGAN, Path]


def test_what_was_saved_perturbs_bit_for_bit_alike_and_is_configured_alike(saved: Saved, forget: Batches) -> None:
    gan, path = saved
    loaded = fg.SPDGAN.load(path)
    for x, _ in forget:
        assert loaded.perturb(x).equal(gan.perturb(x))
    assert repr(loaded) == repr(gan)
    assert loaded.fitting == gan.fitting
    kept = ("scale", "accuracy", "shifted_accuracy", "seconds", "sample_shape", "history")
    assert [getattr(loaded.fitted, name) for name in kept] == [getattr(gan.fitted, name) for name in kept]
    assert not any(p.requires_grad for p in loaded.fitted.generator.parameters())
    assert not loaded.fitted.generator.training


def test_what_was_loaded_can_be_saved_again_and_fitted_again(
    saved: Saved, source: nn.Module, forget: Batches, tmp_path: Path
) -> None:
    gan, path = saved
    loaded = fg.SPDGAN.load(str(path))
    loaded.save(tmp_path / "again.safetensors")
    assert fg.SPDGAN.load(tmp_path / "again.safetensors").perturb(forget[0][0]).equal(gan.perturb(forget[0][0]))
    assert loaded.fit(source, forget).perturb(forget[0][0]).equal(gan.perturb(forget[0][0]))  # of the same seed


def test_loading_draws_no_random_numbers(saved: Saved) -> None:
    before = torch.get_rng_state()
    fg.SPDGAN.load(saved[1])
    assert torch.get_rng_state().equal(before)


def test_a_file_that_is_there_is_replaced_at_once_or_stays(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    gan, path = saved
    before = path.read_bytes()
    monkeypatch.setattr("fgunlearn.spdgan.fitted.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        gan.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_not_there_or_can_not_be_written_is_an_os_error(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fg.SPDGAN.load(tmp_path / "nothing")
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words
        fg.SPDGAN.load(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        saved[0].save(tmp_path / "nowhere" / "gan.safetensors")


REFUSED = r"is not a file of an SPDGAN, or damaged: "


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 0.999))
def test_a_truncated_file_is_refused(saved: Saved, share: float) -> None:
    content = saved[1].read_bytes()
    cut = saved[1].parent / "cut"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=REFUSED):
        fg.SPDGAN.load(cut)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_text("not a safetensors file, but a text")
    with pytest.raises(ValueError, match=REFUSED):
        fg.SPDGAN.load(path)
    for metadata in (None, {"format": "pt"}, {"format": "fgunlearn.spdgan.1"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=REFUSED):
            fg.SPDGAN.load(path)


Edit = Callable[[dict[str, Any], dict[str, Tensor]], object]


def at(*keys: str, value: object) -> Edit:
    """Changes one entry of what the file describes."""

    def edit(described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for key in keys[:-1]:
            described = described[key]
        described[keys[-1]] = value

    return edit


DAMAGES: dict[str, Edit] = {
    "no range": lambda _, tensors: tensors.pop("range.low"),
    "no weight": lambda _, tensors: tensors.pop("generator.out.weight"),
    "a weight too many": lambda _, tensors: tensors.update({"generator.more": torch.zeros(1)}),
    "a NaN": lambda _, tensors: tensors["generator.out.bias"].fill_(float("nan")),
    "a range upside down": lambda _, tensors: tensors["range.low"].add_(1e6),
    "an infinite range": lambda _, tensors: tensors["range.high"].fill_(float("inf")),
    "another dtype": lambda _, tensors: tensors.update({"generator.out.bias": torch.zeros(1, dtype=torch.float64)}),
    "another shape": at("fitted", "sample_shape", value=[2, 8, 8]),
    "a vast shape": at("fitted", "sample_shape", value=[10**12]),
    "no shape": at("fitted", "sample_shape", value=None),
    "no scale": at("fitted", "scale", value=0.0),
    "a scale that is NaN": at("fitted", "scale", value=float("nan")),
    "a scale that is a word": at("fitted", "scale", value="one"),
    "another history": at("fitted", "history", value={"moved": []}),
    "a list for the fit": at("fitted", value=[]),
    "an unknown setting": at("configuration", "depth", value=3),
    "a bad setting": at("configuration", "eps", value=-1.0),
    "a setting of another type": at("configuration", "width", value="4"),
    "a bad setting of the training": at("configuration", "fitting", "lr", value=0),
    "no settings": at("configuration", value=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(saved: Saved, damage: str) -> None:
    path = saved[1]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    described = json.loads(metadata["described"])
    DAMAGES[damage](described, tensors)
    save_file(tensors, path, metadata={**metadata, "described": json.dumps(described)})
    with pytest.raises(ValueError, match=REFUSED):
        fg.SPDGAN.load(path)


def test_everything_the_history_holds_is_plain_numbers(saved: Saved) -> None:
    assert json.loads(json.dumps(dataclasses.asdict(saved[0].fitted.history)))["heldout_step"] == [4]
