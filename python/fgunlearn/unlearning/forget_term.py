"""What is trained on the forget data beside the repair: the forget term, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.batches import (
    Loader,
    LossFunction,
    checked_loss,
    class_count,
    count_batches,
    device_of,
    known_size,
    moved,
    one_tensor,
    without_samples,
    x_and_y,
)
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.random_states import RandomStates
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.neighbours import NeighbourVotes, Place, check_class_numbers, telling_layer
from fgunlearn.unlearning.output_rows import forget_rows_
from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.stopping import StopRule
from fgunlearn.unlearning.targets import Targets

_SUPPORT_SLACK = 0.02  # a likelihood this little above the neighbours' support is not pushed further

_VOTE_SMOOTHING = 0.02

_COUNTERS = ("order", "checked", "follow_at", "since_followed", "looked_at")  # attributes that a checkpoint holds

_FOLLOWED = 2  # passes over the forget data from one look at how the model treats held-out data to the next, at least


class ForgetTerm:
    """The loss on the forget data beside the retain loss, and when to stop adding it.

    With the default loss, one forward pass serves both: the forget samples go through the model in one batch with the
    retain samples, so that batch norm sees the mixture it was trained on. A ``loss_fn`` of the user's gets a pass of
    its own, and only "ascent" is defined for it; the mean of that loss then is what the stop rule compares.

    Preparing "heldout" changes selected coordinates of the model, see :mod:`fgunlearn.unlearning.output_rows`.

    ``resumable`` is for a call with checkpoints. With ``saved``, what :meth:`contents` told, nothing is asked of the
    model or the remaining data: the term goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        forget_batches: Iterable[Any],
        retain_loader: Loader,
        heldout_loader: Loader | None,
        loss_fn: LossFunction | None,
        repair: Repair,
        *,
        resumable: bool = False,
        saved: Contents | None = None,
    ) -> None:
        self._kind = repair.forget
        self._loss_fn = loss_fn
        self._batches = [batch for batch in forget_batches if not without_samples(batch)]
        if not self._batches:
            raise ValueError("forget_loader has no sample: there is nothing to forget")
        self._generator = torch.Generator().manual_seed(repair.seed)
        self._order: list[int] = []
        self._stop: StopRule | None = None
        self._votes: Tensor | None = None
        self._checked = 0
        self._size, self._count = 1, len(self._batches)  # what a step takes, and of how many; samples or batches
        self._targets: Targets | None = None
        self._heldout: list[Any] = []
        self._follow_at = 1  # passes over the forget data at which the targets follow the model next,
        self._since_followed = 0  # if that many samples were trained on since they last did
        self._looked_at = 0
        self._heldout_began: RandomStates | None = None
        stopping = heldout_loader if repair.stop and repair.forget != "heldout" else None
        if stopping is not None:
            count_batches(stopping, "heldout_loader")
        if loss_fn is not None:
            if repair.forget != "ascent":
                raise ValueError(
                    f"forget={repair.forget!r} is defined on logits and class labels: use it with loss_fn=None and "
                    "(x, y) batches, or use forget='ascent'"
                )
            if stopping is not None:
                self._stop = StopRule(stopping, loss_fn=loss_fn)
            if saved is not None:
                self._go_on(saved, None)
            return
        pairs = [x_and_y(batch) for batch in self._batches]
        self._device = device_of(model)
        self._x = _joined([x for x, _ in pairs]).to(self._device)
        self._y = _joined([y for _, y in pairs]).to(self._device)
        self._size, self._count = min(repair.forget_batch or len(pairs[0][1]), len(self._y)), len(self._y)
        # What fits in memory with gradients does so without.
        largest = max(len(y) for _, y in pairs)
        self._batches = list(zip(self._x.split(largest), self._y.split(largest), strict=True))
        expected = None
        if repair.forget != "ascent" or stopping is not None:
            check_class_numbers(self._y, "forget_loader")
            self._y = self._y.long()  # what gather and scatter index by
        self._guided = repair.guided and repair.forget == "unlikelihood"
        if saved is not None:
            self._go_on(saved, heldout_loader)
            if stopping is not None:
                with saved.well_formed():
                    expected = saved.facts["expected"]
                self._stop = StopRule(stopping, expected)
            return
        if repair.forget == "heldout":
            if resumable and heldout_loader is not None:
                self._heldout_began = RandomStates.now([heldout_loader])
            classes = class_count(model, pairs[0][0])
            self._prepare_targets(model, selection, retain_loader, heldout_loader, classes, repair)
        if self._guided or repair.forget == "neighbour" or stopping is not None:
            classes = class_count(model, pairs[0][0])
            votes, labels = NeighbourVotes(model, retain_loader, classes, repair.neighbours, repair.neighbour_layer)(
                pairs
            )
            expected = float((votes.argmax(1) == labels).float().mean())
            self._votes = votes
        if stopping is not None:
            self._stop = StopRule(stopping, expected)

    def _prepare_targets(
        self,
        model: nn.Module,
        selection: Selection,
        retain_loader: Loader,
        heldout_loader: Loader | None,
        classes: int,
        repair: Repair,
    ) -> None:
        if heldout_loader is None:
            raise ValueError(
                "forget='heldout' needs heldout_loader, data never trained on; without it use forget='neighbour'"
            )
        count_batches(heldout_loader, "heldout_loader")
        self._heldout = [batch for batch in heldout_loader if not without_samples(batch)]
        if not self._heldout:
            raise ValueError("heldout_loader has no sample")
        layer: str | Place | None = repair.neighbour_layer
        if layer is None:
            layer = telling_layer(model, self._batches, retain_loader, self._heldout, classes, repair.neighbours)
        vote = NeighbourVotes(model, retain_loader, classes, repair.neighbours, layer)
        votes, _ = vote(self._batches)
        heldout_votes, heldout_labels = vote(self._heldout)
        check_class_numbers(heldout_labels, "heldout_loader", classes)
        # Before the model is asked about the forget data: what these rows say of it is to be nobody's target.
        if repair.forget_share > 0.0:
            gone = torch.isin(torch.arange(classes, device=self._device), self._y) & ~vote.known
            forget_rows_(model, selection, self._batches[0][0][:1], gone, vote.known)
        source = Outputs.of(model, self._batches, "forget_loader")
        self._targets = Targets(source, votes, heldout_votes, heldout_labels.long(), vote.known)
        self._targets.follow(Outputs.of(model, self._heldout, "heldout_loader"))
        self._looked_at = len(source) + len(heldout_labels)  # samples of one look

    def contents(self) -> Contents:
        """Its state, for a checkpoint."""
        tensors = {"generator": self._generator.get_state()}
        if self._votes is not None:
            tensors["votes"] = self._votes
        facts = {name: getattr(self, f"_{name}") for name in _COUNTERS}
        found = Contents(tensors, {**facts, "expected": None if self._stop is None else self._stop.expected_accuracy})
        if self._targets is not None:
            assert self._heldout_began is not None
            found.put("targets", self._targets.contents())
            found.put("heldout_began", self._heldout_began.contents())
        return found

    def _go_on(self, saved: Contents, heldout_loader: Loader | None) -> None:
        with saved.well_formed():
            self._generator.set_state(saved.tensors["generator"])
            for name in _COUNTERS:
                setattr(self, f"_{name}", saved.facts[name])
            if "votes" in saved.tensors:
                self._votes = saved.tensors["votes"].to(self._device)
            if "targets" in saved.facts:
                self._targets = Targets.restored(saved.part("targets"), self._device)
                self._heldout_began = RandomStates.of(saved.part("heldout_began"))
        if self._heldout_began is not None:
            assert heldout_loader is not None
            self._heldout_began.restore([heldout_loader])
            count_batches(heldout_loader, "heldout_loader")  # reads a loader without a length, as it did then
            self._heldout = [batch for batch in heldout_loader if not without_samples(batch)]

    def losses(self, model: nn.Module, retain_batch: Any) -> tuple[Tensor, Tensor, int]:
        """The retain loss, the forget loss, and how many samples they took."""
        if self._loss_fn is not None:
            batch = self._batches[self._next(1, len(self._batches))[0]]
            kept = checked_loss(self._loss_fn(model, retain_batch))
            gone = -checked_loss(self._loss_fn(model, batch))
            return kept, gone, (known_size(retain_batch) or 0) + (known_size(batch) or 0)
        x, y = x_and_y(retain_batch)
        y = y.to(self._device)
        chosen = torch.tensor(self._next(self._size, len(self._y)), device=self._device)
        logits = one_tensor(model(_joined([moved(x, self._device), self._x[chosen]])))
        kept = checked_loss(F.cross_entropy(logits[: len(y)], y))
        self._since_followed += len(logits)
        return kept, self._on_logits(logits[len(y) :], chosen), len(y) + len(chosen)

    def _next(self, count: int, of: int) -> list[int]:
        if len(self._order) < count:
            self._order = torch.randperm(of, generator=self._generator).tolist()
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def _on_logits(self, logits: Tensor, chosen: Tensor) -> Tensor:
        labels = self._y[chosen]
        if self._targets is not None:
            return self._targets.loss(logits, chosen)
        if self._kind == "ascent":
            return -F.cross_entropy(logits, labels)
        if self._kind == "unlikelihood":
            # log(1 - p_y) from the other classes' logits: exact where p_y rounds to 1.
            others = logits.scatter(1, labels[:, None], -math.inf)
            unlikelihood = logits.logsumexp(1) - others.logsumexp(1)
            if self._guided:
                assert self._votes is not None
                support = self._votes[chosen].to(logits).gather(1, labels[:, None]).squeeze(1)
                likelihood = -torch.expm1(-unlikelihood.detach())  # p_y
                unlikelihood = unlikelihood * (likelihood > support + _SUPPORT_SLACK)
            return unlikelihood.mean()
        if self._kind == "random_label":
            classes = logits.shape[1]
            shift = torch.randint(1, max(classes, 2), labels.shape, generator=self._generator)
            return F.cross_entropy(logits, (labels + shift.to(labels.device)) % classes)
        assert self._votes is not None
        # Never fully sure: a vote of 10 to 0 would ask for infinite logits.
        return F.cross_entropy(logits, self._votes[chosen].to(logits), label_smoothing=_VOTE_SMOOTHING)

    def is_over(self, model: nn.Module, forget_steps: int) -> bool:
        """Whether to stop forgetting; looks once per pass over the forget data.

        Targets made of held-out data follow the model every ``_FOLLOWED`` passes, and are never over. They do so less
        often where passes are short: a look at as many samples as were trained on since the last takes a third of that
        training's time, and it is to be no more.
        """
        if self._targets is not None:
            passed = forget_steps * self._size >= self._follow_at * self._count
            if passed and self._since_followed >= self._looked_at:
                self._since_followed = 0
                heldout = Outputs.of(model, self._heldout, "heldout_loader")
                self._targets.follow(heldout, Outputs.of(model, self._batches, "forget_loader"))
                self._follow_at = forget_steps * self._size // self._count + _FOLLOWED
            return False
        if self._stop is None or forget_steps * self._size < (self._checked + 1) * self._count:
            return False
        self._checked += 1
        return self._stop.reached(model, self._batches)


def _joined(parts: list[Any]) -> Tensor:
    """Parts of several batches as one tensor.

    Raises:
        TypeError, ValueError: they are not tensors; their samples have different shapes.
    """
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(
                f"a forget term puts samples of both loaders into one batch, so they must be tensors, got "
                f"{type(part).__name__}: give loss_fn and forget='ascent', or use forget='none'"
            )
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"a forget term puts samples of both loaders into one batch, but some have shape "
                f"{tuple(parts[0].shape[1:])} and some {tuple(part.shape[1:])}: give them one shape, or use "
                "forget='none'"
            )
    return torch.cat(parts)
