"""What ranks do to select over shards and replicas: the answer must be that of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fgunlearn as fg
from fgunlearn.distributed import ShardedSelection, ranking
from fgunlearn.distributed.processes import processes_of
from on_ranks.models import MESHES, distributed, fsdp, mesh_of, mlp, placements, whole


def key_lists(seed: int = 0) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    spread = [torch.randn(9, 6, generator=generator), torch.randn(5, generator=generator), torch.randn(1, 4)]
    tied = [torch.randint(-3, 4, (9, 6), generator=generator).float(), torch.ones(7, 3), torch.zeros(4)]
    special = [torch.tensor([[float("inf"), -0.0, 1.0], [0.0, -float("inf"), -1.0]]), torch.full((11,), -float("inf"))]
    mixed = [t.to(d) for t, d in zip(tied, (torch.bfloat16, torch.float64, torch.float16), strict=True)]
    return {
        "spread": spread,
        "tied": tied,
        "special": special,
        "mixed": mixed,
        "equal": [torch.full((10, 3), 2.0), torch.full((6,), 2.0)],
        "empty": [torch.zeros(0, 3), torch.ones(4, 2), torch.zeros(2, 0)],
    }


@contextmanager
def without_room() -> Iterator[None]:
    """Nothing may be collected: every digit is counted, and ties are looked for among all places."""
    kept = ranking._ROOM, ranking._ROOM_SHARE
    ranking._ROOM, ranking._ROOM_SHARE = 0, 2**62
    try:
        yield
    finally:
        ranking._ROOM, ranking._ROOM_SHARE = kept


def same(found: fg.Selection, expected: fg.Selection, label: object) -> None:
    assert isinstance(found, ShardedSelection), label
    assert found == expected, label
    assert found.full() == expected, label
    for here, layout, index in zip(found.indices, found.layouts, expected.indices, strict=True):
        # On every process that holds a part, not on the one alone that counts it.
        assert here.long().equal(layout.to_local(index)[1]), label
    assert found.threshold == expected.threshold, label
    assert found.seed == expected.seed, label


def dtensors(rank: int, size: int) -> None:
    for shape in MESHES[size]:
        mesh = mesh_of(shape)
        for places in placements(len(shape)):
            for label, keys in key_lists().items():
                shards = [distributed(t, mesh, places) for t in keys]
                n = sum(t.numel() for t in keys)
                for k, scope in ((0, "global"), (1, "global"), (n // 3, "global"), (n, "global"), (n // 2, "tensor")):
                    expected = fg.topk(keys, k=k, scope=scope)
                    same(fg.topk(shards, k=k, scope=scope), expected, (shape, places, label, k, scope))
                group = torch.distributed.group.WORLD
                with without_room():
                    same(fg.topk(shards, ratio=0.4, group=group), fg.topk(keys, ratio=0.4), (places, label))
            for scope in ("global", "tensor"):
                drawn = fg.randomk(shards, ratio=0.3, seed=5, scope=scope)
                same(drawn, fg.randomk(keys, ratio=0.3, seed=5, scope=scope), (places, scope))


def plain_shards(rank: int, size: int) -> None:
    group = torch.distributed.group.WORLD
    for label, keys in key_lists().items():
        for turn in range(2):
            generator = torch.Generator().manual_seed(turn)
            parts = []
            for tensor in keys:
                cuts = torch.randint(0, len(tensor) + 1, (size - 1,), generator=generator).sort().values.tolist()
                parts.append(tensor.tensor_split(cuts)[rank])
            n = sum(t.numel() for t in keys)
            for k, scope in ((0, "global"), (n // 2, "global"), (n, "global"), (n // 2, "tensor")):
                found = fg.topk(parts, k=k, scope=scope, group=group)
                same(found, fg.topk(keys, k=k, scope=scope), (label, turn, k, scope))
                assert found.shapes == tuple(tuple(t.shape) for t in keys)
                for mask, part in zip(found.masks(), parts, strict=True):
                    assert mask.shape == part.shape
            same(fg.randomk(parts, ratio=0.5, group=group), fg.randomk(keys, ratio=0.5), (label, turn))


class Product(nn.Module):
    """Integer weights, so that gradients are exact in float32, in any order of summation."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3, bias=False)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def mean_of_products(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) * (y / len(y))).sum()


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (count, 4), generator=generator).float()
    return x, 48 * torch.randint(-1, 2, (count, 3), generator=generator).float()


