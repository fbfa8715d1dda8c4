"""What a model still knows of documents: perplexity, verbatim completion, and a membership attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fgunlearn as fg
from causal_lm import token_losses
from fgunlearn.arguments import check_count, check_number
from fgunlearn.batches import evaluation_mode
from tokens import Batches, Sequences

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Parts:
    """The documents in parts, as sequences.

    Half of the held-out ones are measured on and half tell the repair what a document never seen looks like: an attack
    that told the forgotten from the very ones they were made like would always fail. Both are None without any.
    """

    forget: Sequences
    retain: Sequences
    held_out: Sequences | None
    reference: Sequences | None


@dataclass(frozen=True)
class Look:
    """How to measure.

    Attributes:
        batch: sequences that go through the model at a time.
        prefix: tokens of a document that are given for its completion.
        completion: tokens that are asked for at most.
        share: of the tokens of a document, for Min-K% Prob.
    """

    batch: int = 16
    prefix: int = 12
    completion: int = 64
    share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("batch", "prefix", "completion"):
            check_count(getattr(self, name), name)
        check_number(self.share, "share", low=0.0, high=1.0, above=True)


@torch.no_grad()
def log_probs(model: Any, sequences: Sequences, batch: int) -> list[Tensor]:
    """Per document the log probabilities of its tokens, given those before, float64 (tokens,) on the CPU.

    Every process of a sharded model has to call this, with the same documents.
    """
    parts: list[list[Tensor]] = [[] for _ in range(max(sequences.document) + 1)]
    at = 0
    with evaluation_mode(model):
        for each in Batches(sequences, batch):
            losses, predicted = token_losses(model, each)
            for row, where in zip(losses.double().cpu(), predicted.cpu(), strict=True):
                parts[sequences.document[at]].append(-row[where])
                at += 1
    return [torch.cat(part) for part in parts]


def level_of(model: Any, sequences: Sequences, batch: int) -> Tensor:
    """-log p of all tokens of these documents, ascending, float64 (tokens,)."""
    return (-torch.cat(log_probs(model, sequences, batch))).sort().values


def perplexity(found: Sequence[Tensor]) -> float:
    """exp of the mean of -log p over all tokens, in [1, inf); inf where that is beyond all numbers."""
    loss = -float(torch.cat(list(found)).mean())
    return math.exp(loss) if loss < 700.0 else math.inf


@torch.no_grad()
def verbatim(model: Any, sequences: Sequences, look: Look) -> tuple[float | None, float | None]:
    """Shares, in [0, 1], of what greedy completion gives back of documents whose first ``prefix`` tokens are given.

    Of each document ``completion`` tokens at most are asked for. The first share is of tokens, those before the first
    wrong one; the second of documents, those without a wrong one. None where all documents are too short.
    """
    first = dict(reversed(list(zip(sequences.document, sequences.ids, strict=True))))  # its first sequence
    texts = [ids for ids in first.values() if len(ids) > look.prefix]
    if not texts:
        return None, None
    device = next(model.parameters()).device
    right = asked = whole = 0
    with evaluation_mode(model):
        for at in range(0, len(texts), look.batch):
            some = texts[at : at + look.batch]
            rest = [ids[look.prefix : look.prefix + look.completion] for ids in some]
            given = torch.stack([ids[: look.prefix] for ids in some]).to(device)
            made = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(map(len, rest)),
                pad_token_id=sequences.padding,
            )[:, look.prefix :].cpu()
            for said, wanted in zip(made, rest, strict=True):
                said = torch.nn.functional.pad(said, (0, max(0, len(wanted) - len(said))), value=-1)
                same = int((said[: len(wanted)] == wanted).long().cumprod(0).sum())
                right, asked, whole = right + same, asked + len(wanted), whole + int(same == len(wanted))
    return right / asked, whole / len(texts)


def measure(model: Any, parts: Parts, look: Look) -> Figures:
    """All figures of one model; those that need held-out documents are None without them.

    ``min_k_auc`` is the area under the ROC curve by which Min-K% Prob tells documents to forget from held-out ones:
    0.5 where it can't, 1 where all were memorised; ``min_k_low`` and ``min_k_high`` are its 95% bootstrap interval.
    """
    forget = log_probs(model, parts.forget, look.batch)
    found: Figures = {
        "forget_perplexity": perplexity(forget),
        "retain_perplexity": perplexity(log_probs(model, parts.retain, look.batch)),
    }
    for name, sequences in (("forget", parts.forget), ("retain", parts.retain)):
        found[f"{name}_verbatim_tokens"], found[f"{name}_verbatim_documents"] = verbatim(model, sequences, look)
    found.update(dict.fromkeys(("held_out_perplexity", "min_k_auc", "min_k_low", "min_k_high")))
    if parts.held_out is not None:
        others = log_probs(model, parts.held_out, look.batch)
        found["held_out_perplexity"] = perplexity(others)
        attack = fg.metrics.attack_of(
            "min_k", fg.metrics.min_k_prob(forget, look.share), fg.metrics.min_k_prob(others, look.share)
        )
        found["min_k_auc"], found["min_k_low"], found["min_k_high"] = attack.auc.value, attack.auc.low, attack.auc.high
    return found
