"""What scores are made from, where several processes make them: shards of one model, or replicas of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fgunlearn.batches import batch_size
from fgunlearn.distributed.agreement import all_succeed
from fgunlearn.distributed.gradients import arriving_parts, sharded_steps
from fgunlearn.distributed.layout import Layout, layout_of, local_part
from fgunlearn.distributed.processes import Processes
from fgunlearn.progress import track
from fgunlearn.scoring import CHUNK
from fgunlearn.selection.arriving import Receive, sum_dtype
from fgunlearn.selection.readings import Source, Step
from fgunlearn.selection.scores import damping


@dataclass(frozen=True)
class ShardedSource(Source):
    """DTensors: one batch of every process together are one batch, and every process takes every backward pass.

    All parameters' gradients come with every pass, whether wanted or not: FSDP2 knows no part of one.
    """

    processes: Processes

    @cached_property
    def parts(self) -> list[Tensor]:
        """This process's parts of the parameters."""
        return [local_part(parameter) for parameter in self.parameters.values()]

    @cached_property
    def layouts(self) -> list[Layout]:
        """Where the parts lie, and whether this process counts them."""
        return [layout_of(parameter, f"parameter {name!r}") for name, parameter in self.parameters.items()]

    @cached_property
    def sum_sizes(self) -> list[int]:
        """See :class:`Source`: the same on all processes, which divide the parameters into the same groups by it."""
        most = self.processes.gather(torch.tensor(self.numels, dtype=torch.int64)).amax(0).tolist()
        return [numel * sum_dtype(part).itemsize for numel, part in zip(most, self.parts, strict=True)]

    @property
    def parameter_bytes(self) -> int:
        """See :class:`Source`."""
        sizes = zip(self.sum_sizes, self.parts, strict=True)
        return sum(size // sum_dtype(part).itemsize * part.itemsize for size, part in sizes)

    def steps(self, argument: str = "loader", part: str = "") -> Iterator[Step]:
        """See :func:`fgunlearn.distributed.gradients.sharded_steps`."""
        what = f"score ({self.kind}){part}"
        return sharded_steps(self.model, self._data(argument), what, argument, self.progress, self.processes)

    def take(self, step: Step, positions: Sequence[int], receive: Receive) -> None:
        """See :class:`Source`; what is not wanted is freed as it comes."""
        wanted = set(positions)

        def chosen(t: int, gradient: Tensor) -> None:
            if t in wanted:
                receive(t, gradient)

        arriving_parts(self.model, self.parameters, step, self.loss_fn, chosen)

    def everywhere(self, refused: Sequence[int]) -> Sequence[int]:
        """See :class:`Source`; a part that several processes hold counts once."""
        first = torch.tensor([layout.first for layout in self.layouts])
        everyones = self.processes.gather(torch.tensor(refused, dtype=torch.int64))
        found = self.processes.sum(torch.where(first, torch.tensor(refused, dtype=torch.int64), 0))
        # Should copies of a part differ, they may be finite where they are counted.
        return torch.where(found > 0, found, everyones.amax(0)).tolist()  # type: ignore[no-any-return]

    def damping(self, totals: Sequence[float]) -> float:
        """See :class:`Source`; the sums of parts that several processes hold count once."""
        counted = sum(total for total, layout in zip(totals, self.layouts, strict=True) if layout.first)
        total = self.processes.sum(torch.tensor([counted], dtype=torch.float64))
        return damping([float(total)], sum(layout.numel for layout in self.layouts))


@dataclass(frozen=True)
class ReplicaSource(Source):
    """Whole parameters, the same on every process, each with batches of its own, or none.

    Each process sums up its own batches, and then all add up what they have, so that none waits for another in a
    backward pass: replicas may take different ways through a model, and some have no data. Hence no score is complete
    before it is summed up, not even that of one batch.
    """

    processes: Processes

    def steps(self, argument: str = "loader", part: str = "") -> Iterator[Step]:
        """This process's batches that have samples, if any."""
        what = f"score ({self.kind}){part}"
        for batch in track(self._data(argument), what, self.progress and self.processes.rank == 0):
            if (size := batch_size(batch)) > 0:
                yield Step(batch, size)

    def only_step(self) -> Step | None:
        """None."""
        return None

    def together(self) -> AbstractContextManager[None]:
        """See :class:`Source`."""
        return all_succeed(self.processes, "score its part of the data")

    def added_up(self, sums: Sequence[Tensor], seen: int, argument: str) -> int:
        """One all-reduce of each tensor, in float32 or float64; bfloat16 sums are rounded once more.

        Raises:
            ValueError: no process has any data.
        """
        seen = int(self.processes.sum(torch.tensor([seen])))
        if seen == 0:
            raise ValueError(f"{argument} is empty on every rank: there is no data to take gradients on")
        for total in sums:
            if total.dtype != torch.bfloat16:
                # Whole, as the dense way does: in which order processes are added depends on the place in the tensor.
                total.copy_(self.processes.sum(total))
                continue
            for part in total.view(-1).split(CHUNK):
                part.copy_(self.processes.sum(part.float()))
        return seen

    def everywhere(self, refused: Sequence[int]) -> Sequence[int]:
        """See :class:`Source`; sums are the same on all, and the parameters that "saliency" looks at may not be."""
        found: list[int] = self.processes.gather(torch.tensor(refused, dtype=torch.int64)).amax(0).tolist()
        return found
