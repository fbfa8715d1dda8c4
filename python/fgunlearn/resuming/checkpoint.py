"""Where a call keeps its state while it works, as data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fgunlearn.arguments import check_count
from fgunlearn.resuming.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """Has a call write its state to a file every so many steps, and go on from that file where it is there.

    A call that was killed goes on when it is made again with the same arguments and the model as it was before the
    first call: in another process, too. The result is bit for bit that of a call that was never interrupted, as far as
    the same steps on this machine give the same bits (on CUDA, see ``torch.use_deterministic_algorithms``). Global
    random numbers (torch, NumPy's, Python's) and those of a DataLoader's generators are put where they were, so orders,
    augmentation and dropout go on as well, whatever the new process has drawn.

    The file holds what the method changed, the optimizer's state, random number states and hashes; of data only what
    the method draws from it, such as targets of forget samples: keep it like the model. It is written to a new file
    that takes the old one's place, removed at success and where training diverges, and kept after Ctrl-C and any other
    error. One call at a time has it: a second one with the same path is refused where it meets the first one's file.
    The time that writing takes is not in the seconds of a result.

    A loader whose order depends on more than that, such as one that counts its passes, must have ``state_dict()``,
    which returns what JSON can hold, and ``load_state_dict(state)``, for a pass to begin as it did then; torchdata's
    loaders, which begin a pass to tell it, are not asked. A DataLoader with ``persistent_workers`` that draws random
    numbers in them is refused where that shows in a batch.

    A call is refused that is not the one that wrote the file. Compared are the options; parameters, buffers and
    ``repr`` of the model; the data of the forget and the held-out loader, or what an SPD-GAN keeps of its loaders; and
    ``data``. Of the retain loader only the number of batches and the last batch before the checkpoint are: other data
    elsewhere in it is not noticed, unless ``data`` tells it. Nor is a change within ``loss_fn``, of which the name is
    compared, in the code of a model or a loader, or in what a model holds beside parameters and buffers that its
    ``repr`` does not show.

    Args:
        path: of the file, in a folder that exists.
        every: steps between two writes, >= 1.
        keep: leave the file at success, and the removal to the caller, once the result is safe elsewhere: a call that
            is made again before goes on from it, and soon has the same result.
        data: what tells the data from others, such as a version or a hash of it, to be compared as well.
        resumed: called with the number of steps taken when a call goes on from the file.

    Raises:
        TypeError, ValueError: argument and value are named.
    """

    path: str | os.PathLike[str]
    every: int = 50
    resumed: Callable[[int], None] | None = field(default=None, compare=False, repr=False)
    keep: bool = False
    data: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(f"path must be a path, got {self.path!r}")
        check_count(self.every, "every")
        if not isinstance(self.keep, bool):
            raise TypeError(f"keep must be a bool, got {self.keep!r}")
        if not isinstance(self.data, str):
            raise TypeError(f"data must be a str, got {self.data!r}")
        if self.resumed is not None and not callable(self.resumed):
            raise TypeError(f"resumed must be a function or None, got {self.resumed!r}")

    def check(self) -> None:
        """That the file can be put there.

        Raises:
            CheckpointError: its folder does not exist or can't be written, or it is a folder itself.
        """
        path = Path(self.path)
        if not path.parent.is_dir():
            raise CheckpointError(f"checkpoint: there is no folder {path.parent}")
        if path.is_dir():
            raise CheckpointError(f"checkpoint: {path} is a folder")
        if not os.access(path.parent, os.W_OK):
            raise CheckpointError(f"checkpoint: the folder {path.parent} can't be written")


def check_checkpoint(checkpoint: object) -> Checkpoint:
    """What was given as ``checkpoint``, if it is one, and its file can be put where it says.

    Raises:
        TypeError: it is no Checkpoint.
        CheckpointError: see :meth:`Checkpoint.check`.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint must be a Checkpoint or None, got {checkpoint!r}")
    checkpoint.check()
    return checkpoint
