"""Unlearns documents from a causal language model of Hugging Face's transformers; see README.md beside this file."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

import outcome
import removal
from causal_lm import Place, make_model, placed, save
from documents import Document, generated, read, split
from measures import Look, Parts, level_of, measure
from tokens import Batches, Sequences, load_tokenizer


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Unlearn documents from a causal language model.")
    texts = made.add_argument_group("documents")
    texts.add_argument("--documents", type=Path, help="folder of .txt files, or JSONL; without it they are generated")
    texts.add_argument("--held-out", type=Path, help="the same, never trained on; half to measure, half to repair by")
    texts.add_argument("--count", type=_count, default=48, help="of generated documents (default 48)")
    texts.add_argument("--held-out-count", type=_count, default=48, help="of generated held-out ones (default 48)")
    texts.add_argument("--forget", nargs="*", metavar="NAME", help="what to forget; of generated ones by default six")
    model = made.add_argument_group("model")
    model.add_argument("--model", default="llama", help="folder, or a type to make anew with random weights")
    model.add_argument("--tokenizer", help="'bytes', 'bpe:N' or a folder; by default the model's, or bpe:512")
    for name, default in (("width", 64), ("layers", 2), ("heads", 4), ("length", 128)):
        model.add_argument(f"--{name}", type=_count, default=default, help=f"default {default}")
    model.add_argument("--train", action="store_true", help="train the model on all documents first")
    model.add_argument("--retrain", action="store_true", help="and one without those to forget, to compare with")
    model.add_argument("--train-epochs", type=_count, default=100, help="default 100")
    model.add_argument("--train-lr", type=float, default=3e-3, help="default 0.003")
    how = made.add_argument_group("unlearning")
    how.add_argument("--loop", choices=["plain", "trainer"], default="plain", help="of the repair (default plain)")
    for field in fields(removal.Recipe):
        flag = "--" + field.name.replace("_", "-")
        how.add_argument(flag, type=type(field.default), default=field.default, help=f"default {field.default}")
    look = made.add_argument_group("measures")
    for field in fields(Look):
        how_many = "sequences at a time, in training too; " if field.name == "batch" else ""
        look.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            help=f"{how_many}default {field.default}",
        )
    made.add_argument("--seed", type=int, default=0, help="of documents, weights and order (default 0)")
    made.add_argument("--device", choices=["cpu", "cuda"], help="by default cuda where there is one")
    made.add_argument("--save-source", type=Path, metavar="DIR", help="the model before")
    made.add_argument("--save", type=Path, metavar="DIR", help="the unlearned model")
    made.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    return made


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


_count.__name__ = "int"  # argparse shows it where text is no number


def run(args: argparse.Namespace, place: Place) -> dict[str, Any]:
    """Does it all; the figures by model."""
    recipe = removal.Recipe(**{field.name: getattr(args, field.name) for field in fields(removal.Recipe)})
    look = Look(**{field.name: getattr(args, field.name) for field in fields(Look)})
    documents, held_out = _documents(args)
    if len(held_out) == 1:
        raise ValueError("held-out documents must be two or more, one to measure on and one to repair by, got 1")
    forget, retain = split(documents, _names(args, documents))
    from_folder = Path(args.model).is_dir()
    if not (from_folder or args.train):
        raise ValueError(f"model {args.model!r} has random weights and knows no document: give --train, or a folder")
    if args.retrain and not args.train:
        raise ValueError("--retrain trains as --train does, but without the documents to forget: give both")
    if args.loop == "trainer" and place.world > 1:
        raise ValueError(
            f"--loop trainer is for one process, got {place.world}; the plain loop shards the model itself"
        )
    tokenizer = load_tokenizer(args.tokenizer or (args.model if from_folder else "bpe:512"), documents)
    parts = Parts(
        Sequences.of(forget, tokenizer, args.length),
        Sequences.of(retain, tokenizer, args.length),
        *(Sequences.of(half, tokenizer, args.length) if half else None for half in (held_out[1::2], held_out[::2])),
    )
    shape = {
        "hidden_size": args.width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "max_position_embeddings": args.length,
    }

    def new_model() -> Any:
        return placed(make_model(args.model, len(tokenizer), shape, seed=args.seed), place)

    def batches(sequences: Sequences, seed: int | None = None) -> Batches:
        return Batches(sequences, look.batch, rank=place.rank, world=place.world, seed=seed)

    figures: dict[str, Any] = {}
    phases: outcome.Phases = {}
    model = new_model()
    if args.train:
        everything = Sequences.of(documents, tokenizer, args.length)
        with outcome.phase(phases, "train", place.device):
            removal.train(model, batches(everything, args.seed), epochs=args.train_epochs, lr=args.train_lr)
    if args.save_source:
        save(model, tokenizer, args.save_source, place)
    figures["source"] = measure(model, parts, look)
    with outcome.phase(phases, "select", place.device):
        selection = removal.select(model, batches(parts.forget), batches(parts.retain), recipe, place)
    with outcome.phase(phases, "perturb", place.device):
        removal.perturb(model, selection, recipe)
    shuffled = batches(parts.retain, args.seed + 1)
    level = None if parts.reference is None else partial(level_of, sequences=parts.reference, batch=look.batch)
    loss_fn = removal.RepairLoss(batches(parts.forget), level, recipe.forget_weight, every=len(shuffled))
    with outcome.phase(phases, "repair", place.device):
        if args.loop == "trainer":
            from trainer_loop import repair_by_trainer

            repair_by_trainer(model, selection, shuffled, loss_fn, recipe, place.device.type == "cpu")
        else:
            removal.repair(model, selection, shuffled, loss_fn, recipe)
    figures["unlearned"] = measure(model, parts, look)
    if args.save:
        save(model, tokenizer, args.save, place)
    if args.retrain:
        reference = new_model()
        with outcome.phase(phases, "retrain", place.device):
            removal.train(reference, batches(parts.retain, args.seed + 2), epochs=args.train_epochs, lr=args.train_lr)
        figures["retrained"] = measure(reference, parts, look)
    about = {
        "selected": selection.k,
        "parameters": selection.numel,
        "processes": place.world,
        "device": place.device.type,
        "loop": args.loop,
        "seed": args.seed,
        "forget": len(forget),
        "retain": len(retain),
        "held_out": len(held_out[1::2]),
    }
    if place.rank == 0:
        outcome.show(figures, phases, about)
        if args.json:
            outcome.write(args.json, figures, phases, about)
    return figures


def _documents(args: argparse.Namespace) -> tuple[list[Document], list[Document]]:
    if args.documents is None:
        if args.held_out is not None:
            raise ValueError(f"--held-out {args.held_out} goes with --documents: generated ones have their own")
        return generated(args.count, args.seed), generated(args.held_out_count, args.seed, args.count)
    return read(args.documents, "--documents"), [] if args.held_out is None else read(args.held_out, "--held-out")


def _names(args: argparse.Namespace, documents: Sequence[Document]) -> list[str]:
    if args.forget is not None:
        return list(args.forget)
    if args.documents is not None:
        raise ValueError("--forget must name the documents to forget")
    return [document.name for document in documents[:6]]


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the example for a command line."""
    line = parser()
    args = line.parse_args(given)
    for package in ["transformers"] + ["accelerate"] * (args.loop == "trainer"):
        if importlib.util.find_spec(package) is None:
            line.error(f"this needs {package}, which is not installed: pip install 'fgunlearn[hf]'")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        place = Place.here(args.device)
        figures = run(args, place)
        if place.world > 1 and place.device.type == "cpu":
            # Time for gloo's threads to let go of the last tensors. One that did so when the interpreter is being torn
            # down would abort the process, and DTensor's caches keep the threads even after the group is destroyed:
            # https://github.com/pytorch/pytorch/pull/179291
            torch.distributed.barrier()
        return figures
    except ValueError as error:
        line.error(str(error))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
