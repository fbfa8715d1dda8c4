"""Every method that takes steps goes on bit for bit where it was interrupted."""

from __future__ import annotations

import copy
import functools
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import fgunlearn as fg
from fgunlearn.experiment.data import Batches
from fgunlearn.resuming import file, position, steps
from interrupted import Augmented, Killed, bits, drawn, killed_after, listed, mlp, retained, samples, seed_all, shuffled

pytestmark = pytest.mark.usefixtures("_one_thread")

OURS = ("topk", "randomk", "random_topk")
STEPPING = [name for name in fg.methods.list() if name not in ("ssd", "fisher_forget")]
SHORT: dict[str, dict[str, Any]] = {
    **{name: {} if name in OURS else {"epochs": 3, "schedule": "cosine"} for name in STEPPING},
    "scrub": {"epochs": 3, "max_epochs": 2, "lr": 0.01},
    "retrain": {"epochs": 3, "new_model": mlp},
    "gradient_ascent": {"epochs": 4, "lr": 0.01},
}


def call(name: str, model: nn.Module, path: Path | None, every: int = 2, **changes: Any) -> fg.Result:
    """5 batches of D_r, 3 of D_u, whose orders the global generator decides."""
    given: dict[str, Any] = {
        "forget_loader": shuffled(12, 2, size=4),
        "retain_loader": shuffled(40, 1),
        "heldout_loader": shuffled(20, 3),
        "checkpoint": None if path is None else fg.Checkpoint(path, every),
        **SHORT[name],
        **changes,
    }
    return fg.methods.get(name)(model, **given)


def outcome(name: str, path: Path | None, seed: int = 5, **changes: Any) -> tuple[Any, ...]:
    seed_all(seed)
    model = mlp()
    result = call(name, model, path, **changes)
    return bits(model), result.record, result.changed, result.buffers, result.selection, drawn()


def interrupt(name: str, path: Path, step: int, seed: int = 5, **changes: Any) -> None:
    seed_all(seed)
    model = mlp()
    before = bits(model)
    with pytest.raises(Killed), killed_after(step):
        call(name, model, path, **changes)
    assert bits(model) == before


def own_generators() -> dict[str, Any]:
    """One for both loaders, which draw from it in turns."""
    one = torch.Generator().manual_seed(4)
    return {
        "forget_loader": shuffled(12, 2, size=4, generator=one),
        "retain_loader": shuffled(40, 1, generator=one),
    }


LOADERS: dict[str, Any] = {
    "global numbers": dict,
    "one generator": own_generators,
    "augmented": lambda: {
        "forget_loader": DataLoader(Augmented(12, 2), 4, shuffle=True),
        "retain_loader": DataLoader(Augmented(40, 1), 8, shuffle=True),
    },
    "that count passes": lambda: {
        "forget_loader": Batches(*samples(12, 2), 4, seed=1),
        "retain_loader": Batches(*samples(40, 1), 8, seed=2),
    },
    "with empty batches": lambda: {
        "forget_loader": [(x, y) for pair in listed(12, 2, 4) for x, y in (pair, (pair[0][:0], pair[1][:0]))],
        "retain_loader": retained("with empty batches"),
    },
    "lasting workers": lambda: {
        "forget_loader": shuffled(12, 2, 4, num_workers=1, persistent_workers=True),
        "retain_loader": shuffled(40, 1, num_workers=1, persistent_workers=True),
        "heldout_loader": None,
    },
}


@pytest.mark.parametrize("loaders", [name for name in LOADERS if name != "lasting workers"])
@pytest.mark.parametrize("name", STEPPING)
def test_an_interrupted_method_goes_on_bit_for_bit(name: str, loaders: str, tmp_path: Path) -> None:
    path, made = tmp_path / "run", LOADERS[loaders]
    expected = outcome(name, None, **made())
    assert outcome(name, path, **made()) == expected  # writing checkpoints changes nothing
    assert list(tmp_path.iterdir()) == []
    interrupt(name, path, 6, **made())
    assert list(tmp_path.iterdir()) == [path]
    assert outcome(name, path, seed=77, **made()) == expected
    assert list(tmp_path.iterdir()) == []


