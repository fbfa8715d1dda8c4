"""A small transformer on text: forget the texts whose labels were wrong.

scikit-learn brings no text along, so the corpus is generated. The grammar of a review:

    review    = sentence, then "and" or "but" sentence for up to two more
    sentence  = "the" subject ("was" | "was not") opinion
    subject   = one of 12 nouns
    opinion   = one of 8 good or 8 bad adjectives; "not" turns it round

After "and" the sentiment stays as it was, after "but" it turns. The label is the sentiment of the last sentence: so
word counts are not enough, and negation and conjunctions must be read. One label in ten of the training texts is
wrong: those are what is to be forgotten.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from architectures import PADDING, TextTransformer
from comparison import Comparison, arguments, batches, compare, train

SUBJECTS = [
    "plot",
    "cast",
    "music",
    "ending",
    "script",
    "camera",
    "humour",
    "pace",
    "villain",
    "hero",
    "costume",
    "set",
]
GOOD = ["great", "lovely", "clever", "moving", "bright", "funny", "warm", "superb"]
BAD = ["awful", "dull", "clumsy", "boring", "bleak", "silly", "cold", "poor"]
WORDS = ["<padding>", "the", "was", "not", "and", "but", *SUBJECTS, *GOOD, *BAD]  # <padding> is number PADDING
LENGTH = 17  # words of the longest review

Text = dict[str, Tensor]


def review(draw: random.Random) -> tuple[list[str], int]:
    """A review, and 1 if its last sentence is good or 0 if it is bad."""
    good = draw.random() < 0.5
    words: list[str] = []
    for sentence in range(draw.randint(1, 3)):
        if sentence > 0:
            turns = draw.random() < 0.5
            words.append("but" if turns else "and")
            good = good != turns
        negated = draw.random() < 0.5
        opinions = GOOD if good != negated else BAD
        words += ["the", draw.choice(SUBJECTS), "was", *(["not"] if negated else []), draw.choice(opinions)]
    return words, int(good)


def corpus(count: int, seed: int) -> list[Text]:
    """Reviews as a tokenizer gives them: input_ids, attention_mask, labels."""
    draw = random.Random(seed)
    number = {word: i for i, word in enumerate(WORDS)}
    texts = []
    for _ in range(count):
        words, label = review(draw)
        ids = torch.full((LENGTH,), PADDING)
        ids[: len(words)] = torch.tensor([number[word] for word in words])
        texts.append({"input_ids": ids, "attention_mask": (ids != PADDING).long(), "labels": torch.tensor(label)})
    return texts


def loss_fn(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean loss of a batch: all that fgunlearn has to know about the batches' form."""
    logits = model(batch["input_ids"], batch["attention_mask"])
    return F.cross_entropy(logits, batch["labels"])


def pairs(texts: Sequence[Text]) -> list[tuple[Tensor, Tensor]]:
    """The ``(x, y)`` samples that the metrics take."""
    return [(text["input_ids"], text["labels"]) for text in texts]


def main(given: Sequence[str] | None = None) -> Comparison:
    """Runs the example for a command line."""
    args = arguments("A transformer on generated text.", 20, given)
    texts = corpus(2000, args.seed)
    training, test = texts[:1500], texts[1500:]
    forget = [{**text, "labels": 1 - text["labels"]} for text in training[:150]]
    retain = training[150:]

    def make_model() -> nn.Module:
        return TextTransformer(len(WORDS), 2, LENGTH)

    source, _ = train(
        make_model, batches(forget + retain, seed=args.seed), loss_fn, epochs=args.epochs, lr=3e-3, seed=args.seed
    )
    retrained, seconds = train(
        make_model, batches(retain, seed=args.seed), loss_fn, epochs=args.epochs, lr=3e-3, seed=args.seed + 500
    )
    result = fg.unlearn(
        copy.deepcopy(source),
        batches(forget),
        batches(retain, seed=args.seed),
        loss_fn=loss_fn,
        strategy=fg.TopK(0.5, score="fisher_ratio"),
        perturb=fg.Shrink(0.5),
        repair=fg.Repair(epochs=3, lr=0.1),
    )
    return compare(
        source,
        retrained,
        result,
        seconds,
        forget=batches(pairs(forget)),
        retain=batches(pairs(retain)),
        test=batches(pairs(test)),
    )


if __name__ == "__main__":
    main()
