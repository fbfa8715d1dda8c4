"""What ranks do to break, and to survive, the backward pass that they take together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.utils.checkpoint import checkpoint

import fgunlearn as fg
from on_ranks.models import distributed, mesh_of, spread, whole
from on_ranks.selecting import Product, data, mean_of_products, same

MEMORIES: tuple[Any, ...] = ("dense", "streaming", "compact")


def on_all(batch: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, ...]:
    return tuple(distributed(t, mesh_of((size,)), (Replicate(),)) for t in batch)


def whole_loss(model: nn.Module, batch: Any) -> Tensor:
    return whole(mean_of_products(model, batch))


def hooks_of_tensors_by_hand(rank: int, size: int) -> None:
    """DTensors whose hooks autograd itself calls: FSDP2 looks them up in Python."""
    batch = on_all(data(4, 1), size)
    for hooked in (False, True):
        called: list[Tensor] = []

        def free(parameter: Tensor, called: list[Tensor] = called) -> None:
            called.append(parameter)
            parameter.grad = None

        model = spread(Product(), mesh_of((size,)), (Shard(0),))
        expected = fg.select(Product(), [data(4, 1)], mean_of_products, fg.TopK(0.3))
        handles = [p.register_post_accumulate_grad_hook(free) for p in model.parameters() if hooked]
        for memory in MEMORIES:
            found = fg.select(model, [batch], whole_loss, fg.TopK(0.3), memory=memory)
            same(found, expected, (hooked, memory))
            assert not called, (hooked, memory)
            whole_loss(model, batch).backward()
            assert len(called) == len(handles), (hooked, memory)
            assert all((p.grad is None) == hooked for p in model.parameters()), (hooked, memory)
            model.zero_grad()
            called.clear()
        for handle in handles:
            handle.remove()
        whole_loss(model, batch).backward()
        assert not called
        assert all(p.grad is not None for p in model.parameters())


class Breaking(torch.autograd.Function):
    """The identity, whose backward pass raises what it is told to."""

    error: BaseException | None = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        if Breaking.error is not None:
            raise Breaking.error
        return gradient


class Broken(Product):
    """Whose backward pass breaks between its two layers, or before both."""

    early = False

    def forward(self, x: Tensor) -> Tensor:
        between = self.first(x)
        return Breaking.apply(self.second(between)) if self.early else self.second(Breaking.apply(between))  # type: ignore[no-any-return, no-untyped-call]


def broken(size: int, apart: bool) -> Any:
    model = Broken()
    if apart:
        fully_shard(model.second, mesh=mesh_of((size,)))
    fully_shard(model, mesh=mesh_of((size,)))
    return model


def interrupted_passes(rank: int, size: int) -> None:
    """Errors and interrupts in all ranks' backward passes: the next ones are as if there had been none."""
    mine = [data(4, rank)]
    expected = fg.select(broken(size, True), mine, mean_of_products, fg.TopK(0.3))
    for apart in (False, True):
        for memory in MEMORIES:
            model = broken(size, apart)
            for error in (OSError("boom"), KeyboardInterrupt()):
                for model.early in (False, True):
                    Breaking.error = error
                    with pytest.raises(type(error)):
                        fg.select(model, mine, mean_of_products, fg.TopK(0.3), memory=memory)
                    Breaking.error = None
                    assert all(p.grad is None for p in model.parameters())
                    found = fg.select(model, mine, mean_of_products, fg.TopK(0.3), memory=memory)
                    assert found == expected, (apart, memory, error)
                    assert found.threshold == expected.threshold, (apart, memory, error)
            mean_of_products(model, mine[0]).backward()
            assert all(p.grad is not None for p in model.parameters())


def passes_that_stay_broken(rank: int, size: int) -> list[str]:
    """A torch without ``reset_iter_state``, and a pass of the user's own."""
    mine = [data(4, rank)]
    said = []
    for own in (False, True):
        kept = getattr(FSDPModule, "reset_iter_state", None)
        if kept is not None:
            del FSDPModule.reset_iter_state
        try:
            model = broken(size, True)
            Breaking.error = OSError("boom")
            loss = mean_of_products(model, mine[0])
            with pytest.raises(OSError, match="boom"):
                loss.backward() if own else fg.select(model, mine, mean_of_products, fg.TopK(0.3), memory="streaming")
            Breaking.error = None
            for memory in MEMORIES:
                with pytest.raises((ValueError, RuntimeError)) as caught:
                    fg.select(model, mine, mean_of_products, fg.TopK(0.3), memory=memory)
                said.append(str(caught.value))
        finally:
            if kept is not None:
                FSDPModule.reset_iter_state = kept  # type: ignore[method-assign]
    return said


class Twice(Product):
    """Goes twice through its first layer, each time in a checkpoint of its own."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first.weight.data = self.first.weight.data[:4].clone()
        self.first.bias.data = self.first.bias.data[:4].clone()
        self.second.weight.data = self.second.weight.data[:, :4].clone()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(self.first, x, use_reentrant=self.reentrant)
        return self.second(x)


def checkpoints(rank: int, size: int) -> list[str]:
    x, y = data(4, 1)
    expected = fg.select(Twice(False), [(x, y)], mean_of_products, fg.TopK(0.3))
    said = []
    for apart in (True, False):
        for memory in MEMORIES:
            model = Twice(False)
            if apart:
                fully_shard(model.first, mesh=mesh_of((size,)))
            fully_shard(model, mesh=mesh_of((size,)))
            for model.reentrant in (False, True, False):
                loader = [(x.clone().requires_grad_(), y)]
                try:
                    found = fg.select(model, loader, mean_of_products, fg.TopK(0.3), memory=memory)
                except ValueError as error:
                    assert apart
                    assert model.reentrant
                    said.append(str(error))
                else:
                    assert not (apart and model.reentrant)
                    same(found, expected, (apart, memory))
    for memory in MEMORIES:
        hand_made = spread(Twice(True), mesh_of((size,)), (Shard(0),))
        batch_x, batch_y = on_all((x, y), size)
        loader = [(batch_x.requires_grad_(), batch_y)]
        if memory == "dense":
            same(fg.select(hand_made, loader, whole_loss, fg.TopK(0.3)), expected, "by hand")
            continue
        with pytest.raises(ValueError, match="comes in several parts") as caught:
            fg.select(hand_made, loader, whole_loss, fg.TopK(0.3), memory=memory)
        said.append(str(caught.value))
        assert all(p.grad is None for p in hand_made.parameters())
    return said
