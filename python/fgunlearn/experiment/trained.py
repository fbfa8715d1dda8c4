"""Models that are trained once: kept in a folder, under a hash of everything that they are a function of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fgunlearn import machine
from fgunlearn.experiment.data import Samples
from fgunlearn.experiment.training import Training, train
from fgunlearn.files import replacing
from fgunlearn.resuming import Checkpoint
from fgunlearn.resuming.file import remove


class TrainedModels:
    """Trains models, or reads those that were trained before on the same data, in the same way, on such a machine.

    Args:
        folder: where they are kept; made if it is not there. None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def train(
        self,
        samples: Samples,
        classes: int,
        training: Training,
        seed: int,
        tick: Callable[[], None] = lambda: None,
        occasion: str = "",
        checkpoint: Checkpoint | None = None,
    ) -> tuple[nn.Module, float]:
        """A model in eval mode, and the seconds its training took; see :func:`fgunlearn.experiment.training.train`.

        A damaged file is trained anew and replaced. What is asked for on another ``occasion`` is trained again, though
        it is the same: where its seconds matter, they should be of about when they are compared with others.

        A training that was interrupted goes on from the ``checkpoint``, to whose file's name that hash is added. The
        file is there until the model is kept.

        Raises:
            CheckpointError: a checkpoint that can't be gone on from.
            OSError: the folder can't be written.
        """
        if self._folder is None:
            return train(samples, classes, training, seed, tick, checkpoint)
        key = key_of(samples, classes, training, seed, occasion)
        path = self._folder / f"{key}.safetensors"
        model = training.new_model(samples, classes, seed)
        seconds = _read(path, model)
        if seconds is None:
            resumable = None
            if checkpoint is not None:
                path_of_checkpoint = Path(checkpoint.path)
                named = path_of_checkpoint.with_stem(f"{path_of_checkpoint.stem}-{key[:12]}")
                resumable = dataclasses.replace(checkpoint, path=named, data=key, keep=True)
            model, seconds = train(samples, classes, training, seed, tick, resumable)
            self._folder.mkdir(parents=True, exist_ok=True)
            state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            with replacing(path) as temporary:
                try:
                    save_file(state, temporary, {"seconds": repr(seconds)})
                except SafetensorError as error:
                    raise OSError(f"can't write {path}: {error}") from error
            if resumable is not None:
                remove(Path(resumable.path))
        return model.eval(), seconds


def key_of(samples: Samples, classes: int, training: Training, seed: int, occasion: str = "") -> str:
    """Hexadecimal hash of data, recipe, seed and code; and of the machine, for the seconds are kept as well."""
    there = machine.describe()
    recipe = {
        "training": dataclasses.asdict(training),
        "classes": classes,
        "seed": seed,
        "machine": [there[part] for part in ("processor", "cores", "torch")],
        "threads": torch.get_num_threads(),
        "code": machine.code_digest(),
        "occasion": occasion,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for tensor in (samples.images, samples.labels, samples.mean, samples.std):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _read(path: Path, model: nn.Module) -> float | None:
    """Loads the weights, and returns the seconds that they took; None where there is no such file, or a damaged one."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            seconds = float((file.metadata() or {})["seconds"])
        model.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    return seconds
