"""``fgunlearn unlearn``: a user's own model, from safetensors file to safetensors file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

import fgunlearn
from fgunlearn.audit.making import as_data
from fgunlearn.cli.inputs import checkpoint_of, load_data, load_ids, load_model, of_data, remove_checkpoint
from fgunlearn.cli.paths import check_apart, check_folder_of
from fgunlearn.cli.recording import Recording, RecordOptions
from fgunlearn.experiment.data import Batches
from fgunlearn.files import replacing
from fgunlearn.methods.selective import FORGET_TERM, HELDOUT, PERTURB_REPAIR, RECIPES, Recipe, recipe_for
from fgunlearn.parameters import trainable
from fgunlearn.patch import create
from fgunlearn.perturb import Gaussian, Perturbation, Reset, Shrink, Zero
from fgunlearn.seeding import seeded
from fgunlearn.selection import RandomK, RandomTopK, Strategy, TopK
from fgunlearn.unlearning import Result, unlearn

_PERTURBATIONS: dict[str, Callable[[float, int], Perturbation | None]] = {
    "none": lambda size, seed: None,
    "gaussian": lambda size, seed: Gaussian(size, seed=seed),
    "shrink": lambda size, seed: Shrink(size),
    "reset": lambda size, seed: Reset(seed),
    "zero": lambda size, seed: Zero(),
}


def unlearn_command(
    model: Annotated[Path, typer.Option(help="The trained weights, a safetensors file (a state_dict).")],
    arch: Annotated[str, typer.Option(help="module:function that makes the model with no arguments.")],
    data: Annotated[Path, typer.Option(help="Training data, a safetensors file: x (samples first) and y (int64).")],
    forget: Annotated[Path, typer.Option(help="Text file with the row numbers to forget, one per line.")],
    out: Annotated[Path, typer.Option(help="Where to write the unlearned weights.")],
    heldout: Annotated[
        Path | None,
        typer.Option(help="Data never trained on, like --data: tells when enough is forgotten, or how far to go."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="topk, randomk or random_topk.")] = "topk",
    score: Annotated[str, typer.Option(help="grad, abs_grad, fisher, saliency or fisher_ratio.")] = "fisher_ratio",
    recipe: Annotated[
        str,
        typer.Option(
            help="What the options below are where they are not given: forget_term, heldout or perturb_repair; auto is "
            "heldout where --heldout shows that the model has memorised its training data, else forget_term."
        ),
    ] = "auto",
    ratio: Annotated[float | None, typer.Option(help="Share of the coordinates that may change.")] = None,
    scope: Annotated[
        str, typer.Option(help="global; tensor: the same share of each; channel: whole channels and heads.")
    ] = "global",
    perturb: Annotated[str | None, typer.Option(help="none, gaussian, shrink, reset or zero.")] = None,
    size: Annotated[
        float | None,
        typer.Option(help="With --perturb: std of gaussian (in rms of the tensor), factor of shrink; 0.5 by default."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes of the repair over the remaining data.")] = None,
    lr: Annotated[float | None, typer.Option(help="Largest learning rate of the repair.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    forget_term: Annotated[
        str | None,
        typer.Option(help="none, ascent, unlikelihood, random_label, neighbour, or heldout (with --heldout)."),
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Weight of the forget term.")] = None,
    neighbour_layer: Annotated[
        str | None,
        typer.Option(
            help="Early module of the model in whose output neighbours are found; by default the first layer, and for "
            "heldout the one whose neighbours tell most."
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="How scores are held: dense, streaming (the same answer in less memory) or compact.")
    ] = "dense",
    memory_budget: Annotated[
        int | None, typer.Option(min=1, help="Bytes that sums of gradients may take with --memory streaming.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the selection, the noise, the order of the data and dropout.")] = 0,
    audit: Annotated[
        Path | None,
        typer.Option(help="Where to write a record of what was done and what it shows, JSON; see fgunlearn audit."),
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(help="Secret for the record's sample hashes, made if it is not there; AUDIT.salt by default."),
    ] = None,
    plain_hashes: Annotated[
        bool, typer.Option("--plain-hashes", help="Hash samples without a salt: who can guess a sample finds it.")
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key, a PEM file, to sign the record with.")] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Data that neither training nor unlearning sees, for the record's figures; --heldout if not given."
        ),
    ] = None,
    retrained: Annotated[
        Path | None,
        typer.Option(help="Weights of --arch trained without the forgotten rows, for the record's relearning check."),
    ] = None,
    gan: Annotated[
        Path | None, typer.Option(help="What fgunlearn spdgan train wrote, for the record's unlearning degree.")
    ] = None,
    relearn_steps: Annotated[
        int, typer.Option(min=0, help="At most this many steps in the record's relearning check; 0 for none.")
    ] = 200,
    save_selection: Annotated[
        Path | None, typer.Option(help="Where to write the selected coordinates, a safetensors file.")
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option(help="Where to write the forget patch that makes --out of --model; see fgunlearn patch."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Where to keep the state of the repair: after a kill the same command goes on from it."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two writes of --checkpoint; 50 by default.")
    ] = None,
) -> None:
    """Forget some rows of the training data, in a model of your own.

    The function of --arch is imported with the current folder on the path. The result is written at once: after an
    error or Ctrl-C, --out is as it was, and so is --audit.

    --checkpoint is removed once all of that is written.
    """
    about = RecordOptions(
        audit=audit,
        salt=salt,
        plain_hashes=plain_hashes,
        sign=sign,
        test=test,
        retrained=retrained,
        gan=gan,
        relearn_steps=relearn_steps,
    )
    about.check()
    check_folder_of(save_selection, "--save-selection")
    read = {"--model": model, "--data": data, "--forget": forget, "--heldout": heldout, "--test": test}
    kept = {**read, "--retrained": retrained, "--gan": gan, "--sign": sign, "--salt": salt, "--out": out}
    check_apart(save_selection, "--save-selection", kept)
    check_apart(audit, "--audit", {**kept, "--save-selection": save_selection})
    further = {"--save-selection": save_selection, "--audit": audit}
    check_folder_of(patch, "--patch")
    check_apart(patch, "--patch", {**kept, **further})
    further["--patch"] = patch
    resumable = checkpoint_of(checkpoint, checkpoint_every, {**kept, **further})
    network, weights, metadata = load_model(model, "--model", arch)
    trainable(network)
    x, y = load_data(data, "--data")
    ids = load_ids(forget, "--forget", len(y))
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[ids] = False
    if not bool(rest.any()):
        raise ValueError(f"--forget: {forget} names every row of {data}; nothing would remain")
    check_folder_of(out, "--out")
    if perturb is not None and perturb not in _PERTURBATIONS:
        raise ValueError(f"--perturb must be one of {', '.join(_PERTURBATIONS)}, got {perturb!r}")
    if perturb is None and size is not None:
        raise ValueError(f"--size is of a --perturb, and none is given; got {size}")
    if recipe != "auto" and recipe not in RECIPES:
        raise ValueError(f"--recipe must be auto, {', '.join(RECIPES)}, got {recipe!r}")
    if "heldout" in (recipe, forget_term) and heldout is None:
        option = "--recipe" if recipe == "heldout" else "--forget-term"
        raise ValueError(f"{option} heldout needs --heldout, data never trained on")
    unseen = None if heldout is None else load_data(heldout, "--heldout")
    held = None if unseen is None else Batches(*unseen, batch)
    remaining = Batches(x[rest], y[rest], batch, seed=seed, drop_last=True)
    named = _recipe(recipe, forget_term)
    chosen = named or recipe_for(network, remaining, held)
    selecting = _strategy(strategy, chosen.ratio if ratio is None else ratio, score, scope, seed)
    perturbation = chosen.perturb if perturb is None else _PERTURBATIONS[perturb](0.5 if size is None else size, seed)
    given = {"epochs": epochs, "lr": lr, "forget": forget_term, "weight": weight, "neighbour_layer": neighbour_layer}
    repair = replace(
        chosen.repair,
        forget_batch=max(1, batch // chosen.forget_part),
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    looked_at = unseen is not None and (named is None or repair.forget != "none")
    recording = None if audit is None else Recording(about, network, model, arch, x, y, ids, rest, (unseen, looked_at))
    with seeded(seed % 2**64):  # dropout, where the model has it
        result = unlearn(
            network,
            Batches(x[ids], y[ids], batch),
            remaining,
            strategy=selecting,
            perturb=perturbation,
            repair=repair,
            heldout_loader=held,
            progress=True,
            memory=memory,  # type: ignore[arg-type]
            memory_budget=memory_budget,
            checkpoint=of_data(resumable, x, y),
        )
    with replacing(out) as temporary:
        _write(network, weights, metadata, temporary)
        if save_selection is not None:
            assert result.selection is not None  # unlearn always selects
            result.selection.save(save_selection)
        if patch is not None:
            parts = {"strategy": selecting, "perturbation": perturbation, "repair": repair}
            told = {name: None if part is None else as_data(part) for name, part in parts.items()}
            versions = {"fgunlearn": fgunlearn.__version__, "torch": torch.__version__}
            more = {"arch": arch, "recipe": chosen.name, "seed": seed, "versions": versions}
            create(model, temporary, patch, metadata={**told, **more})
        if recording is not None:
            how = {"recipe": chosen.name, "batch": batch, "memory": memory, "memory_budget": memory_budget}
            record = recording.write(result, temporary, selecting, perturbation, repair, how, seed)
    remove_checkpoint(resumable)
    _report(result, chosen, len(ids), out)
    if recording is not None:
        Console(highlight=False, soft_wrap=True).print(recording.said(record))


def _recipe(name: str, forget_term: str | None) -> Recipe | None:
    """The recipe that is named, or that goes with the forget term; None to have the model tell."""
    if name != "auto":
        return RECIPES[name]
    if forget_term is None:
        return None
    return {"heldout": HELDOUT, "none": PERTURB_REPAIR}.get(forget_term, FORGET_TERM)


def _strategy(name: str, ratio: float, score: Any, scope: Any, seed: int) -> Strategy:
    if name == "topk":
        return TopK(ratio, score=score, scope=scope)
    if name == "randomk":
        return RandomK(ratio, seed=seed, scope=scope)
    if name == "random_topk":
        return RandomTopK(ratio, score=score, seed=seed, scope=scope)
    raise ValueError(f"--strategy must be topk, randomk or random_topk, got {name!r}")


def _write(network: nn.Module, before: dict[str, Tensor], metadata: dict[str, str] | None, out: Path) -> None:
    state = network.state_dict()
    # The file's own keys and dtypes: a checkpoint that can take the old one's place.
    tensors = {name: state[name].detach().to(value.dtype).contiguous().clone() for name, value in before.items()}
    save_file(tensors, out, metadata=metadata)


def _report(result: Result, recipe: Recipe, forgotten: int, out: Path) -> None:
    console = Console()
    shown = Table("parameter", "elements", "selected", "changed", box=None)
    selection = result.selection
    assert selection is not None  # unlearn always selects
    density = selection.density()
    for (name, count), index, shape in zip(result.changed.items(), selection.indices, selection.shapes, strict=True):
        elements = torch.Size(shape).numel()
        shown.add_row(name, f"{elements:,}", f"{index.numel():,} ({density[name]:.1%})", f"{count:,}")
    console.print(shown)
    if result.buffers:
        console.print(f"statistics that changed: {', '.join(result.buffers)}", highlight=False)
    phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result.seconds.items())
    console.print(f"recipe {recipe.name}: {phases}", highlight=False)
    stopped = " (stopped by the held-out data)" if result.record.stopped_forgetting else ""
    console.print(
        f"{forgotten} samples forgotten in {result.total_seconds:.2f} s: {sum(result.changed.values()):,} of "
        f"{selection.numel:,} coordinates changed; {result.record.forget_steps} of {result.record.steps} steps "
        f"had a forget term{stopped}. Written to {out}.",
        highlight=False,
    )
