"""Hashes of tensors: of their bytes, whether they come from a model, a state dict or a file."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fgunlearn import audit
from fgunlearn.audit.differences import differences
from fgunlearn.audit.fingerprints import changed_between, changed_outside, same_weights
from fgunlearn.selection import Selection, topk

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2),
)


def test_a_tensors_hash_is_that_of_its_bytes() -> None:
    found = audit.fingerprint({"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(7)})
    assert list(found) == ["a", "b"]
    assert found["b"] == {
        "dtype": "F32",
        "shape": [1, 2],
        "sha256": hashlib.sha256(struct.pack("<ff", 1.0, -2.0)).hexdigest(),
    }
    assert found["a"] == {"dtype": "I64", "shape": [], "sha256": hashlib.sha256(struct.pack("<q", 7)).hexdigest()}


def test_a_file_and_what_was_saved_to_it_have_the_same_hashes(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    tensors |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "all.safetensors")
    assert audit.fingerprint(tmp_path / "all.safetensors") == audit.fingerprint(tensors)


def test_strides_do_not_matter_and_dtypes_shapes_and_signs_of_zero_do() -> None:
    def of(tensor: Tensor) -> object:
        return audit.fingerprint({"t": tensor})["t"]

    t = torch.arange(12.0).reshape(3, 4)
    assert of(t) == of(t.T.contiguous().T)
    assert (
        len({str(of(each)) for each in (t, t.T, t.reshape(4, 3), t.bfloat16(), -t, torch.zeros(1), -torch.zeros(1))})
        == 7
    )


def test_a_models_buffers_count(model: nn.Module) -> None:
    before = audit.fingerprint(model)
    assert before.keys() == model.state_dict().keys()
    model(torch.randn(4, 1, 8, 8))  # in train mode: batch norm's statistics move
    after = audit.fingerprint(model)
    assert {name for name in before if before[name] != after[name]} == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_a_sharded_checkpoint_has_the_hashes_of_its_files_together(tmp_path: Path) -> None:
    parts = {"one.safetensors": {"a": torch.ones(2)}, "two.safetensors": {"b": torch.zeros(3), "c": torch.ones(1)}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {t: name for name, tensors in parts.items() for t in tensors}}))
    assert audit.fingerprint(index) == audit.fingerprint({t: v for part in parts.values() for t, v in part.items()})


@pytest.mark.parametrize("name", ["../one.safetensors", "/etc/passwd", "a/b", "..", "", 5])
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"names the file .*, which is not one of its own folder"):
        audit.fingerprint(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match=r"index\.json (is not JSON|is not the index of a|names the file \[1\])"):
        audit.fingerprint(index)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors here, but more than eight bytes")
    with pytest.raises(ValueError, match="text is not a safetensors file"):
        audit.fingerprint(tmp_path / "text")
    with pytest.raises(OSError, match="nowhere"):
        audit.fingerprint(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="'a' must be a tensor, got int"):
        audit.fingerprint({"a": 5})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"'a' is torch\.complex128, which safetensors has no name for"):
        audit.fingerprint({"a": torch.zeros(1, dtype=torch.complex128)})


def test_changes_are_counted_by_value_and_those_off_a_selection_are_told(tmp_path: Path) -> None:
    before = {"a": torch.tensor([[0.0, 1.0], [2.0, torch.nan]]), "b": torch.ones(3), "c": torch.ones(2)}
    after = {"a": torch.tensor([[-0.0, 5.0], [6.0, torch.nan]]), "b": torch.ones(3), "c": torch.ones(5)}
    paths = []
    for name, tensors in (("before", before), ("after", after)):
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(tensors, paths[-1])
    # By value, and by bit as forget patches count: 0 has become -0.
    assert changed_between(*paths) == {"a": (2, 3), "b": (0, 0)}
    index = torch.tensor([1])
    assert changed_outside(*paths, Selection([(2, 2)], [index], names=["a"])) == ({"a": 1}, [])
    assert changed_outside(*paths, Selection([(3,)], [index], names=["b"])) == ({"b": 0}, ["a"])
    with pytest.raises(ValueError, match="the selection has no names of parameters"):
        changed_outside(*paths, topk([torch.ones(2)], k=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_changes_are_counted_in_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    paths = []
    for name, values in (("before", [[0, 1], [1, 1]]), ("after", [[0, 0], [1, 0]])):
        paths.append(tmp_path / f"{name}.safetensors")
        save_file({"a": torch.tensor(values).to(dtype), "b": torch.tensor(values[0][1]).to(dtype)}, paths[-1])
    assert changed_between(*paths) == {"a": (2, 2), "b": (1, 1)}


@pytest.mark.parametrize(
    ("name", "dtype", "bits"),
    [
        ("F64", torch.float64, torch.int64),
        ("F32", torch.float32, torch.int32),
        ("F16", torch.float16, torch.int16),
        ("BF16", torch.bfloat16, torch.int16),
        ("F8_E4M3", torch.float8_e4m3fn, torch.int8),
        ("F8_E5M2", torch.float8_e5m2, torch.int8),
    ],
)
def test_bytes_tell_which_values_differ_as_comparing_them_does(
    name: str, dtype: torch.dtype, bits: torch.dtype
) -> None:
    last = torch.tensor(torch.finfo(dtype).max, dtype=torch.float64).to(dtype).view(bits)
    # 0, the smallest number, 1, the largest, and what is behind: infinity and NaNs, or NaN alone.
    patterns = torch.stack([last * 0, last * 0 + 1, torch.tensor(1.0).to(dtype).view(bits), last, last + 1, last + 2])
    patterns = torch.cat([patterns, patterns | torch.iinfo(bits).min])
    was, now = torch.cartesian_prod(patterns, patterns).T.contiguous()
    a, b = was.view(dtype).double(), now.view(dtype).double()
    values, told = differences(was.view(torch.uint8).numpy(), now.view(torch.uint8).numpy(), name)
    assert torch.from_numpy(values).equal((a != b) & ~(a.isnan() & b.isnan()))
    assert torch.from_numpy(told).equal(was != now)
    assert 0 < values.sum() < told.sum()


def test_a_tensor_that_is_in_two_shards_or_not_where_the_index_says_is_refused(tmp_path: Path) -> None:
    """Readers would not agree on which one it is."""
    for name in ("one", "two"):
        save_file({"a": torch.ones(2), name: torch.ones(1)}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{name}.safetensors" for name in ("one", "two")}}))
    with pytest.raises(ValueError, match=r"tensor 'a' is in both one\.safetensors and two\.safetensors"):
        audit.fingerprint(index)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(("a", "one", "two"), "one.safetensors")}))
    with pytest.raises(ValueError, match=r"says that tensor 'two' is in one\.safetensors, but it is not"):
        audit.fingerprint(index)


def test_a_models_weights_are_a_files_after_conversion_or_not(tmp_path: Path, model: nn.Module) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    path = tmp_path / "half.safetensors"
    save_file(halves, path)
    assert not same_weights(model, path)  # rounded
    model.load_state_dict(halves)
    assert same_weights(model, path)
    name, weight = next(iter(model.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] += 0.5
    assert not same_weights(model, path)
    model.load_state_dict(halves)
    save_file({n: t for n, t in halves.items() if n != name}, path)
    assert not same_weights(model, path)
