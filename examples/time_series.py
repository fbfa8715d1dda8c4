"""A one-dimensional CNN on time series: forget everything that one sensor recorded.

scikit-learn has no time series to classify, so these are generated: sine, square, sawtooth and chirp waves of random
frequency and phase with noise, recorded by ten sensors, each with an echo, a gain and an offset of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import fgunlearn as fg
from architectures import SeriesCNN
from comparison import Comparison, arguments, batches, compare, train
from fgunlearn.batches import cross_entropy

LENGTH = 128
SENSORS = 10


def waves(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Series (count, 1, LENGTH), their kinds, and the sensors that recorded them."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (count,), generator=draw)
    sensor = torch.randint(SENSORS, (count,), generator=draw)
    time = torch.linspace(0.0, 1.0, LENGTH)
    frequency = 3.0 + 5.0 * torch.rand(count, 1, generator=draw)
    cycles = frequency * time + torch.rand(count, 1, generator=draw)
    sine = torch.sin(2.0 * math.pi * cycles)
    chirp = torch.sin(2.0 * math.pi * cycles * (0.5 + time))
    each = torch.stack([sine, sine.sign(), 2.0 * (cycles % 1.0) - 1.0, chirp], 1)
    series = each[torch.arange(count), kind]
    # What a sensor does is its own and does not depend on the seed of the series.
    gain, offset, echo = torch.rand(3, SENSORS, 1, generator=torch.Generator().manual_seed(0))
    series = series + (echo[sensor] - 0.5) * series.roll(5, 1)
    series = (0.5 + gain[sensor]) * series + (offset[sensor] - 0.5)
    return (series + 0.5 * torch.randn(count, LENGTH, generator=draw)).unsqueeze(1), kind, sensor


def main(given: Sequence[str] | None = None) -> Comparison:
    """Runs the example for a command line."""
    args = arguments("A 1-D CNN on generated time series.", 20, given)
    x, y, sensor = waves(2400, args.seed)
    everything = torch.arange(len(y))
    test, training = everything[:600], everything[600:]
    forget, retain = training[sensor[training] == 0], training[sensor[training] != 0]

    def data(chosen: Tensor) -> TensorDataset:
        return TensorDataset(x[chosen], y[chosen])

    def make_model() -> nn.Module:
        return SeriesCNN()

    source, _ = train(
        make_model, batches(data(training), seed=args.seed), cross_entropy, epochs=args.epochs, lr=5e-3, seed=args.seed
    )
    retrained, seconds = train(
        make_model,
        batches(data(retain), seed=args.seed),
        cross_entropy,
        epochs=args.epochs,
        lr=5e-3,
        seed=args.seed + 500,
    )
    result = fg.unlearn(
        copy.deepcopy(source),
        batches(data(forget)),
        batches(data(retain), seed=args.seed),
        strategy=fg.TopK(0.5, score="fisher_ratio"),
        perturb=fg.Shrink(0.5),
        repair=fg.Repair(epochs=3, lr=0.05),
    )
    return compare(
        source,
        retrained,
        result,
        seconds,
        forget=batches(data(forget)),
        retain=batches(data(retain)),
        test=batches(data(test)),
        others=batches(data(test[sensor[test] == 0])),
    )


if __name__ == "__main__":
    main()