def in_bfloat16(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])


@pytest.mark.parametrize("kind", ["frozen", "tied", "bfloat16"])
@pytest.mark.parametrize("name", STEPPING)
def test_models_of_other_kinds_go_on(name: str, kind: str, tmp_path: Path) -> None:
    def run(path: Path | None, seed: int = 5) -> tuple[Any, ...]:
        seed_all(seed)
        model = mlp(torch.bfloat16 if kind == "bfloat16" else torch.float32)
        changes: dict[str, Any] = (
            {"new_model": lambda: mlp(next(model.parameters()).dtype)} if name == "retrain" else {}
        )
        if kind == "frozen":
            model[0].requires_grad_(False)
            model[1].bias.requires_grad_(False)
        elif kind == "tied":
            model[4].bias = model[0].bias
        else:
            changes["loss_fn"] = in_bfloat16
            if name in OURS:
                changes |= {"heldout_loader": None}
            if name in ("salun", "random_label", "scrub"):  # which call the model themselves
                changes["forget_loader"] = [(x.bfloat16(), y) for x, y in listed(12, 2, 4)]
            if name == "scrub":
                changes |= {"loss_fn": None, "retain_loader": [(x.bfloat16(), y) for x, y in listed(40, 1)]}
        result = call(name, model, path, **changes)
        return bits(model), result.record, drawn()

    expected = run(None)
    with pytest.raises(Killed), killed_after(5):
        run(tmp_path / "run")
    assert run(tmp_path / "run", 77) == expected


