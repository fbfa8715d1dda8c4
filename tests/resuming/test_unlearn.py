"""A call of ``unlearn`` that was interrupted goes on bit for bit."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import fgunlearn as fg
from fgunlearn.resuming import call
from interrupted import Augmented, Case, Killed, bits, drawn, interrupt, killed_after, outcome, seed_all, shuffled

pytestmark = pytest.mark.usefixtures("_one_thread")

KINDS = ("none", "ascent", "unlikelihood", "random_label", "neighbour", "heldout")
LOADERS = ("list", "with empty batches", "seeded batches", "augmented", "own generator", "worker", "lasting worker")


def summed_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


CASES = {
    **{f"forget {kind}": Case({"forget": kind}) for kind in KINDS},
    **{f"loader {kind}": Case({"forget": "unlikelihood"}, retain=kind) for kind in LOADERS},
    "unguided": Case({"forget": "unlikelihood", "guided": False, "stop": False}),
    "never stopped": Case({"forget": "unlikelihood"}, heldout=False),
    "targets of an augmented loader": Case({"forget": "heldout"}, retain="augmented"),
    "targets of augmented held-out data": Case(
        {"forget": "heldout"}, options={"heldout_loader": DataLoader(Augmented(20, 3), 8, shuffle=True)}
    ),
    "targets that follow less often": Case(
        {"forget": "heldout", "forget_batch": 6}, options={"heldout_loader": shuffled(60, 3)}
    ),
    "a class forgotten as a whole": Case({"forget": "heldout"}, retain="a class less"),
    "no momentum": Case({"momentum": 0.0}),
    "nesterov and decay": Case({"nesterov": True, "weight_decay": 0.01, "schedule": "cosine"}),
    "all parameters": Case({"update": "all", "forget": "unlikelihood"}),
    "frozen statistics": Case({"batch_norm": "eval"}),
    "back early": Case({"retain_loss": 10.0, "epochs": 3}),
    "a loss of the user's": Case({"forget": "ascent"}, options={"loss_fn": summed_loss}),
    "random coordinates": Case(strategy=fg.RandomK(0.3, seed=4), perturb=fg.Zero()),
    "nothing selected": Case({"forget": "neighbour"}, strategy=fg.TopK(0.0)),
    "everything selected": Case(strategy=fg.TopK(1.0), perturb=None),
    "streaming": Case(strategy=fg.RandomTopK(0.5), options={"memory": "streaming"}),
    "bfloat16": Case(dtype=torch.bfloat16, options={"loss_fn": lambda model, batch: in_bfloat16(model, batch)}),
}


def in_bfloat16(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_call_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "run.checkpoint"
    expected = outcome(case, None)
    assert outcome(case, path) == expected  # writing checkpoints changes nothing
    assert list(tmp_path.iterdir()) == []
    interrupt(case, path, 4)
    assert list(tmp_path.iterdir()) == [path]
    # Another process would have drawn other numbers, and the loaders are new.
    assert outcome(case, path, seed=77) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every", [1, 3])
def test_wherever_it_is_interrupted_the_result_is_the_same(every: int, tmp_path: Path) -> None:
    case, path = Case({"forget": "unlikelihood", "stop": False, "momentum": 0.9}, retain="augmented"), tmp_path / "run"
    expected = outcome(case, None)
    for step in range(1, 11):
        interrupt(case, path, step, every=every)
        assert path.exists() == (step > every)
        seed = step if path.exists() else 5  # nothing is left of one that ended before: it begins anew
        assert outcome(case, path, seed=seed, every=every) == expected, step


def test_it_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    case, path = Case({"forget": "heldout", "momentum": 0.9}), tmp_path / "run"
    expected = outcome(case, None)
    for seed in range(4):  # three steps each, the last of which is lost
        interrupt(case, path, 3, seed=5 if seed == 0 else seed)
    assert outcome(case, path, seed=9) == expected


def killed_by_the_system(path: Path, step: int | None, seed: int, out: Path) -> None:
    torch.set_num_threads(1)
    case = Case({"forget": "heldout", "momentum": 0.9}, retain="augmented")
    if step is None:
        out.write_bytes(pickle.dumps(outcome(case, path, seed)))
    else:
        with killed_after(step, by_signal=True):
            outcome(case, path, seed)


def test_a_killed_process_goes_on_in_another_one(tmp_path: Path) -> None:
    path, out = tmp_path / "run", tmp_path / "out"
    case = Case({"forget": "heldout", "momentum": 0.9}, retain="augmented")
    expected = outcome(case, None)
    spawning = multiprocessing.get_context("spawn")
    for step, seed in ((6, 5), (3, 6), (None, 7)):
        process = spawning.Process(target=killed_by_the_system, args=(path, step, seed, out))
        process.start()
        process.join()
        assert process.exitcode == (0 if step is None else -signal.SIGKILL)
        assert sorted(tmp_path.iterdir()) == [out if step is None else path]
    got = pickle.loads(out.read_bytes())
    assert got == expected


def test_ctrl_c_keeps_the_checkpoint_and_gives_the_model_back(tmp_path: Path) -> None:
    case, path = Case({"forget": "unlikelihood"}), tmp_path / "run"
    expected = outcome(case, None)
    seed_all(5)
    model = case.model()
    before = bits(model)

    def interrupted(model: nn.Module, batch: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):  # the second time goes on, and is interrupted again
        handle = None

        def arm(step: int) -> None:
            nonlocal handle
            handle = model.register_forward_pre_hook(interrupted)

        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            try:
                if not path.exists():
                    with killed_after(5):
                        case.call(model, path)
                case.call(model, path, checkpoint=fg.Checkpoint(path, 2, arm))
            except Killed:
                raise KeyboardInterrupt from None
            finally:
                if handle is not None:
                    handle.remove()
        assert bits(model) == before
        assert list(tmp_path.iterdir()) == [path]
    assert outcome(case, path) == expected


def test_one_that_diverges_leaves_no_checkpoint(tmp_path: Path) -> None:
    case = Case({"lr": 1e25, "schedule": "constant"})
    model = case.model()
    before = bits(model)
    with pytest.raises(ValueError, match="diverged"):
        case.call(model, tmp_path / "run", every=1)
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_going_on_gives_the_model_back_as_it_was_at_first(tmp_path: Path) -> None:
    case, path = Case({"forget": "ascent", "update": "all"}), tmp_path / "run"
    interrupt(case, path, 5)
    held = path.read_bytes()
    interrupt(case, path, 1, every=3)  # asserts that the model is as it was
    assert path.read_bytes() == held


def test_the_time_of_earlier_calls_counts(tmp_path: Path) -> None:
    case, path = Case({"forget": "neighbour"}), tmp_path / "run"
    interrupt(case, path, 5)
    said: list[int] = []
    result = case.call(case.model(), path, checkpoint=fg.Checkpoint(path, 2, said.append))
    assert said == [4]
    assert list(result.seconds) == ["select", "forget setup", "perturb", "repair"]
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_a_buffer_that_a_forward_pass_replaces_goes_on(tmp_path: Path) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen = torch.cat([self.seen, x[:1, 0]])
            return self.inner(x) + self.seen.sum()

    def ended(path: Path | None) -> tuple[Tensor, dict[str, bytes]]:
        seed_all(1)
        torch.manual_seed(0)
        model = Growing()
        Case(heldout=False).call(model, path)
        return model.seen, bits(model)

    seen, expected = ended(None)
    with pytest.raises(Killed), killed_after(7):
        ended(tmp_path / "run")
    again, found = ended(tmp_path / "run")
    assert len(seen) > 10
    assert torch.equal(again, seen)
    assert found == expected


class Lazy(nn.Module):
    """Puts a buffer in the place of None in its first forward pass, and registers one more, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if "more" not in self._buffers:
                self.register_buffer("more", torch.zeros(()))
            self.scale = x.detach().abs().mean() if self.scale is None else 0.9 * self.scale
            self.more += 1.0
        return self.inner(x) / (1.0 if self.scale is None else 1.0 + self.scale)


