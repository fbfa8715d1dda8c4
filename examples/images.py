"""Image classifiers: forget a digit, or a random tenth of the images, by the same call for every architecture.

The data is scikit-learn's handwritten digits, 1,797 images of 8x8.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import fgunlearn as fg
from architectures import IMAGE_MODELS, cross_entropy_with_auxiliary, image_model, torchvision_model
from comparison import Comparison, arguments, batches, compare, train

FORGOTTEN = 3  # the digit
TRAINING = {"vit": 2e-3}  # learning rates; 5e-3 where none is given
# Without batch norm steps must be smaller, and more of them.
REPAIR = {"vit": fg.Repair(epochs=3, lr=0.1)}
USUAL_REPAIR = fg.Repair(epochs=2, lr=0.2, momentum=0.8, warmup=0.15)


def main(given: Sequence[str] | None = None) -> Comparison:
    """Runs the example for a command line."""
    args = arguments(
        "Image classifiers.",
        15,
        given,
        model=list(IMAGE_MODELS),
        forget=["class", "random"],
        library=["small", "torchvision"],  # torchvision's models of the same kinds: larger, and slow without a GPU
    )
    torch.manual_seed(args.seed)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8.0 - 1.0
    y = torch.tensor(digits.target, dtype=torch.int64)
    shuffled = torch.randperm(len(y))
    test, training = shuffled[:400], shuffled[400:]

    def make_model() -> nn.Module:
        return image_model(args.model) if args.library == "small" else torchvision_model(args.model)[0]

    if args.library == "torchvision":  # in colour, and of the size that its layers need
        size = torchvision_model(args.model)[1]
        x = F.interpolate(x, (size, size), mode="bilinear").expand(-1, 3, -1, -1)

    # D_u and D_r. A model that never saw a digit can't be asked for it: then D_t is of the others, and what membership
    # inference compares D_u with are the test images of the forgotten one.
    others = test
    if args.forget == "class":
        forget, retain = training[y[training] == FORGOTTEN], training[y[training] != FORGOTTEN]
        test, others = test[y[test] != FORGOTTEN], test[y[test] == FORGOTTEN]
    else:
        forget, retain = training[:140], training[140:]

    def data(chosen: torch.Tensor) -> TensorDataset:
        return TensorDataset(x[chosen], y[chosen])

    loss_fn = cross_entropy_with_auxiliary  # cross entropy, but for Inception, which returns two outputs in training
    settings = {"epochs": args.epochs, "lr": TRAINING.get(args.model, 5e-3)}
    source, _ = train(make_model, batches(data(training), seed=args.seed), loss_fn, seed=args.seed, **settings)
    retrained, seconds = train(
        make_model,
        batches(data(retain), seed=args.seed),
        loss_fn,
        seed=args.seed + 500,
        **settings,
    )
    result = fg.unlearn(
        copy.deepcopy(source),
        batches(data(forget)),
        batches(data(retain), seed=args.seed),
        loss_fn=loss_fn,
        strategy=fg.TopK(0.5, score="fisher_ratio"),
        perturb=fg.Shrink(0.5),
        repair=REPAIR.get(args.model, USUAL_REPAIR),
    )
    return compare(
        source,
        retrained,
        result,
        seconds,
        forget=batches(data(forget)),
        retain=batches(data(retain)),
        test=batches(data(test)),
        others=batches(data(others)),
    )


if __name__ == "__main__":
    main()
