"""The model: loaded or made anew, sharded over processes or not, saved; and its losses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokens import IGNORED, Batch


@dataclass(frozen=True)
class Place:
    """Where this process works, and as which of how many."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls, device: str | None = None) -> Place:
        """One process, or under ``torchrun`` one of several, which then form a group (nccl on GPUs, gloo on CPUs).

        Raises:
            ValueError: "cuda" where torch has none.
        """
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', and torch finds none here")
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(torch.device(kind))
        here = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
        if here.type == "cuda":
            torch.cuda.set_device(here)
        torch.distributed.init_process_group("nccl" if here.type == "cuda" else "gloo")
        return cls(here, torch.distributed.get_rank(), world)


def make_model(spec: str, vocabulary: int, shape: Mapping[str, int], *, seed: int) -> Any:
    """A causal language model of transformers: from a folder, or of a named kind with random weights.

    Args:
        spec: a folder that a model was saved in, or a model type of transformers, "llama" or "gpt2".
        vocabulary: number of tokens; of a model from a folder at most what it has.
        shape: hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings of one made anew.
        seed: of random weights.

    Raises:
        ValueError: a spec that is neither, a kind that is no causal language model or can't be made in this shape, a
            folder whose model has fewer tokens.
    """
    import transformers

    if Path(spec).is_dir():
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(spec, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"model {spec!r}: {error}") from error
        has = model.get_input_embeddings().num_embeddings
        if has < vocabulary:
            raise ValueError(f"model {spec!r} has {has} tokens, and the tokenizer {vocabulary}")
        return model
    kinds = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if spec not in kinds:
        raise ValueError(f"model must be a folder or a model type of transformers such as llama or gpt2, got {spec!r}")
    heads, width = shape["num_attention_heads"], shape["hidden_size"]
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(
        spec, vocab_size=vocabulary, intermediate_size=2 * width, num_key_value_heads=heads, **shape
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def placed(model: Any, place: Place) -> Any:
    """The model on the process's device; of several processes each holds a shard, by FSDP2.

    Layers are sharded one by one before the rest, so that no device ever holds the whole model.
    """
    if place.world == 1:
        return model.to(place.device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.device.type, (place.world,))
    layers = set(model._no_split_modules or ())  # transformers' own list of what belongs on one device
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def save(model: Any, tokenizer: Any, folder: Path, place: Place) -> None:
    """Saves the whole model and its tokenizer in transformers' form, from one process or several."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options) if place.world > 1 else model.state_dict()
    if place.rank == 0:
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Per predicted token -log p in nats, float32 (sequences, tokens - 1), 0 where nothing is predicted; and where."""
    device = next(model.parameters()).device
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    labels = batch["labels"].to(device)[:, 1:]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return losses, labels != IGNORED


def token_mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean of -log p over the predicted tokens of a whole batch, without padding."""
    losses, _ = token_losses(model, batch)
    return losses.sum() / batch["tokens"].to(losses)


def selection_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The same for :func:`fgunlearn.select`, which weighs every process's loss by its number of sequences itself."""
    return token_mean_loss(model, batch) / batch["share"].to(next(model.parameters()).device)


def unseen_distance(model: nn.Module, batch: Batch, level: Tensor) -> Tensor:
    """How far the token losses of the sequences are from those of texts never seen, in nats; the mean over a batch.

    A sequence's losses, sorted, are compared with the quantiles of the others', and their mean absolute difference is
    taken: the Wasserstein-1 distance of the two distributions. Minimised, it makes a text as surprising as one never
    seen, in its mean and in its most and least likely tokens. Plain ascent goes on without bound, and a level for the
    mean alone is reached by a few tokens of absurd losses; both give a text away as one that was forgotten.

    Args:
        model: the model.
        batch: of texts to forget.
        level: losses of the tokens of texts never seen, ascending, float (tokens,).
    """
    losses, predicted = token_losses(model, batch)
    level = level.to(losses)
    total = 0.0 * losses.sum()  # a process whose sequences predict nothing takes part in the backward pass as well
    for row, where in zip(losses, predicted, strict=True):
        own = row[where].sort().values
        if len(own) > 0:
            ranks = (torch.arange(len(own), device=own.device) + 0.5) / len(own)
            total = total + (level[(ranks * len(level)).long()] - own).abs().mean()
    return total / batch["sequences"].to(losses)