STRATEGIES = [
    fg.TopK(0.3),
    fg.TopK(k=11, score="fisher"),
    fg.TopK(0.3, score="abs_grad", scope="tensor"),
    fg.TopK(0.3, score="saliency"),
    fg.TopK(k=0),
    fg.RandomTopK(0.4, top_share=0.5, seed=3),
    fg.RandomTopK(0.4, top_share=0.3, seed=3, scope="tensor"),
    fg.RandomTopK(0.4, top_share=0.0, seed=4),
    fg.RandomTopK(0.4, top_share=1.0, seed=4),
    fg.RandomK(0.2, seed=9),
    fg.RandomK(0.2, seed=9, scope="tensor"),
]


def sharded_models(rank: int, size: int) -> None:
    from torch.distributed.fsdp import fully_shard

    steps = [[data(4, 10 * step + r) for r in range(size)] for step in range(2)]
    joined = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in steps]
    mine = [step[rank] for step in steps]
    for shape in MESHES[size]:
        mesh = mesh_of(shape)
        sharded = Product()
        fully_shard(sharded.second, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        kept = torch.ones_like(sharded.second.weight)
        sharded.second.weight.grad = kept
        for strategy in STRATEGIES if shape == (size,) else STRATEGIES[::2]:
            expected = fg.select(Product(), joined, mean_of_products, strategy)
            found = fg.select(sharded, mine, mean_of_products, strategy)
            same(found, expected, (shape, strategy))
            assert found.names == expected.names
        with without_room():
            same(
                fg.select(sharded, mine, mean_of_products, fg.TopK(0.5)),
                fg.select(Product(), joined, mean_of_products, fg.TopK(0.5)),
                shape,
            )
        assert sharded.second.weight.grad is kept
        assert sharded.first.weight.grad is None
        assert sharded.training
        scores = fg.score(sharded, mine, mean_of_products, "fisher_ratio", mine)
        alone = fg.score(Product(), joined, mean_of_products, "fisher_ratio", joined)
        for name, score in scores.items():
            torch.testing.assert_close(whole(score), alone[name])
        chosen = fg.select(sharded, mine, mean_of_products, fg.TopK(0.3, score="fisher_ratio"), retain_loader=mine)
        assert chosen.full().indices[0].equal(fg.topk([whole(s) for s in scores.values()], ratio=0.3).indices[0])
        assert fg.topk(list(scores.values()), ratio=0.3).k == chosen.k


def uneven_data(rank: int, size: int) -> None:
    """Ranks with batches of different sizes, and some that end early: still the mean over samples."""
    sizes = [[4, 2, 3], [2, 5], [1, 1, 2, 2], [6]][:size]
    batches = [[data(count, 100 * r + step) for step, count in enumerate(own)] for r, own in enumerate(sizes)]
    model = Product()
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh_of((size,)))
    found = fg.score(model, batches[rank], mean_of_products, "fisher")
    steps = []
    for step in range(max(map(len, batches))):
        parts = [own[step] for own in batches if step < len(own)]
        steps.append(tuple(torch.cat(part) for part in zip(*parts, strict=True)))
    expected = fg.score(Product(), steps, mean_of_products, "fisher")
    for name, score in found.items():
        torch.testing.assert_close(whole(score), expected[name], rtol=1e-4, atol=1e-6)


