"""From documents to batches of tokens, the same for one process and for several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from documents import Document
from fgunlearn.arguments import check_count

IGNORED = -100  # the label of a token that is not predicted: padding, and what stands before a text

START, END, PADDING = "<start>", "<end>", "<padding>"

Batch = dict[str, Tensor]


def load_tokenizer(spec: str, documents: Sequence[Document]) -> Any:
    """A tokenizer of transformers.

    Args:
        spec: "bytes", a token for each byte; "bpe:N", byte pairs merged as the documents ask for up to N tokens; or a
            folder that a tokenizer was saved in.
        documents: what byte pairs are counted in.

    Raises:
        ValueError: a spec of another form; a folder without a tokenizer.
    """
    import transformers

    if spec == "bytes":
        return _trained(256, [])
    if spec.startswith("bpe:"):
        size = spec.removeprefix("bpe:")
        if not size.isdecimal() or int(size) < 256:
            raise ValueError(f"tokenizer must be bpe:N with a whole number N >= 256, got {spec!r}")
        return _trained(int(size), [document.text for document in documents])
    if not Path(spec).is_dir():
        raise ValueError(f"tokenizer must be 'bytes', 'bpe:N' or a folder, got {spec!r}, which is none")
    try:
        return transformers.AutoTokenizer.from_pretrained(spec, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer {spec!r}: {error}") from error


def _trained(size: int, texts: list[str]) -> Any:
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = [START, END, PADDING]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()  # so that there is no unknown text
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size + len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=START, eos_token=END, pad_token=PADDING, clean_up_tokenization_spaces=False
    )


@dataclass(frozen=True)
class Sequences:
    """Token sequences, and for each the number of the document it is from.

    A document longer than the model's context is several sequences. Each begins with the tokenizer's start token, where
    it has one; a document ends with the end token.
    """

    ids: list[Tensor]
    document: list[int]
    padding: int

    @classmethod
    def of(cls, documents: Sequence[Document], tokenizer: Any, length: int) -> Sequences:
        """The documents in sequences of at most ``length`` tokens.

        Raises:
            ValueError: a document of fewer than two tokens, in which there is nothing to predict; a length below two.
        """
        check_count(length, "length", low=2)
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        sequences: list[Tensor] = []
        owners = []
        for number, document in enumerate(documents):
            tokens = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"] + end
            room = length - len(start)
            parts = [start + tokens[at : at + room] for at in range(0, len(tokens), room)]
            parts = [part for part in parts if len(part) > 1]
            if not parts:
                raise ValueError(f"document {document.name!r} has {len(tokens)} tokens: too few to predict one")
            sequences += [torch.tensor(part) for part in parts]
            owners += [number] * len(parts)
        padding = tokenizer.pad_token_id
        return cls(sequences, owners, tokenizer.eos_token_id or 0 if padding is None else padding)

    def __len__(self) -> int:
        return len(self.ids)


class Batches:
    """Batches of ``size`` sequences for all processes together, of which this one gets its part.

    A batch has input_ids, attention_mask and labels, (sequences, tokens); and as plain numbers "tokens" and
    "sequences", how many the *whole* batch predicts and holds, divided by the number of processes. A sum over this
    process's part divided by such a number has as its mean over processes the mean over the whole batch, which is what
    data parallel training makes of gradients: so one process and several compute the same. "share" is this part's
    number of sequences over the processes' mean, 1 for one process.

    Args:
        sequences: all of them, the same on every process.
        size: of a whole batch; the last one of a pass may be smaller.
        rank: of this process.
        world: number of processes.
        seed: of the order, another one for each pass; None for the order given, as what is read several times needs.
    """

    def __init__(self, sequences: Sequences, size: int, *, rank: int = 0, world: int = 1, seed: int | None = None):
        self._sequences, self._size, self._rank, self._world = sequences, size, rank, world
        self._order = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._sequences) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self._sequences)
        order = range(count) if self._order is None else torch.randperm(count, generator=self._order).tolist()
        for at in range(0, count, self._size):
            yield self._batch([self._sequences.ids[i] for i in order[at : at + self._size]])

    def _batch(self, whole: list[Tensor]) -> Batch:
        mine = whole[self._rank :: self._world]
        # Every process has to take part in every pass: one without a sequence gets one that predicts nothing.
        rows = mine or [whole[0]]
        all_rows = sum(max(1, len(whole[rank :: self._world])) for rank in range(self._world))
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self._sequences.padding)
        kept = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        return {
            "input_ids": ids,
            "attention_mask": kept.long(),
            "labels": ids.masked_fill(~kept if mine else torch.ones_like(kept), IGNORED),
            "tokens": torch.tensor(sum(len(row) - 1 for row in whole) / self._world),
            "sequences": torch.tensor(len(whole) / self._world),
            "share": torch.tensor(len(rows) * self._world / all_rows),
        }
