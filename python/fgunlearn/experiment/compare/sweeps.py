"""What is varied beside the methods: K, the share of Top-K in Random-TopK, the score, and what is ranked together."""

from __future__ import annotations

from fgunlearn.experiment.compare.entries import Entry

RATIOS = (0.01, 0.03, 0.1, 0.3, 0.5, 0.9)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

SWEEPS: list[Entry] = [
    *(Entry("topk", (("ratio", ratio),)) for ratio in RATIOS),
    *(Entry("random_topk", (("top_share", share),)) for share in SHARES),
    Entry("topk", (("score", "grad"),)),
    Entry("topk", (("scope", "channel"),)),
]
"""K and the share as DESIGN names them; the plain score against the one that sets D_u off from D_r; whole channels."""
