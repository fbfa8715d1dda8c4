"""What ranks do to unlearn a model that FSDP2 shards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fgunlearn as fg
import method_calls
from on_ranks.models import MESHES, batches, fsdp, mlp, same_bits, whole_parameters
from on_ranks.selecting import Product, data, mean_of_products


def split(sizes: tuple[int, ...], rank: int, size: int, seed: int) -> tuple[list[Any], list[Any]]:
    """This rank's part of every batch, and the whole batches."""
    whole = batches(sizes, seed)
    return [(x.chunk(size)[rank], y.chunk(size)[rank]) for x, y in whole], whole


def unlearned(rank: int, size: int) -> None:
    forget, all_forget = split((4 * size,), rank, size, 1)
    retain, all_retain = split((4 * size,) * 3, rank, size, 2)
    for repair in (
        fg.Repair(epochs=2, lr=0.1),
        fg.Repair(epochs=1, lr=0.1, forget="ascent", weight=0.1, stop=False),
        fg.Repair(epochs=1, lr=0.1, update="all"),
    ):
        how: dict[str, Any] = {"strategy": fg.RandomK(0.3, seed=2), "perturb": fg.Gaussian(0.2), "repair": repair}
        alone = mlp()
        expected = fg.unlearn(alone, all_forget, all_retain, **how)
        for shape in MESHES[size]:
            model = fsdp(mlp(), shape)
            result = fg.unlearn(model, forget, retain, **how)
            assert result.selection == expected.selection
            assert result.record.steps == expected.record.steps
            if repair.forget == "none":  # the forget term draws other samples on every rank
                assert result.changed == expected.changed
                for ours, theirs in zip(result.record.history, expected.record.history, strict=True):
                    assert ours["retain_loss"] == pytest.approx(theirs["retain_loss"], rel=1e-4)
                for name, value in whole_parameters(alone).items():
                    torch.testing.assert_close(whole_parameters(model)[name], value, rtol=1e-3, atol=1e-5)
            if repair.update == "selection":
                was = whole_parameters(mlp())
                assert result.selection is not None
                masks = expected.selection.masks()  # type: ignore[union-attr]
                for (name, value), mask in zip(whole_parameters(model).items(), masks, strict=True):
                    assert same_bits(value[~mask], was[name][~mask]), name
    model = fsdp(mlp(), (size,))
    result = fg.unlearn(model, forget, retain, strategy=fg.TopK(0.2), perturb=fg.Ascent(0.1))
    assert 0 < sum(result.changed.values()) <= result.selection.k  # type: ignore[union-attr]
    model = fsdp(mlp(), (size,))
    dense = fg.select(model, forget, None, fg.TopK(0.2, score="fisher_ratio"), retain_loader=retain[:1])
    how = {"strategy": fg.TopK(0.2, score="fisher_ratio"), "memory": "streaming", "memory_budget": 200}
    result = fg.unlearn(model, forget, retain, perturb=fg.Zero(), **how)
    assert result.selection == dense
    assert 0 < sum(result.changed.values()) <= dense.k


def ascent(rank: int, size: int) -> None:
    from torch.distributed.fsdp import fully_shard

    from on_ranks.models import mesh_of

    parts = [data(4, r) for r in range(size)]
    joined = [tuple(torch.cat(part) for part in zip(*parts, strict=True))]
    alone, model = Product(), Product()
    selection = fg.select(alone, joined, mean_of_products, fg.TopK(0.5))
    fully_shard(model, mesh=mesh_of((size,)))
    for one, given in ((alone, joined), (model, [parts[rank]])):
        fg.perturb_(one, selection, fg.Ascent(0.5), loader=given, loss_fn=mean_of_products)
    expected = whole_parameters(alone)
    assert all(same_bits(value, expected[name]) for name, value in whole_parameters(model).items())


def failures(rank: int, size: int) -> list[str]:
    """Errors that every rank sees; the model is as it was."""
    forget, _ = split((4 * size,), rank, size, 1)
    retain, _ = split((4 * size,) * 2, rank, size, 2)
    model = fsdp(mlp(), (size,))
    before = whole_parameters(model)
    said = []
    strategy = fg.TopK(0.3)
    odd = rank == size - 1
    calls: list[dict[str, Any]] = [
        {"forget_loader": [] if odd else forget},
        {"retain_loader": retain[:1] if odd else retain},
        {"repair": fg.Repair(lr=0.2 if odd else 0.1)},
        {"repair": fg.Repair(forget="unlikelihood")},
        {"repair": fg.Repair(forget="neighbour", guided=False)},
        {"repair": fg.Repair(forget="heldout", stop=False), "heldout_loader": retain},
        {"repair": fg.Repair(forget="ascent"), "heldout_loader": retain},
        {"memory": "streaming" if odd else "dense"},
        {"repair": fg.Repair(epochs=3, lr=1e30, batch_norm="eval")},
        {"checkpoint": fg.Checkpoint("run")},
    ]
    for call in calls:
        given = {"forget_loader": forget, "retain_loader": retain, "strategy": strategy, **call}
        with pytest.raises(ValueError, match=r".+") as caught:
            fg.unlearn(model, **given)
        said.append(str(caught.value))
        for name, value in whole_parameters(model).items():
            assert same_bits(value, before[name]), (call, name)
    unlabelled = [(x, y.float() if odd else y) for x, y in forget]
    repair = fg.Repair(forget="unlikelihood", guided=False)
    with pytest.raises((ValueError, RuntimeError, TypeError)) as caught:
        fg.unlearn(model, unlabelled, retain, strategy=fg.RandomK(0.3), repair=repair)
    said.append(str(caught.value).split("Error: ")[-1])
    for name, value in whole_parameters(model).items():
        assert same_bits(value, before[name]), name
    return said


def methods(rank: int, size: int) -> dict[str, str]:
    """What every method says to a sharded model; it is as it was where the method refuses it."""
    forget, _ = split((4 * size,), rank, size, 1)
    retain, _ = split((4 * size,) * 2, rank, size, 2)
    said = {}
    for name in fg.methods.list():
        model = fsdp(mlp(), (size,))
        before = whole_parameters(model)
        try:
            method_calls.call(name, model, forget, retain)
        except ValueError as error:
            said[name] = str(error)
            assert all(same_bits(value, before[key]) for key, value in whole_parameters(model).items()), name
    return said


def broken_loss(rank: int, size: int) -> str:
    """The last rank's loss fails in the middle of the repair; this process's part of the model is as it was."""
    forget, _ = split((4 * size,), rank, size, 1)
    retain, _ = split((4 * size,) * 3, rank, size, 2)
    model = fsdp(mlp(), (size,))
    parts = [parameter.to_local().detach().clone() for parameter in model.parameters()]
    calls = 0

    def loss_fn(model: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 and rank == size - 1:
            raise OSError("the disk is gone")
        x, y = batch
        return torch.nn.functional.cross_entropy(model(x), y)

    repair = fg.Repair(epochs=2, lr=0.1)
    with pytest.raises((OSError, RuntimeError)) as caught:
        fg.unlearn(model, forget, retain, loss_fn=loss_fn, strategy=fg.TopK(0.5), perturb=fg.Zero(), repair=repair)
    assert calls == 3
    for parameter, part in zip(model.parameters(), parts, strict=True):
        assert same_bits(parameter.to_local().detach(), part)
    return str(caught.value)
