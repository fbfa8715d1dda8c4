"""The checkpoints of :meth:`fgunlearn.SPDGAN.fit`: both networks, their optimizers, and how far the training came."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fgunlearn.batches import Loader, device_of
from fgunlearn.resuming.call import Call
from fgunlearn.resuming.checkpoint import Checkpoint
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.identity import Identity, digest, digest_of_model, fields_of
from fgunlearn.resuming.optimizers import load_optimizer, of_optimizer
from fgunlearn.resuming.random_states import RandomStates
from fgunlearn.spdgan.budget import HopelessError
from fgunlearn.spdgan.samples import Sampled

if TYPE_CHECKING:
    from fgunlearn.spdgan.fit import History


@dataclass
class Training:
    """How far the training of a generator came.

    Attributes:
        networks: the generator, and the critic if there is one, by name.
        optimizers: of these, by the same names.
        average: the generator's moving average.
        draws: what samples are drawn by.
        history: see there.
        pending: what the history is to have of the steps since the last look, by its name; scalars on the device.
        kept: the state of the generator that is kept; the average's own tensors before the first look.
        best: the largest held-out shift since the critic had its weight.
        step: the number of steps taken.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    average: AveragedModel
    draws: torch.Generator
    history: History
    pending: dict[str, list[Tensor]]
    kept: dict[str, Tensor]
    best: float
    step: int = 0

    def contents(self) -> Contents:
        """For a file."""
        history = dataclasses.asdict(self.history)
        counts = {name: len(values) for name, values in self.pending.items()}
        found = Contents({}, {"history": history, "best": self.best, "step": self.step, "pending": counts})
        found.tensors["draws"] = self.draws.get_state()
        found.tensors |= {f"pending/{name}": torch.stack(values) for name, values in self.pending.items() if values}
        found.tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        if self.history.kept_step:
            found.tensors |= {f"kept/{name}": value for name, value in self.kept.items()}
        for name, network in self.networks.items():
            found.tensors |= {f"network {name}/{key}": value for key, value in network.state_dict().items()}
            found.put(f"optimizer {name}", of_optimizer(self.optimizers[name]))
        return found

    def load(self, saved: Contents) -> None:
        """Goes to where a file says."""
        device = device_of(self.average)
        for name, value in saved.facts["history"].items():
            setattr(self.history, name, value)
        self.best, self.step = saved.facts["best"], saved.facts["step"]
        for name, count in saved.facts["pending"].items():
            self.pending[name] = list(saved.tensors[f"pending/{name}"].to(device).unbind()) if count else []
        self.draws.set_state(saved.tensors["draws"])
        self.average.load_state_dict(_named(saved, "average"))
        if self.history.kept_step:
            self.kept = {name: value.to(device) for name, value in _named(saved, "kept").items()}
        for name, network in self.networks.items():
            network.load_state_dict(_named(saved, f"network {name}"))
            load_optimizer(self.optimizers[name], saved.part(f"optimizer {name}"))


def _named(saved: Contents, name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in saved.tensors.items() if key.startswith(prefix)}


class Saving:
    """The checkpoints of one fit; see :class:`fgunlearn.Checkpoint`.

    Attributes:
        seconds: what earlier calls took up to the checkpoint.

    Args:
        checkpoint: of the user's.
        loaders: that the fit reads.

    Raises:
        TypeError, ValueError, OSError: as :class:`fgunlearn.resuming.call.Call`.
    """

    def __init__(self, checkpoint: Checkpoint, loaders: Sequence[Loader | None]) -> None:
        self._call, self._loaders = Call(checkpoint, "SPDGAN.fit", loaders), loaders
        self._began = time.perf_counter()
        self._found = self._call.found
        self.seconds = 0.0
        if self._found is not None:
            with self._found.well_formed():
                self.seconds = float(self._found.facts["seconds"])

    def checking(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.checking`."""
        return self._call.checking()

    def agree(
        self,
        model: nn.Module,
        looked_at: Sequence[nn.Module],
        layer: str | None,
        forget: Sampled,
        train: Sampled | None,
        options: dict[str, object],
    ) -> None:
        """Compares the call with the one that wrote the file, if there is one.

        Raises:
            ValueError: what differs.
        """
        identity: Identity = {
            "the model": digest_of_model(model),
            "the model's device": str(device_of(model)),
            "features": digest([digest_of_model(looked) for looked in looked_at]),
            "layer": repr(layer),
            "the data of loader": digest(forget),
            "the data of train_loader": "None" if train is None else digest(train),
        }
        for name, value in options.items():
            identity |= fields_of(name, value)
        self._call.agree(identity)

    def begin(self, training: Training, total: int) -> None:
        """The training, which takes so many steps, goes on, if there is something to go on from.

        Raises:
            ValueError: the file is damaged.
        """
        if self._found is None:
            return
        now = RandomStates.of(self._found.part("now"))
        with self._found.well_formed():
            training.load(self._found.part("training"))
            if not 0 < training.step < total:
                raise ValueError(f"{training.step} steps of {total} are taken")
        now.restore(self._loaders)
        self._found = None  # which is larger than both networks
        self._call.going_on()

    def after_step(self, training: Training) -> None:
        """Writes a checkpoint after every so many steps.

        Raises:
            OSError: it can't be written.
        """
        if training.step % self._call.every:
            return
        state = Contents({}, {"seconds": self.seconds + time.perf_counter() - self._began})
        state.put("training", training.contents())
        state.put("now", RandomStates.now(self._loaders).contents())
        self._call.write(training.step, state)

    def until_done(self) -> contextlib.AbstractContextManager[None]:
        """Removes the file when the work inside is done, or fails in a way that it would again."""
        return self._call.until_done(FloatingPointError, HopelessError)