def test_a_buffer_that_is_none_at_first_goes_on_and_comes_back(tmp_path: Path) -> None:
    def ended(path: Path | None) -> dict[str, bytes]:
        seed_all(1)
        model = Lazy()
        try:
            result = Case(heldout=False).call(model, path)
        except Killed:
            assert model.scale is None
            assert "more" not in model._buffers
            raise
        assert result.buffers == ["scale", "more"]
        return bits(model)

    expected = ended(None)
    with pytest.raises(Killed), killed_after(7):
        ended(tmp_path / "run")
    assert ended(tmp_path / "run") == expected


def lasting(n: int, seed: int, size: int = 8) -> DataLoader[Any]:
    return shuffled(n, seed, size, num_workers=1, persistent_workers=True)


def all_lasting() -> dict[str, Any]:
    return {"forget_loader": lasting(12, 2, 4), "retain_loader": lasting(40, 1), "heldout_loader": lasting(20, 3)}


@pytest.mark.parametrize("forget", ["heldout", "unlikelihood"])
def test_workers_that_last_change_nothing_in_a_new_process_or_in_this_one(forget: str, tmp_path: Path) -> None:
    case, path = Case({"forget": forget}), tmp_path / "run"
    expected = outcome(case, None, **all_lasting())
    assert outcome(case, path, **all_lasting()) == expected
    loaders = all_lasting()
    interrupt(case, path, 5, **loaders)
    assert outcome(case, path, seed=7, **loaders) == expected  # after Ctrl-C in a notebook
    interrupt(case, path, 8, **all_lasting())
    assert outcome(case, path, seed=7, **all_lasting()) == expected


