"""Min-K% Prob: was a text in a language model's training data? Members have few tokens that surprise the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.arguments import check_number


def min_k_prob(log_probs: Sequence[Tensor], share: float = 0.2) -> Tensor:
    """Per text the mean log probability of its least likely tokens, in (-inf, 0], higher for what looks like a member.

    Of a text of T tokens those are the max(1, floor(share * T)) with the smallest log p(token | tokens before), and
    share = 1 is the mean of them all, by which perplexity ranks as well. A text never trained on holds some tokens that
    the model would not have thought of, and one that it memorised holds none.

    Compare texts to forget with texts never seen: ``metrics.attack_of("min_k", forget, others)`` gives AUC and TPR at
    1% FPR with intervals. Of texts like the never-seen ones a retrained model has an AUC of 0.5.

    Source: Shi et al., "Detecting Pretraining Data from Large Language Models" (arXiv 2310.16789, ICLR 2024), who found
    20% to do best.

    Args:
        log_probs: per text the log probabilities of its tokens in nats, float (tokens,), padding left out.
        share: of the tokens, in (0, 1].

    Returns:
        float64 (texts,), on the CPU.

    Raises:
        TypeError: a share that is no number; a text's log probabilities that are no float tensor.
        ValueError: no text; a text without tokens or not of one dimension; a log probability that is NaN or positive; a
            share out of its range. The text's place is named.
    """
    check_number(share, "share", low=0.0, high=1.0, above=True)
    if isinstance(log_probs, Tensor):
        raise TypeError(
            f"log_probs must be a sequence of one tensor per text, got a tensor of shape {tuple(log_probs.shape)}: "
            "leave its padding out"
        )
    if len(log_probs) == 0:
        raise ValueError("log_probs is empty: there is no text")
    found = []
    for place, given in enumerate(log_probs):
        label = f"log_probs[{place}]"
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise TypeError(f"{label} must be a float tensor, got {getattr(given, 'dtype', type(given).__name__)}")
        if given.dim() != 1 or len(given) == 0:
            raise ValueError(f"{label} must be of shape (tokens,), tokens >= 1, got {tuple(given.shape)}")
        bad = int((~(given <= 0)).sum())  # NaN as well
        if bad:
            raise ValueError(f"{label} holds {bad} values that are no log probabilities: NaN, or above 0")
        # The slack is for products that round to just below a whole number: 0.29 * 100 is 28.999999999999996.
        count = max(1, int(share * len(given) + 1e-9))
        found.append(given.detach().double().cpu().sort().values[:count].mean())
    return torch.stack(found)
