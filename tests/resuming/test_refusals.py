"""Files and calls that do not go together are refused by name, and nothing is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fgunlearn as fg
from fgunlearn.resuming import file
from interrupted import (
    Augmented,
    Case,
    Killed,
    bits,
    drawn,
    interrupt,
    killed_after,
    listed,
    mlp,
    outcome,
    samples,
    seed_all,
    shuffled,
)

pytestmark = pytest.mark.usefixtures("_one_thread")

CASE = Case({"forget": "heldout"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The checkpoint of an interrupted call."""
    interrupt(CASE, tmp_path / "run", 5)
    return tmp_path / "run"


def refused(path: Path, message: str, model: nn.Module | None = None, **changes: Any) -> None:
    """Model, random numbers, gradients, modes and the file are as they were, and nothing else is in the folder."""
    model = CASE.model() if model is None else model
    before, held, folder = bits(model), path.read_bytes(), sorted(path.parent.iterdir())
    modes = [module.training for module in model.modules()]
    seed_all(3)
    expected = drawn()
    seed_all(3)
    with pytest.raises(ValueError, match=message):
        CASE.call(model, path, **changes)
    assert drawn() == expected
    assert bits(model) == before
    assert [module.training for module in model.modules()] == modes
    assert path.read_bytes() == held
    assert sorted(path.parent.iterdir()) == folder


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.999])
def test_a_changed_byte_is_refused(path: Path, share: float) -> None:
    held = bytearray(path.read_bytes())
    held[int(share * len(held))] ^= 1
    path.write_bytes(held)
    refused(path, "damaged|not a checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    held = path.read_bytes()
    path.write_bytes(held[: int(share * len(held))])
    refused(path, "damaged")


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(mlp().state_dict(), path)
    refused(path, "is a safetensors file, but not a checkpoint")
    path.write_text("Monday: bread, milk")
    refused(path, "is not a checkpoint, or damaged")


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """As if another fgunlearn had written it."""
    with safe_open(path, "pt") as held:
        facts = json.loads(held.metadata()["described"])
    change(facts)
    file.write(path, file.Contents(load_file(path), facts))


def test_another_version_and_another_kind_are_refused(path: Path) -> None:
    rewritten(path, lambda facts: facts.update(version=1))
    refused(path, "has checkpoint format 1, and this fgunlearn reads 2")
    rewritten(path, lambda facts: facts.update(version=2, kind="SPDGAN.fit"))
    refused(path, "is a checkpoint of SPDGAN.fit, not of unlearn")


def test_another_torch_is_refused(path: Path) -> None:
    rewritten(path, lambda facts: facts["identity"].update({"the version of torch": "1.0"}))
    refused(path, f"the version of torch was 1.0 and is {re.escape(torch.__version__)}")


def other_weights() -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model[0].bias[2] += 1e-6
    return model


def other_statistics() -> nn.Module:
    model = mlp()
    model[1].running_mean[0] = 0.5
    return model


def frozen() -> nn.Module:
    model = mlp()
    model[6].requires_grad_(False)
    return model


@pytest.mark.parametrize("make", [other_weights, other_statistics, frozen])
def test_another_model_is_named(path: Path, make: Callable[[], nn.Module]) -> None:
    refused(path, "is of another call: the model is not what it was", make())


REPAIR = fg.Repair(epochs=2, forget_batch=3, forget="heldout")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": fg.TopK(0.4)}, "strategy.ratio was 0.5 and is 0.4"),
        ({"strategy": fg.RandomK(0.5)}, "strategy was TopK and is RandomK"),
        ({"perturb": fg.Gaussian(0.3, seed=1)}, "perturb.seed was 0 and is 1"),
        ({"perturb": None}, "perturb was Gaussian and is None"),
        ({"repair": replace(REPAIR, lr=0.2)}, "repair.lr was .* and is 0.2"),
        ({"repair": replace(REPAIR, epochs=3)}, "repair.epochs was 2 and is 3"),
        ({"loss_fn": F.mse_loss, "repair": replace(REPAIR, stop=False)}, "repair.stop was True and is False"),
        ({"loss_fn": F.mse_loss}, "loss_fn was None and is torch.nn.functional.mse_loss"),
        ({"memory": "streaming"}, "memory was 'dense' and is 'streaming'"),
        ({"memory_budget": 1 << 20, "memory": "streaming"}, "memory was 'dense' and is 'streaming'"),
        ({"forget_loader": shuffled(12, 4, size=4)}, "the data of forget_loader is not what it was"),
        ({"forget_loader": shuffled(12, 2, size=5)}, "the data of forget_loader is not what it was"),
        ({"heldout_loader": shuffled(20, 4)}, "the data of heldout_loader is not what it was"),
        ({"heldout_loader": None}, "the data of heldout_loader is not what it was"),
        ({"retain_loader": listed(48, 1)}, "the number of batches of retain_loader was 5 and is 6"),
        ({"retain_loader": shuffled(40, 9)}, "retain_loader gives another batch where it gave batch 4 of a pass"),
        (
            {"retain_loader": shuffled(40, 1, generator=torch.Generator())},
            "the loaders had 0 random generators of their own, and now have 1",
        ),
    ],
)
def test_another_argument_is_named(path: Path, changes: dict[str, Any], message: str) -> None:
    refused(path, message, **changes)