class Unsized:
    """A loader that does not tell its length."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Any:
        return iter(self._loader)


@pytest.mark.parametrize("name", STEPPING)
def test_loaders_without_a_length_go_on(name: str, tmp_path: Path) -> None:
    def unsized() -> dict[str, Any]:
        return {"forget_loader": Unsized(shuffled(12, 2, size=4)), "retain_loader": Unsized(shuffled(40, 1))}

    expected = outcome(name, None, **unsized())
    interrupt(name, tmp_path / "run", 6, **unsized())
    assert outcome(name, tmp_path / "run", seed=77, **unsized()) == expected


@pytest.mark.parametrize("name", STEPPING)
def test_one_loader_may_be_both(name: str, tmp_path: Path) -> None:
    def one() -> dict[str, Any]:
        loader = shuffled(40, 1, generator=torch.Generator().manual_seed(3))
        return {"forget_loader": loader, "retain_loader": loader}

    expected = outcome(name, None, **one())
    interrupt(name, tmp_path / "run", 6, **one())
    assert outcome(name, tmp_path / "run", seed=77, **one()) == expected


def test_one_loader_that_counts_its_passes_cant_be_read_twice_at_once(tmp_path: Path) -> None:
    loader = Batches(*samples(40, 1), 8, seed=3)
    same = {"forget_loader": loader, "retain_loader": loader}
    model = mlp()
    before = bits(model)
    with pytest.raises(ValueError, match="checkpoint: forget_loader and retain_loader are one object, which counts"):
        call("neggrad_plus", model, tmp_path / "run", **same)
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []
    call("neggrad_plus", model, None, **same)


@pytest.mark.parametrize("name", ["random_label", "neggrad_plus", "scrub"])
def test_workers_that_last_change_nothing(name: str, tmp_path: Path) -> None:
    path, made = tmp_path / "run", LOADERS["lasting workers"]
    expected = outcome(name, None, **made())
    interrupt(name, path, 6, **made())
    assert outcome(name, path, seed=77, **made()) == expected


class Pictures(nn.Module):
    """The same samples as pictures of 2 channels, through convolutions whose weights lie channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 6, 2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 2), nn.Flatten())
        self.head = nn.Linear(4 * 2 * 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.reshape(-1, 2, 2, 1).contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("name", [name for name in STEPPING if name not in ("salun", *OURS)])
def test_states_lie_in_memory_as_their_parameters_do(name: str, tmp_path: Path) -> None:
    """A fused step takes them for that without looking. (Those of the other methods are of selected values.)"""
    torch.manual_seed(0)
    made = Pictures().to(memory_format=torch.channels_last)
    assert made.layers[0].weight.stride() != made.layers[0].weight.contiguous().stride()

    def run(path: Path | None) -> dict[str, bytes]:
        seed_all(5)
        model = copy.deepcopy(made)
        call(name, model, path, **({"new_model": None} if name == "retrain" else {}))
        return bits(model)

    expected = run(None)
    with pytest.raises(Killed), killed_after(7):
        run(tmp_path / "run")
    assert run(tmp_path / "run") == expected


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", ["random_label", "neggrad_plus", "scrub"])
def test_wherever_it_is_interrupted_the_result_is_the_same(name: str, every: int, tmp_path: Path) -> None:
    """At the ends of passes and of epochs, too; these read both loaders."""
    path = tmp_path / "run"
    expected = outcome(name, None)
    for step in range(1, expected[1].steps + 1):
        interrupt(name, path, step, every=every)
        assert path.exists() == (step > every)
        assert outcome(name, path, seed=step if path.exists() else 5, every=every) == expected, step


@pytest.mark.parametrize("name", STEPPING)
def test_it_may_be_interrupted_again_and_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    expected = outcome(name, None)
    for seed in (5, 6, 7):
        interrupt(name, path, 3, seed=seed)
    assert outcome(name, path, seed=8) == expected


def test_an_epoch_whose_last_step_was_the_checkpoint_s_has_its_learning_rate(tmp_path: Path) -> None:
    given = {"schedule": "onecycle", "epochs": 2}
    expected = outcome("finetune", None, **given)
    interrupt("finetune", tmp_path / "run", 6, every=5, **given)
    assert outcome("finetune", tmp_path / "run", every=5, **given)[1].history == expected[1].history


def test_a_loader_with_fewer_batches_than_its_length_goes_on(tmp_path: Path) -> None:
    class Short:
        def __len__(self) -> int:
            return 7

        def __iter__(self) -> Any:
            return iter(listed(40, 1))

    def run(path: Path | None, seed: int = 5) -> tuple[Any, ...]:
        with pytest.warns(UserWarning, match="gave 5 batches in a pass, but its length is 7"):
            return outcome("finetune", path, seed, retain_loader=Short())

    expected = run(None)
    for step in (6, 11, 15):  # after a pass's end, in the middle, and after the last checkpoint
        with pytest.warns(UserWarning, match="gave 5 batches"):
            interrupt("finetune", tmp_path / "run", step, every=5, retain_loader=Short())
        assert run(tmp_path / "run", 7) == expected


@pytest.mark.parametrize(("name", "options"), [("ssd", {"alpha": 0.5}), ("fisher_forget", {})])
def test_a_method_without_steps_writes_nothing_and_checks_what_it_is_given(
    name: str, options: dict[str, float], tmp_path: Path
) -> None:
    method = functools.partial(fg.methods.get(name), mlp(), listed(12, 2, 4), listed(40, 1), **options)
    assert method(checkpoint=fg.Checkpoint(tmp_path / "run", 1)).total_seconds > 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="checkpoint must be a Checkpoint or None, got 'run'"):
        method(checkpoint="run")
    with pytest.raises(ValueError, match="checkpoint: there is no folder"):
        method(checkpoint=fg.Checkpoint(tmp_path / "none" / "run"))