def test_workers_that_were_there_before_the_call_are_as_they_were(tmp_path: Path) -> None:
    """Their random numbers too, where data is read to be compared."""

    def after_a_pass(path: Path | None) -> tuple[Any, ...]:
        seed_all(3)
        loader = DataLoader(Augmented(20, 3), 8, num_workers=1, persistent_workers=True)
        assert len(list(loader)) == 3
        return outcome(Case({"forget": "heldout"}), path, heldout_loader=loader)

    assert after_a_pass(tmp_path / "run") == after_a_pass(None)


def test_held_out_data_is_compared_one_batch_at_a_time(tmp_path: Path) -> None:
    class Watched:
        """Batches, of which it is known how many are alive."""

        def __init__(self) -> None:
            self.most, self.alive = 0, list[weakref.ref[Tensor]]()

        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            for x, y in shuffled(40, 3):
                self.alive = [ref for ref in self.alive if ref() is not None]
                self.most = max(self.most, len(self.alive))
                self.alive.append(weakref.ref(x))
                yield x, y

    watched = Watched()
    case = Case({"forget": "ascent"})
    case.call(case.model(), tmp_path / "run", heldout_loader=watched)
    assert 1 <= watched.most <= 2


def test_a_kept_checkpoint_is_gone_on_from_until_the_caller_removes_it(tmp_path: Path) -> None:
    case, path = Case({"forget": "heldout"}), tmp_path / "run"
    expected = outcome(case, None)
    said: list[int] = []
    for _ in range(2):
        assert outcome(case, None, checkpoint=fg.Checkpoint(path, 2, said.append, keep=True)) == expected
        assert list(tmp_path.iterdir()) == [path]
    assert said == [8]
    assert outcome(case, path) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cant_be_removed_does_not_make_a_result_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path = Case({"forget": "heldout"}), tmp_path / "run"
    expected = outcome(case, None)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(call, "remove", refuse)
        with pytest.warns(UserWarning, match="run is of no use any more, but can't be removed: .*Permission denied"):
            assert outcome(case, path) == expected
        diverging = Case({"lr": 1e25, "schedule": "constant"})
        with pytest.warns(UserWarning, match="can't be removed"), pytest.raises(ValueError, match="diverged"):
            diverging.call(diverging.model(), tmp_path / "other", every=1)
    assert path.exists()


def test_without_a_checkpoint_nothing_is_asked_of_loaders() -> None:
    class Stateful:
        def __iter__(self) -> Any:
            return iter(shuffled(40, 1))

        def state_dict(self) -> dict[str, int]:
            raise AssertionError

        load_state_dict = state_dict

    case = Case({"forget": "heldout"})
    case.call(case.model(), None, retain_loader=Stateful(), heldout_loader=Stateful(), forget_loader=Stateful())


def test_random_numbers_after_a_resumed_call_are_those_after_an_uninterrupted_one(tmp_path: Path) -> None:
    case, path = Case(retain="own generator"), tmp_path / "run"

    def later(seed: int, path: Path | None) -> tuple[Any, ...]:
        seed_all(seed)
        heldout = shuffled(20, 3, generator=torch.Generator().manual_seed(seed))
        forget = shuffled(12, 2, size=4, generator=torch.Generator().manual_seed(seed))
        retain = shuffled(40, 1, generator=torch.Generator().manual_seed(seed))
        case.call(
            case.model(), path, heldout_loader=heldout, forget_loader=forget, retain_loader=retain,
            repair=fg.Repair(epochs=2, forget="unlikelihood"),
        )  # fmt: skip
        return (*_orders(heldout, forget, retain), drawn())

    expected = later(5, None)
    with pytest.raises(Killed), killed_after(7):
        later(5, path)
    assert later(6, path) == expected


def _orders(*loaders: Any) -> list[Any]:
    return [[y.tolist() for _, y in loader] for loader in loaders]