def replicas(rank: int, size: int) -> None:
    group = torch.distributed.group.WORLD
    parts = [[data(4, 10 * r + step) for step in range(r % 3 + 1)] for r in range(size)]
    if size > 2:
        parts[1] = []  # a rank without anything to forget
    everything = [batch for own in parts for batch in own]
    bare = Product()
    wrapped = DistributedDataParallel(Product())
    chosen = [fg.TopK(0.3, scope="channel"), *STRATEGIES]
    for strategy in chosen:
        expected = fg.select(Product(), everything, mean_of_products, strategy)
        found = fg.select(bare, parts[rank], mean_of_products, strategy, group=group)
        assert type(found) is fg.Selection, strategy
        assert found == expected, strategy
        assert (found.threshold, found.seed, found.names) == (expected.threshold, expected.seed, expected.names)
        inside = fg.select(wrapped, parts[rank], mean_of_products, strategy, group=group)
        assert all(a.equal(b) for a, b in zip(inside.indices, expected.indices, strict=True)), strategy
    strategy = fg.TopK(0.3, score="fisher_ratio")
    expected = fg.select(Product(), everything, mean_of_products, strategy, retain_loader=everything)
    found = fg.select(bare, parts[rank], mean_of_products, strategy, retain_loader=parts[rank], group=group)
    assert found == expected


