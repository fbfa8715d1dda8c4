"""What a record proves and what it does not, in the record's own words.

All records of a version of the format have the same words, and a check holds them to that: other words are another
version.
"""

from __future__ import annotations

VERIFIABLE = (
    "The record is what it was when its hash was taken. Whoever alters it can take the hash anew, so this shows "
    "accidents; a valid signature shows that the holder of the key signed exactly this.",
    "The base and result checkpoints are, tensor by tensor, those whose hashes stand here, for whoever has the files.",
    "A sample is among those named as forgotten, or is not, for whoever has the sample and, if hashes are salted, the "
    "salt.",
    "The figures are those of these checkpoints on these data, for whoever has both: they can be measured again.",
)

NOT_PROVED = (
    "That the influence of the samples is gone. Unlearning here is approximate; the figures are evidence against the "
    "attacks they stand for, and another attack may find more.",
    "That the base was trained on the samples, or on them alone: no hash of a checkpoint says what it was trained on.",
    "That unlearning is what led from base to result: the same weights can be had in other ways.",
    "That the model that relearning is compared with was trained without the samples.",
    "That the samples are gone from elsewhere: stored data, caches, backups, other models, or the base itself.",
    "That the result is the model in use.",
    "That method, options, seeds, versions, machine, date and times are true, or that unlearning did not look at the "
    "held-out samples: these are the word of whoever wrote the record.",
)


def statement() -> dict[str, list[str]]:
    """The two lists, as the record holds them."""
    return {"verifiable": list(VERIFIABLE), "not_proved": list(NOT_PROVED)}
