"""A multilayer perceptron on vectors: forget a random tenth of the patients.

The data is scikit-learn's breast cancer data, 569 patients with 30 measurements each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import TensorDataset

import fgunlearn as fg
from architectures import mlp
from comparison import Comparison, arguments, batches, compare, train
from fgunlearn.batches import cross_entropy


def main(given: Sequence[str] | None = None) -> Comparison:
    """Runs the example for a command line."""
    args = arguments("An MLP on scikit-learn's breast cancer data.", 30, given)
    torch.manual_seed(args.seed)
    patients = load_breast_cancer()
    x = torch.tensor(patients.data, dtype=torch.float32)
    y = torch.tensor(patients.target, dtype=torch.int64)
    shuffled = torch.randperm(len(y))
    test, training = shuffled[:170], shuffled[170:]
    x = (x - x[training].mean(0)) / x[training].std(0)
    forget, retain = training[:40], training[40:]

    def data(chosen: torch.Tensor) -> TensorDataset:
        return TensorDataset(x[chosen], y[chosen])

    def make_model() -> nn.Module:
        return mlp(x.shape[1], 2)

    source, _ = train(
        make_model, batches(data(training), seed=args.seed), cross_entropy, epochs=args.epochs, lr=1e-2, seed=args.seed
    )
    retrained, seconds = train(
        make_model,
        batches(data(retain), seed=args.seed),
        cross_entropy,
        epochs=args.epochs,
        lr=1e-2,
        seed=args.seed + 500,
    )
    result = fg.unlearn(
        copy.deepcopy(source),
        batches(data(forget)),
        batches(data(retain), seed=args.seed),
        strategy=fg.TopK(0.5, score="fisher_ratio"),
        perturb=fg.Gaussian(1.0, seed=args.seed),
        repair=fg.Repair(epochs=3, lr=0.03),
    )
    return compare(
        source,
        retrained,
        result,
        seconds,
        forget=batches(data(forget)),
        retain=batches(data(retain)),
        test=batches(data(test)),
    )


if __name__ == "__main__":
    main()
