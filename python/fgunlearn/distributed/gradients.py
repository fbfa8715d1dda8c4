"""Gradients of sharded parameters: one backward pass that all processes take together, each on its own batch."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, LossFunction, batch_size, checked_loss, with_last
from fgunlearn.distributed.agreement import raise_together
from fgunlearn.distributed.layout import local_part
from fgunlearn.distributed.processes import Processes
from fgunlearn.progress import track
from fgunlearn.selection.arriving import Receive, in_order_on
from fgunlearn.selection.readings import Step


def sharded_steps(
    model: nn.Module, loader: Loader, what: str, argument: str, progress: bool, processes: Processes
) -> Iterator[Step]:
    """One batch on every process, which together are what one batch is to a single process.

    A process whose loader ends before the others' takes part with its last batch, at weight 0; the other weights make
    the mean over processes that the backward pass takes one over samples.

    Args:
        model: is looked at before the first batch, see :func:`refuse_unreduced`.
        loader: this process's batches.
        what: shown beside the progress bar.
        argument: the loader's name in errors.
        progress: show a bar on rank 0's terminal.
        processes: all of which call this.

    Raises:
        ValueError: a loader without samples: every process has to take part in every backward pass; a model that does
            not reduce its gradients.
        RuntimeError: another process's loader failed.
    """
    ours = track(loader, what, progress and processes.rank == 0)
    batches = with_last(_with_samples(ours))
    batch: Any = None
    size, ended = 0, False
    first = True
    while True:
        error: Exception | None = None
        try:
            if first:
                refuse_unreduced(model)
            if not ended:
                (batch, size), ended = next(batches, ((None, 0), True))
            else:
                size = 0
        except Exception as raised:
            error = raised
        state = processes.gather(torch.tensor([size, ended, error is not None]))
        if bool(state[:, 2].any()):
            raise_together(processes, error, f"read {argument}")
        sizes = state[:, 0].tolist()
        if first and 0 in sizes:
            raise ValueError(
                f"{argument} is empty on rank {sizes.index(0)}: with sharded parameters every process takes part in "
                "every backward pass, so each needs a batch"
            )
        total = sum(sizes)
        if total == 0:
            return
        first = False
        yield Step(batch, total, size * len(sizes) / total)
        if bool(state[:, 1].all()):
            return


def _with_samples(loader: Loader) -> Iterator[tuple[Any, int]]:
    return ((batch, size) for batch, size in ((batch, batch_size(batch)) for batch in loader) if size > 0)


def sharded_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], step: Step, loss_fn: LossFunction
) -> list[Tensor | None]:
    """This process's parts of the gradient of the mean loss of a step's samples; None where the loss does not reach.

    ``.grad`` is afterwards as before, and hooks that wait for it to be accumulated (an optimizer's) don't run. A pass
    that fails, or is interrupted, leaves the model ready for another, where torch has ``FSDPModule.reset_iter_state``;
    with an earlier torch :func:`refuse_unreduced` refuses the model from then on.

    Args:
        model: see :func:`fgunlearn.score`.
        parameters: its trainable ones, DTensors.
        step: one of :func:`sharded_steps`; all processes are at the same one.
        loss_fn: see :func:`fgunlearn.score`.

    Raises:
        ValueError: an FSDP2 module that kept a part of its gradients to itself; it is named.
    """
    with _own_gradients(parameters.values(), None):
        _backward(model, step, loss_fn)
        return [_part(parameter) for parameter in parameters.values()]


def arriving_parts(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], step: Step, loss_fn: LossFunction, receive: Receive
) -> None:
    """The same one at a time: ``receive(t, part)`` the moment the gradient is reduced, which is freed then.

    FSDP2 reduces the gradients of a module at once, so that all of these exist together, this process's parts of them.
    Processes receive in one order, that in which the backward pass, which they take together, comes to the parameters.

    Args:
        receive: called with the parameter's position, without gradient mode, on the caller's stream; see
            :func:`sharded_gradients` for the rest.

    Raises:
        ValueError: a gradient that comes in several parts, as reentrant checkpoints make them; the parameter is named.
    """
    first = next(iter(parameters.values()))
    stream = torch.cuda.current_stream(first.device) if first.is_cuda else None
    positions = {id(parameter): t for t, parameter in enumerate(parameters.values())}
    names = list(parameters)
    arrived: set[int] = set()

    def hand_over(parameter: Tensor) -> None:
        t = positions[id(parameter)]
        if t in arrived:
            raise ValueError(
                f"the gradient of {names[t]!r} comes in several parts, so that none of them is complete, as where a "
                "parameter is used in several reentrant checkpoints: give torch.utils.checkpoint use_reentrant=False, "
                "or use memory='dense'"
            )
        arrived.add(t)
        with torch.no_grad(), in_order_on(stream):
            part = _part(parameter)
            parameter.grad = None
            if part is not None:
                receive(t, part)

    with _own_gradients(parameters.values(), hand_over):
        _backward(model, step, loss_fn)


def _backward(model: nn.Module, step: Step, loss_fn: LossFunction) -> None:
    # Only backward() reaches sharded parameters: FSDP2 computes with others, gathered, and puts the gradient here.
    try:
        with torch.enable_grad():
            loss = checked_loss(loss_fn(model, step.batch))
            (loss if step.weight == 1.0 else loss * step.weight).backward()
        for label, group in _groups(model):
            if _holds_unreduced(group):
                raise ValueError(
                    f"module {label} did not reduce all of its gradients over the processes in this backward pass, as "
                    "where it is used in several reentrant checkpoints: give torch.utils.checkpoint "
                    "use_reentrant=False"
                )
    except BaseException:
        _break_off(model)
        raise


def _break_off(model: nn.Module) -> None:
    """Makes FSDP2 forget a pass that did not end: it would take the next one for its rest, and add up their gradients.

    There were none before the pass, or :func:`refuse_unreduced` had refused them.
    """
    for module in _sharded_modules(model).values():
        reset = getattr(module, "reset_iter_state", None)  # not every torch has it
        if reset is not None and getattr(module._get_fsdp_state(), "_is_root", False):
            # It waits for other processes, which may be gone: the error that led here says more than this one.
            with contextlib.suppress(Exception):
                reset()
    for _, group in _groups(model):
        for parameter in getattr(group, "fsdp_params", ()):
            if getattr(parameter, "unsharded_accumulated_grad", None) is not None:
                parameter.unsharded_accumulated_grad = None
            gathered = getattr(parameter, "_unsharded_param", None)
            if gathered is not None:
                gathered.grad = None


@contextlib.contextmanager
def _own_gradients(parameters: Iterable[Any], hook: Callable[[Tensor], None] | None) -> Iterator[None]:
    """Parameters without gradients and without hooks that wait for one but this; afterwards all is as it was."""
    kept = [(parameter, parameter.grad, parameter._post_accumulate_grad_hooks) for parameter in parameters]
    # Never None, which changes what Python sees and leaves autograd with the hooks it has; an empty dict replaces them.
    try:
        for parameter, _, _ in kept:
            parameter.grad = None
            parameter._post_accumulate_grad_hooks = OrderedDict()
            if hook is not None:
                parameter.register_post_accumulate_grad_hook(hook)
        yield
    finally:
        for parameter, grad, hooks in kept:
            parameter.grad = grad
            parameter._post_accumulate_grad_hooks = OrderedDict() if hooks is None else hooks


def _part(parameter: Any) -> Tensor | None:
    grad: Any = parameter.grad
    if grad is None:
        return None
    if tuple(grad.placements) != tuple(parameter.placements):
        grad = grad.redistribute(placements=parameter.placements)
    return local_part(grad)


def refuse_unreduced(model: nn.Module) -> None:
    """Refuses FSDP2 modules that keep their gradients to themselves: parameters would get none, or a part of one.

    Raises:
        ValueError: ``set_requires_gradient_sync(False)`` or ``set_requires_all_reduce(False)``, or what a backward pass
            under one of them has left; a backward pass that was broken off; the module is named.
    """
    for label, module in _sharded_modules(model).items():
        context = getattr(module._get_fsdp_state(), "_state_ctx", None)
        if getattr(context, "post_backward_final_callback_queued", False):
            raise ValueError(
                f"module {label} is in a backward pass that was broken off, without an end to which FSDP2 does not "
                "reduce all gradients of the next: call model.reset_iter_state() if torch has it, else shard the model "
                "anew"
            )
    for label, group in _groups(model):
        # torch has no public way to ask; where a later one has other names, nothing is refused.
        replicated = getattr(getattr(group, "mesh_info", None), "replicate_mesh_dim", None) is not None
        reduced = getattr(group, "reduce_grads", True) and (getattr(group, "all_reduce_grads", True) or not replicated)
        if not reduced:
            raise ValueError(
                f"module {label} does not reduce its gradients over the processes: call "
                "model.set_requires_gradient_sync(True) (set_requires_all_reduce(True)) first"
            )
        if _holds_unreduced(group):
            raise ValueError(
                f"module {label} holds gradients that were not reduced over the processes, to which those of this "
                "data would be added: take a backward pass that reduces them, and the optimizer's step or "
                "zero_grad(), first"
            )


def _sharded_modules(model: nn.Module) -> dict[str, Any]:
    """FSDP2's modules, by what errors call them."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if kind is None:
        return {}
    named = model.named_modules()
    return {repr(name) if name else "the root": module for name, module in named if isinstance(module, kind)}


def _groups(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """FSDP2's groups of parameters, each with what errors call its module."""
    for label, module in _sharded_modules(model).items():
        state = module._get_fsdp_state()
        for group in getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]:
            if group is not None:  # a module whose parameters all belong to others has none
                yield label, group


def _holds_unreduced(group: Any) -> bool:
    left = getattr(group, "_partial_reduce_output", None) is not None
    return left or any(map(_unreduced, getattr(group, "fsdp_params", ())))


def _unreduced(parameter: Any) -> bool:
    """Whether one of FSDP2's parameters has a gradient of its own, not of the shards."""
    gathered = getattr(parameter, "_unsharded_param", None)
    added = getattr(parameter, "unsharded_accumulated_grad", None)
    return added is not None or getattr(gathered, "grad", None) is not None