def test_the_recipe_of_the_first_call_is_chosen_again_from_the_same_samples(tmp_path: Path) -> None:
    """Which remaining samples are looked at is drawn; the held-out data is read in another order each time."""
    path = tmp_path / "run"
    given = {"heldout_loader": shuffled(20, 3), "retain_loader": DataLoader(Augmented(40, 1), 8, shuffle=True)}
    expected = outcome("topk", None, **given)
    interrupt("topk", path, 4, **given)
    assert outcome("topk", path, seed=12, **given) == expected


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("finetune", {"lr": 0.5}, "of another call: lr was 0.01 and is 0.5"),
        ("finetune", {"loss_fn": _loss}, r"loss_fn was .*cross_entropy and is .*_loss"),
        ("finetune", {"retain_loader": listed(48, 1)}, "is of a call of 15 steps, and this is one of 18"),
        ("finetune", {"retain_loader": listed(40, 9)}, "retain_loader gives another batch where it gave batch 4"),
        ("random_label", {"seed": 3}, "seed was 0 and is 3"),
        ("random_label", {"forget_loader": listed(12, 9, 4)}, "the data of forget_loader is not what it was"),
        ("neggrad_plus", {"beta": 0.9}, "beta was 0.95 and is 0.9"),
        ("l1_sparse", {"gamma": 0.1}, "gamma was 0.0001 and is 0.1"),
        ("scrub", {"alpha": 0.1}, "alpha was 0.5 and is 0.1"),
        ("salun", {"ratio": 0.1}, "ratio was 0.5 and is 0.1"),
        ("retrain", {"seed": 3}, "seed was 0 and is 3"),
        ("retrain", {"new_model": None}, "new_model was 'interrupted.mlp' and is None"),
        ("topk", {"seed": 3}, "repair.seed was 0 and is 3"),
    ],
)
def test_a_file_of_another_call_is_refused_and_nothing_moves(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    same = {"forget_loader": listed(12, 2, 4), "retain_loader": listed(40, 1)}
    interrupt(name, path, 5, **same)
    held = path.read_bytes()
    seed_all(3)
    model = mlp()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        call(name, model, path, **{**same, **changes})
    assert bits(model) == before
    assert path.read_bytes() == held
    after = drawn()
    seed_all(3)
    assert after == drawn()


def test_a_file_of_another_method_is_refused(tmp_path: Path) -> None:
    interrupt("finetune", tmp_path / "run", 5)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'run'))} is a checkpoint of finetune, not of l1_"):
        call("l1_sparse", mlp(), tmp_path / "run")


def test_a_mask_that_is_another_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another number of threads, say, where sums come out otherwise."""
    interrupt("salun", tmp_path / "run", 5)
    model = mlp()
    before = bits(model)
    module = fg.methods.salun.__globals__  # the function has taken the module's name
    real = module["select"]
    monkeypatch.setitem(module, "select", lambda *given, **named: _moved(real(*given, **named)))
    with pytest.raises(ValueError, match=r"other coordinates are chosen than when .*run was written"):
        call("salun", model, tmp_path / "run")
    assert bits(model) == before


def _moved(selection: fg.Selection) -> fg.Selection:
    everywhere = [torch.arange(index.numel()) for index in selection.indices]
    return fg.Selection(selection.shapes, everywhere, names=selection.names)


def test_one_that_diverges_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"):
        call("finetune", mlp(), tmp_path / "run", every=1, lr=1e25)
    assert list(tmp_path.iterdir()) == []


def test_one_pass_loaders_are_refused_before_they_are_used_up(tmp_path: Path) -> None:
    used = iter(listed(12, 2, 4))
    with pytest.raises(TypeError, match="forget_loader"):
        call("gradient_ascent", mlp(), tmp_path / "run", forget_loader=used)
    assert len(list(used)) == 3


def test_the_time_of_earlier_calls_counts(tmp_path: Path) -> None:
    path = tmp_path / "run"
    interrupt("finetune", path, 9)
    earlier = file.read(path, "finetune").part("state").facts["seconds"]
    said: list[int] = []
    result = call("finetune", mlp(), path, checkpoint=fg.Checkpoint(path, 2, said.append))
    assert said == [8]
    assert result.seconds["finetune"] > earlier > 0


@pytest.mark.parametrize(("name", "phase"), [("finetune", "finetune"), ("topk", "repair")])
def test_writing_and_finding_the_place_again_are_not_in_the_seconds(
    name: str, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = steps.Call.write, position.Position.rest

    def slow_write(*given: Any) -> None:
        time.sleep(0.3)
        write(*given)

    def slow_rest(*given: Any) -> Any:
        time.sleep(1.0)
        return read(*given)

    monkeypatch.setattr(steps.Call, "write", slow_write)
    monkeypatch.setattr(position.Position, "rest", slow_rest)
    interrupt(name, tmp_path / "run", 5)
    assert 0 < call(name, mlp(), tmp_path / "run").seconds[phase] < 1.0  # and not over two
