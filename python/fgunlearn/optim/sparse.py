"""An optimizer that updates the selected coordinates and leaves every other bit alone."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fgunlearn.arguments import check_seed
from fgunlearn.distributed.layout import local_part
from fgunlearn.optim import freezing
from fgunlearn.optim.freezing import BackwardSaving
from fgunlearn.optim.gradients import hook_gradients, selected_gradient
from fgunlearn.optim.matching import Slot, fingerprint, refuse_for_shards, slots_of
from fgunlearn.optim.rules import GroupStep, Scaling, rule_of
from fgunlearn.optim.states import check_saved_groups, matched_groups, selected_state, step_device, update_groups
from fgunlearn.selection.selection import Selection

_SELECTION_KEY = "selection"  # of a state dict: the fingerprint of the coordinates it is about

_OPTIONS = ("selection", "free_grads", "freeze_untouched", "stochastic_rounding", "seed")
_KEPT = (*_OPTIONS, "_rule", "_slots", "_frozen", "_closed")  # by copies and pickles


class SparseOptimizer(torch.optim.Optimizer):
    """Wraps a torch optimizer so that its steps touch the selected coordinates only, with state of size k.

    What is optimised is the sub-vector of the selected coordinates, as if there were no others: momentum, weight decay
    and (by :func:`fgunlearn.clip_grad_norm_`) the gradient's norm are those of the sub-vector. On it the steps equal
    those of torch's optimizer; off it no bit changes. A dense optimizer with masked gradients does something else: its
    weight decay and old momentum move the rest as well.

    The param groups are the wrapped optimizer's own dicts, so changes of lr, betas, momentum or weight decay in either
    take effect at the next step, and LR schedulers and warm-up work; if the wrapped optimizer has state, its selected
    part is taken over. Don't step the wrapped optimizer itself. A step is one call of the sparse op per group (two
    where some gradients are dense and others freed), on CUDA two or three launches: k coordinates of gradient,
    parameter and state are read, k of parameter and state written. bfloat16 and float16 parameters have float32 state
    and are rounded once per step. ``foreach`` and ``fused`` of the wrapped optimizer make no difference, except that
    with ``capturable`` or ``fused`` the step count lies on the parameters' device; with ``capturable=True`` (and lr a
    tensor on the device, if it is to change) a step on CUDA waits for nothing and can be captured in a graph.

    ``torch.compile`` of a whole training step works and breaks the graph at ``step()``, which is one call per group
    anyway; ``fullgraph=True`` is refused by torch. Deepcopy, pickle, hooks, closures and ``torch.amp.GradScaler`` work
    as with torch's optimizers (its scale is taken off in the kernel, where torch's fused optimizers do it, but
    ``p.grad`` is left scaled). The scaler looks at whole gradients: an infinite one off the selection skips the step,
    except with ``free_grads``, where there is none.

    Of sharded parameters (DTensors, as FSDP2 makes them) every process steps its own part, with state for the selected
    coordinates that are there, and communicates nothing. ``free_grads`` leaves DTensors as gradients that hold the
    selected values alone, which a ``GradScaler`` refuses. ``state_dict()`` is this process's and fits the same
    sharding; :class:`fgunlearn.distributed.checkpoint.OptimizerState` goes through ``torch.distributed.checkpoint`` and
    fits any.

    Args:
        optimizer: a ``torch.optim.SGD``, ``Adam`` or ``AdamW``.
        selection: which coordinates; of whole parameters, or sharded as they are.
        model: the model the selection was made for: parameters are matched by name, and the optimizer's groups may hold
            them in any order (by weight decay, say) and leave some out. Without it they are matched by name where the
            optimizer was made from ``named_parameters()`` and the selection from a model, else by position and shape
            among those that require grad; refused where a model's selection meets several groups that share a shape.
        free_grads: replace each gradient during the backward pass, as soon as it is accumulated, by a sparse COO tensor
            of the selected coordinates, so that dense gradients never exist all at once. It holds k values and the
            selected coordinates as int64, one per dimension. Micro-batches accumulate in it. torch's own clipping by
            norm refuses it before torch 2.14: use :func:`fgunlearn.clip_grad_norm_`. DistributedDataParallel, which
            reduces dense gradients, refuses it in any version.
        freeze_untouched: switch ``requires_grad`` off for tensors without a selected coordinate, so that the backward
            pass skips their gradients, until :meth:`close` or the end of a ``with`` block or of the optimizer's life;
            see :meth:`backward_saving`. Nothing is frozen where nothing at all is selected: a loss without a graph has
            no backward. Not with sharded parameters.
        stochastic_rounding: round bfloat16 parameters up or down at random, without bias, so that updates smaller than
            half a unit in the last place are not lost. A function of (seed, step, global index) alone. Not with
            DTensors whose parts are several runs of the whole, such as columns of a matrix.
        seed: of that; any 64-bit integer, signed.

    Raises:
        TypeError: another optimizer type (the supported ones are listed), an unsupported parameter, or a seed that is
            no int.
        ValueError: the selection was made for other parameters, or by position it can't be told for which ones; an
            expanded parameter; a seed beyond 64 bits.
    """

    _step_supports_amp_scaling = True  # GradScaler sets grad_scale and found_inf instead of touching n gradients

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        selection: Selection,
        *,
        model: nn.Module | None = None,
        free_grads: bool = False,
        freeze_untouched: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
    ) -> None:
        check_seed(seed)
        self._rule = rule_of(optimizer)
        self._slots = slots_of(optimizer.param_groups, selection, model)
        refuse_for_shards(self._slots.values(), freeze_untouched, stochastic_rounding)
        self.selection = selection
        self.free_grads = free_grads
        self.freeze_untouched = freeze_untouched
        self.stochastic_rounding = stochastic_rounding
        self.seed = seed
        self._frozen: list[Tensor] = []
        self._closed = True  # until nothing can fail any more
        super().__init__(optimizer.param_groups, optimizer.defaults)
        for p, slot, group in self._selected():
            if optimizer.state.get(p):
                device = step_device(group, p)
                self.state[p] = selected_state(optimizer.state[p], slot, self._rule, device, slot.label)
        self._closed = False
        self._hold()
        self._open(p for group in self.param_groups for p in group["params"])

    def _hold(self) -> None:
        """What :meth:`close` undoes is undone when the optimizer is collected, too."""
        self._handles: list[RemovableHandle] = []
        self._finalizer = weakref.finalize(self, _release, self._handles, self._frozen)
        self._finalizer.atexit = False

    def _open(self, params: Iterable[Tensor]) -> None:
        """Starts freezing and freeing, for parameters of the optimizer's own."""
        if self._closed:
            return
        slots = {p: self._slots[p] for p in params if p in self._slots}
        if self.freeze_untouched and any(True for _ in self._selected()):
            self._frozen += freezing.freeze(slots)
        if self.free_grads:
            self._handles += hook_gradients(self, slots)

    def close(self) -> None:
        """Undoes ``free_grads`` and ``freeze_untouched``: later gradients stay dense, frozen tensors are trainable.

        The optimizer can still be stepped. The end of a ``with`` block does the same, and so does the optimizer's end.
        It holds for copies of the optimizer and for parameters that are added later, too.
        """
        self._closed = True
        _release(self._handles, self._frozen)

    def __enter__(self) -> SparseOptimizer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def frozen(self) -> list[Tensor]:
        """The tensors that ``freeze_untouched`` has switched off."""
        return list(self._frozen)

    def backward_saving(self, loss_fn: Callable[[], Tensor], repeats: int = 5) -> BackwardSaving:
        """How much time ``freeze_untouched`` saves, by measuring with the tensors frozen and not, in turns.

        Args:
            loss_fn: the forward pass; returns the loss. Gradients of the optimizer's parameters are afterwards as
                before.
            repeats: timed turns, >= 1, after one that warms up.

        Raises:
            ValueError: ``repeats`` < 1.
        """
        params = (p for group in self.param_groups for p in group["params"])
        return freezing.measure(loss_fn, self._frozen, {p: self._slots[p] for p in params if p in self._slots}, repeats)

    def _selected(self) -> Iterator[tuple[Tensor, Slot, dict[str, Any]]]:
        for group in self.param_groups:
            for p in group["params"]:
                slot = self._slots.get(p)
                if slot is not None and slot.k > 0:
                    yield p, slot, group

    def add_param_group(self, param_group: dict[str, Any], selection: Selection | None = None) -> None:
        """Adds parameters, of the selection this optimizer was made with or with one of their own.

        Args:
            param_group: as for torch's optimizers.
            selection: for parameters that the optimizer's selection doesn't know; matched to those of this group that
                require grad by position and shape, or by name.

        Raises:
            ValueError: parameters that require grad and that no selection knows.
        """
        given = param_group["params"]
        param_group["params"] = [given] if isinstance(given, Tensor) else list(given)
        named = [entry if isinstance(entry, tuple) else (None, entry) for entry in param_group["params"]]
        added: dict[Tensor, Slot] = {}
        if selection is not None:
            group: dict[str, Any] = {"params": [p for _, p in named]}
            if all(name is not None for name, _ in named):
                group["param_names"] = [name for name, _ in named]
            added = slots_of([group], selection)
            refuse_for_shards(added.values(), self.freeze_untouched, self.stochastic_rounding)
            beyond = max((slot.offset + torch.Size(slot.shape).numel() for slot in self._slots.values()), default=0)
            for slot in added.values():
                slot.offset += beyond
        for _, p in named:
            if p.requires_grad and p not in self._slots and p not in added:
                raise ValueError(
                    f"the selection has no coordinates for a parameter of shape {tuple(p.shape)}: pass one for it, "
                    "add_param_group(group, selection), or make a selection for all parameters and wrap a new optimizer"
                )
        super().add_param_group(param_group)
        self._slots.update(added)
        self._open(p for _, p in named)

    def selected_gradients(self) -> list[tuple[Slot, Tensor, bool]]:
        """Per parameter with a gradient its slot, the gradient, and whether that holds the selected values alone."""
        found = []
        for p, slot, _ in self._selected():
            gradient = selected_gradient(p, slot)
            if gradient is not None:
                found.append((slot, *gradient))
        return found

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the selected coordinates; parameters without a gradient are skipped, as torch does.

        After an error parameters and state are unchanged.

        Args:
            closure: re-evaluates the model and returns the loss.

        Raises:
            TypeError: a sparse gradient, or one of another dtype.
            ValueError: a parameter whose shape, dtype or device changed since it was wrapped; a hyper-parameter or a
                state that the step can't use.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        options = self._rule.checked(self.param_groups)
        groups = zip(self.param_groups, options, strict=True)
        steps = [step for group, checked in groups for step in self._steps_of(group, checked)]
        for step in steps:  # all of them before the first moves anything
            self._rule.check_step(step)
        for step in steps:
            self._take(step)
        return loss

    def _steps_of(self, group: dict[str, Any], options: dict[str, float]) -> Iterator[GroupStep]:
        """The launches of one group: parameters with dense gradients, and those with selected values alone."""
        scaling = Scaling(_tensor(getattr(self, "grad_scale", None)), _tensor(getattr(self, "found_inf", None)))
        seed = self.seed if self.stochastic_rounding else None
        of_kind = {gathered: GroupStep(group, options, gathered, scaling, seed) for gathered in (False, True)}
        for p in group["params"]:
            slot = self._slots.get(p)
            if slot is None or slot.k == 0:
                continue
            found = selected_gradient(p, slot)
            if found is not None:
                step = of_kind[found[1]]
                step.params.append(local_part(p))
                step.grads.append(found[0])
                step.slots.append(slot)
                step.owners.append(p)
                step.states.append(self.state.get(p, {}))
        return (step for step in of_kind.values() if step.params)

    def _take(self, step: GroupStep) -> None:
        known = {p: set(self.state[p]) if p in self.state else None for p in step.owners}
        step.states = [self.state[p] for p in step.owners]
        try:
            self._rule.step(step)
        except BaseException:
            for p, keys in known.items():
                if keys is None:
                    del self.state[p]
                else:
                    for key in set(self.state[p]) - keys:
                        del self.state[p][key]
            raise

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with states of k values, and the fingerprint of the selection they belong to.

        ``torch.load(..., weights_only=True)`` reads it back.
        """
        state_dict = super().state_dict()
        state_dict[_SELECTION_KEY] = self._fingerprint()
        return state_dict

    def _fingerprint(self) -> str:
        return fingerprint(slot for _, slot, _ in self._selected())

    @torch.compiler.disable
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` gave, or the state of a dense torch optimizer, whose selected part is gathered.

        States come onto the parameters' device in the dtype that the step uses, whatever the parameters' dtype. The
        param groups stay the same dicts and take the saved hyper-parameters over.

        Raises:
            ValueError: a state of another selection, optimizer or model, or one that a step can't use; nothing is
                changed.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        saved = state_dict["param_groups"]
        matched = matched_groups(self.param_groups, saved)
        check_saved_groups(saved, self._rule)
        saved_for = state_dict.get(_SELECTION_KEY)
        if saved_for is not None and saved_for != self._fingerprint():
            raise ValueError("the state was saved for another selection: its coordinates are not this optimizer's")
        options = {id(group): {**group, **other} for group, other in zip(self.param_groups, saved, strict=True)}
        self._rule.checked(list(options.values()))
        state: defaultdict[Tensor, Any] = defaultdict(dict)
        for number, p, group in matched:
            entry = state_dict["state"].get(number)
            slot = self._slots.get(p)
            if entry and slot is not None and slot.k > 0:
                slot.check(p)
                device = step_device(options[id(group)], p)
                state[p] = selected_state(entry, slot, self._rule, device, slot.label)
        update_groups(self.param_groups, saved, self._rule)
        self.state = state
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _KEPT}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._frozen = list(self._frozen)  # a shallow copy's own
        self._hold()
        if self.free_grads and not self._closed:  # a copy frees the gradients of its own parameters
            own = {p for group in self.param_groups for p in group["params"]}
            self._handles += hook_gradients(self, {p: slot for p, slot in self._slots.items() if p in own})


def _release(handles: list[RemovableHandle], frozen: list[Tensor]) -> None:
    for handle in handles:
        handle.remove()
    for p in frozen:
        p.requires_grad_(True)
    handles.clear()
    frozen.clear()


def _tensor(value: object) -> Tensor | None:
    return value if isinstance(value, Tensor) else None
