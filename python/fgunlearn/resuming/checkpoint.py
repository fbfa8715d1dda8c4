"""Where a call keeps its state while it works, as data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fgunlearn.arguments import check_count


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
    error.

    A loader whose order depends on more than that, such as one that counts its passes, must have ``state_dict()``,
    which returns what JSON can hold, and ``load_state_dict(state)``, for a pass to begin as it did then. One that gives
    another batch than before is refused where that shows: the last batch before the checkpoint is compared, and all
    data of the other loaders. So is a DataLoader with ``persistent_workers`` that draws random numbers in them. Of
    ``loss_fn`` the name alone is compared, and what a model holds beside parameters and buffers is not known.

    Args:
        path: of the file, in a folder that exists.
        every: steps between two writes, >= 1.
        resumed: called with the number of steps taken when a call goes on from the file.

    Raises:
        TypeError, ValueError: argument and value are named.
    """

    path: str | os.PathLike[str]
    every: int = 50
    resumed: Callable[[int], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(f"path must be a path, got {self.path!r}")
        check_count(self.every, "every")
        if self.resumed is not None and not callable(self.resumed):
            raise TypeError(f"resumed must be a function or None, got {self.resumed!r}")

    def check(self) -> None:
        """That the file can be put there.

        Raises:
            ValueError: its folder does not exist or can't be written, or it is a folder itself.
        """
        path = Path(self.path)
        if not path.parent.is_dir():
            raise ValueError(f"checkpoint: there is no folder {path.parent}")
        if path.is_dir():
            raise ValueError(f"checkpoint: {path} is a folder")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"checkpoint: the folder {path.parent} can't be written")