def objects(last: int) -> list[Any]:
    """Batches that differ in an object that goes with the tensors."""
    batches = listed(12, 2, size=4)
    return [(x, SimpleNamespace(y=y, marks=torch.tensor([0, 1, last]))) for x, y in batches]


def test_batches_with_objects_in_them_are_told_apart(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1].y)

    case, path = Case(options={"loss_fn": loss}, heldout=False), tmp_path / "run"
    interrupt(case, path, 4, forget_loader=objects(2), retain_loader=objects(1))
    with pytest.raises(ValueError, match="the data of forget_loader is not what it was"):
        case.call(case.model(), path, forget_loader=objects(4), retain_loader=objects(1))


def test_what_a_call_refuses_without_a_checkpoint_it_refuses_with_one(path: Path) -> None:
    refused(path, "forget_loader is empty", forget_loader=[])
    refused(path, "k must|ratio", strategy=fg.TopK(k=10**6))


class Counting:
    """Each pass has an order of its own, which nothing but the loader knows."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        batches = listed(40, 1)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(self.passes)).tolist()
        self.passes += 1
        return (batches[at] for at in order)


class Telling(Counting):
    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]


class Short(Counting):
    def __iter__(self) -> Any:
        return iter(listed(40, 1)[:3])


def test_a_loader_that_counts_its_passes_must_tell(tmp_path: Path) -> None:
    path, case = tmp_path / "run", Case({"forget": "neighbour"})
    expected = outcome(case, None, retain_loader=Counting())
    interrupt(case, path, 8, retain_loader=Counting())
    model = case.model()
    before = bits(model)
    with pytest.raises(ValueError, match=r"another batch where it gave batch 1 of a pass .* needs state_dict\(\)"):
        case.call(model, path, retain_loader=Counting())
    assert bits(model) == before
    path.unlink()
    interrupt(case, path, 8, retain_loader=Telling())
    assert outcome(case, path, retain_loader=Telling()) == expected


class Counted(DataLoader[Any]):
    """A DataLoader whose order is a function of the number of its passes, which it tells."""

    def __init__(self) -> None:
        super().__init__(TensorDataset(*samples(40, 1)), 8)
        self.passes = 0

    def __iter__(self) -> Any:
        batches = list(super().__iter__())
        order = torch.randperm(5, generator=torch.Generator().manual_seed(self.passes)).tolist()
        self.passes += 1
        return (batches[at] for at in order)

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes = state["passes"]


def test_a_dataloader_that_tells_its_state_is_asked(tmp_path: Path) -> None:
    path, case = tmp_path / "run", Case({"forget": "neighbour"})
    expected = outcome(case, None, retain_loader=Counted())
    interrupt(case, path, 8, retain_loader=Counted())
    assert outcome(case, path, retain_loader=Counted()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts["began"]["numpy"]["state"].update(pos=10**6), "ValueError: a position of 1000000 in"),
        (lambda facts: facts["state"]["position"]["now"]["numpy"]["state"].update(pos=-1), "a position of -1 in"),
        (lambda facts: facts["state"]["position"]["now"]["python"].__setitem__(1, [1]), "is a damaged checkpoint: "),
        (lambda facts: facts["state"].pop("position"), "KeyError: 'position'"),
        (lambda facts: facts["state"]["loop"].pop("selection"), "KeyError: 'selection'"),
        (lambda facts: facts["state"].pop("optimizer"), "KeyError: 'optimizer'"),
        (lambda facts: facts["state"]["loop"].pop("forget"), "KeyError: 'forget'"),
        (lambda facts: facts["state"]["loop"]["forget"].pop("heldout_began"), "KeyError: 'heldout_began'"),
        (lambda facts: facts["state"]["position"].update(taken=0), "0 batches of a pass"),
        (lambda facts: facts["state"].update(step=10**9), "1000000000 steps of 10 are taken"),
        (lambda facts: facts["state"]["loop"]["progress"].pop("record"), "KeyError: 'record'"),
        (lambda facts: facts["state"]["loop"].update(seconds=3), "is a damaged checkpoint: AttributeError"),
        (lambda facts: facts["state"].update(seconds="long"), "is a damaged checkpoint: ValueError"),
        (lambda facts: facts.pop("identity"), "KeyError: 'identity'"),
        (lambda facts: facts.pop("began"), "KeyError: 'began'"),
    ],
)
def test_a_part_that_is_missing_or_out_of_range_is_refused(
    path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewritten(path, change)
    refused(path, message)


def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(path: Path) -> None:
    held = load_file(path)
    with safe_open(path, "pt") as opened:
        facts = json.loads(opened.metadata()["described"])
    for name in (
        "began/torch",
        "state/model/parameters/0.weight",
        "state/loop/selection/indices/0",
        "state/loop/forget/generator",
    ):
        for tensors in (
            {key: value for key, value in held.items() if key != name},
            {**held, name: held[name][:-1].clone()},
        ):
            file.write(path, file.Contents(tensors, facts))
            refused(path, "is a damaged checkpoint")


def test_a_worker_that_lasts_and_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    def lasting() -> Any:
        return DataLoader(Augmented(40, 1), 8, shuffle=True, num_workers=1, persistent_workers=True)

    interrupt(CASE, tmp_path / "run", 8, retain_loader=lasting())
    refused(
        tmp_path / "run",
        "another batch where it gave batch [13] of a pass .* drawn by persistent_workers",
        retain_loader=lasting(),
    )


def test_a_loader_that_has_become_shorter_is_named(path: Path) -> None:
    refused(path, "retain_loader gives only 3 batches where it gave batch 4 of a pass", retain_loader=Short())


def test_a_state_of_a_loader_that_json_cant_hold_is_refused(tmp_path: Path) -> None:
    class Odd(Telling):
        def state_dict(self) -> Any:
            return {"passes": {1, 2}}

    with pytest.raises(TypeError, match=r"state_dict\(\) of a loader, Odd, must return what JSON can hold"):
        CASE.call(mlp(), tmp_path / "run", retain_loader=Odd())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "path must be a path, got 3"),
        (("run", 0), ValueError, "every must be >= 1, got 0"),
        (("run", 2.0), TypeError, "every must be an int, got 2.0"),
        (("run", True), TypeError, "every must be an int, got True"),
        (("run", 5, 3), TypeError, "resumed must be a function or None, got 3"),
        (("run", 5, None, 1), TypeError, "keep must be a bool, got 1"),
        (("run", 5, None, False, 3), TypeError, "data must be a str, got 3"),
    ],
)
def test_bad_arguments_of_a_checkpoint_are_named(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fg.Checkpoint(*arguments)


def test_a_place_for_no_file_is_refused_before_any_work(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "nowhere" / "run", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=message), killed_after(1):
            CASE.call(CASE.model(), path)
    with pytest.raises(TypeError, match="checkpoint must be a Checkpoint or None, got 'run'"):
        CASE.call(CASE.model(), None, checkpoint="run")


def test_a_buffer_that_no_file_can_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    model = mlp()
    model.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(TypeError, match=r"checkpoint: buffer 'phase' is torch\.complex128"), killed_after(1):
        CASE.call(model, tmp_path / "run")


def test_an_unlearned_model_is_another_source_and_has_checkpoints_of_its_own(path: Path) -> None:
    model = CASE.model()
    CASE.call(model, path)
    assert not path.exists()
    with pytest.raises(Killed), killed_after(3):
        CASE.call(model, path)  # the unlearned model, as a new source
    refused(path, "the model is not what it was")