def sent_bytes(rank: int, size: int) -> dict[str, int]:
    """What one rank sends and receives in collectives, for keys of two sizes."""
    seen = {"bytes": 0}
    kept: dict[str, Callable[..., Any]] = {}

    def counting(name: str) -> Callable[..., Any]:
        def call(first: Any, *others: Any, **named: Any) -> Any:
            tensors = [*(first if isinstance(first, list) else [first]), *(t for t in others if isinstance(t, Tensor))]
            seen["bytes"] += sum(t.numel() * t.element_size() for t in tensors)
            return kept[name](first, *others, **named)

        return call

    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "gather", "all_gather_object"):
        kept[name] = getattr(torch.distributed, name)
        setattr(torch.distributed, name, counting(name))
    counts = {}
    mesh = mesh_of((size,))
    for label, n in (("small", 2**14), ("large", 2**22)):
        generator = torch.Generator().manual_seed(0)
        spread = [torch.randn(n, generator=generator), torch.randn(n // 4, 4, generator=generator)]
        for kind, keys in (("spread", spread), ("equal", [torch.ones(n), torch.ones(n // 4, 4)])):
            shards = [distributed(t, mesh, next(iter(placements(1)))) for t in keys]
            for room in (True, False):
                before = seen["bytes"]
                if room:
                    found = fg.topk(shards, ratio=0.01)
                else:
                    with without_room():
                        found = fg.topk(shards, ratio=0.01)
                counts[f"{label} {kind} {room}"] = seen["bytes"] - before
                assert found == fg.topk(keys, ratio=0.01)
        many = [torch.randn(n // 64, generator=generator) for _ in range(64)]
        before = seen["bytes"]
        fg.topk([distributed(t, mesh, next(iter(placements(1)))) for t in many], ratio=0.1, scope="tensor")
        counts[f"{label} each"] = seen["bytes"] - before
    return counts


def refusals(rank: int, size: int) -> list[str]:
    group = torch.distributed.group.WORLD
    said = []

    def refused(call: Callable[[], Any]) -> None:
        try:
            call()
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("nothing")

    odd = rank == size - 1
    batches = [data(4, rank)]
    one: list[Any] = [torch.ones(3 + rank, 2)]
    model = fsdp(mlp(), (size,))
    bare = Product()
    refused(lambda: fg.select(bare, batches, mean_of_products, fg.TopK(0.2 if odd else 0.1), group=group))
    refused(lambda: fg.select(bare, batches, mean_of_products, fg.RandomK(0.1, seed=int(odd)), group=group))
    refused(lambda: fg.select(mlp() if odd else bare, batches, mean_of_products, fg.TopK(0.1), group=group))
    refused(lambda: fg.select(bare.double() if odd else Product(), batches, None, fg.TopK(0.1), group=group))
    bare = Product()
    refused(lambda: fg.topk(one, k=3 if odd else 2, group=group))
    refused(lambda: fg.randomk(one, k=2, seed=int(odd), group=group))
    refused(lambda: fg.topk(one, k=10**6, group=group))
    refused(lambda: fg.topk([torch.ones(3, 2 + odd)], k=1, group=group))
    refused(lambda: fg.topk([torch.tensor(1.0)], k=1, group=group))
    refused(lambda: fg.topk(one, k=1, scope="channel", group=group))
    refused(lambda: fg.topk([torch.full((3,), float("nan") if odd else 1.0)], k=1, group=group))
    refused(lambda: fg.select(model, [], None, fg.TopK(0.1, scope="channel")))
    refused(lambda: fg.select(model, [] if odd else batches, None, fg.TopK(0.1)))
    refused(lambda: fg.select(bare, [], None, fg.TopK(0.1), group=group))
    refused(lambda: fg.select(bare, broken(odd), mean_of_products, fg.TopK(0.1), group=group))
    refused(lambda: fg.select(model, broken(odd), mean_of_products, fg.TopK(0.1)))
    refused(lambda: fg.topk(one if odd else [*one, torch.ones(2)], k=1, group=group))
    refused(lambda: fg.randomk(one, k=1, group=group) if odd else fg.topk(one, k=1, group=group))
    refused(lambda: fg.topk(one, ratio=-1.0 if odd else 0.1, group=group))
    refused(lambda: fg.select(Product().requires_grad_(not odd), batches, None, fg.TopK(0.1), group=group))
    broken_down = Product()
    with torch.no_grad():
        if odd:
            broken_down.first.weight.fill_(float("inf"))
            bare.first.weight.zero_()
    # The rank whose replica is off has no data, so that the gradients are all right.
    some = [] if odd else batches
    refused(lambda: fg.select(broken_down, some, mean_of_products, fg.TopK(0.3, score="saliency"), group=group))
    refused(lambda: fg.select(bare, batches, mean_of_products, fg.TopK(0.3, score="saliency"), group=group))
    assert fg.topk(one, k=2, group=group).k == 2  # and the group is still in step
    return said


def broken(really: bool) -> Iterator[tuple[Tensor, Tensor]]:
    if really:
        raise OSError("the disk is gone")
    yield data(4, 0)


def death(rank: int, size: int, folder: Path) -> str:
    """Rank 1 dies while the others select and save."""
    tensors = [torch.randn(1000)]
    group = torch.distributed.group.WORLD
    selection = fg.topk(tensors, ratio=0.1, group=group)
    if rank == 1:
        os._exit(3)
    with pytest.raises(RuntimeError) as caught:
        selection.save(folder / "selection.safetensors")
    with pytest.raises(RuntimeError):
        fg.topk(tensors, ratio=0.1, group=group)
    return str(caught.value)


def part_of_the_ranks(rank: int, size: int) -> None:
    """A mesh of two dimensions that the last rank is not in."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh("cpu", torch.arange(size - 1).reshape(2, -1), mesh_dim_names=("replicate", "shard"))
    if rank == size - 1:
        return
    keys = key_lists()["tied"]
    for places in placements(2):
        shards = [distributed(t, mesh, places) for t in keys]
        same(fg.topk(shards, ratio=0.4), fg.topk(keys, ratio=0.4), places)
        processes = processes_of({str(t): shard for t, shard in enumerate(shards)})
        assert processes is not None
        assert len(processes.groups) == 2
        assert processes.rank == rank
        assert processes.gather(torch.tensor([rank])).reshape(-1).tolist() == list(range(size - 1))
        assert processes.gather_texts("x" * rank) == ["x" * r for r in range(size - 1)]
    model = mlp()
    fully_shard(model, mesh=mesh)
    selection = fg.select(model, [], None, fg.RandomK(0.4, seed=1))
    alone = mlp()
    fg.perturb_(alone, fg.perturb_(model, selection, fg.Gaussian(0.5)) and selection.full(), fg.Gaussian(0.5))
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        assert whole(p).detach().equal(q.detach())
