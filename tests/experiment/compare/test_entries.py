"""What the words for a method mean, and what they may not say."""

from __future__ import annotations

import inspect

import pytest
import torch

from fgunlearn import methods
from fgunlearn.experiment.compare import entries, options
from fgunlearn.experiment.compare.entries import Entry, parse
from fgunlearn.experiment.compare.sweeps import SWEEPS
from fgunlearn.experiment.data import Samples
from fgunlearn.experiment.training import Training
from fgunlearn.methods.selective import FORGET_TERM, HELDOUT, PERTURB_REPAIR

TRAINING = Training(epochs=7, batch=16)


@pytest.mark.parametrize(
    ("spec", "entry"),
    [
        ("topk", Entry("topk")),
        ("topk:ratio=0.1,score=grad", Entry("topk", (("ratio", 0.1), ("score", "grad")))),
        ("topk:score=grad,ratio=0.1", Entry("topk", (("ratio", 0.1), ("score", "grad")))),
        ("ssd:alpha=5", Entry("ssd", (("alpha", 5),))),
        ("topk:recipe=perturb_repair", Entry("topk", (("recipe", "perturb_repair"),))),
        ("topk:k=None", Entry("topk", (("k", None),))),
    ],
)
def test_words_name_a_method_and_its_options(spec: str, entry: Entry) -> None:
    assert parse(spec) == entry
    assert parse(entry.name) == entry


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("scrup", "did you mean 'scrub'"),
        ("topk:rato=0.1", "topk has no option 'rato'; it has ratio, k"),
        ("topk:ratio", "must be NAME=VALUE, got 'ratio'"),
        ("topk:ratio=", "must be NAME=VALUE, got 'ratio='"),
        ("topk:", "must be NAME=VALUE, got ''"),
        ("topk:ratio=0.1,ratio=0.2", "ratio is given twice"),
        ("topk:seed=3", "has no option 'seed'"),
        ("finetune:recipe=perturb_repair", "has no option 'recipe'"),
        ("topk:recipe=best", "recipe must be one of forget_term, heldout, perturb_repair, got 'best'"),
    ],
)
def test_other_words_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(spec)


def test_every_method_takes_what_it_is_compared_with() -> None:
    for entry in [*entries.all_methods(), *SWEEPS]:
        taken = inspect.signature(methods.get(entry.method)).parameters
        assert set(entry.arguments(TRAINING, 3)) <= set(taken), entry
    assert {entry.method for entry in entries.all_methods()} == set(methods.list())
    assert set(options.DEFAULTS) <= set(methods.list())


def test_what_a_method_is_compared_with_passes_the_check_and_leaves_the_model_alone() -> None:
    training = Training(widths=(8, 8), epochs=1)
    images = Samples(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), torch.zeros(1), torch.ones(1))
    model = training.new_model(images, 3, 0)
    before = [p.detach().clone() for p in model.parameters()]
    for entry in [*entries.all_methods(), *SWEEPS]:
        entry.check(model, training)
    assert all(p.equal(was) for p, was in zip(model.parameters(), before, strict=True))


def test_options_that_are_given_come_before_those_of_the_experiment() -> None:
    for method, defaults in options.DEFAULTS.items():
        for name, value in defaults.items():
            assert Entry(method).arguments(TRAINING, 0)[name] == value
            assert Entry(method, ((name, "other"),)).arguments(TRAINING, 0)[name] == "other"


def test_retraining_is_as_the_reference_was_trained() -> None:
    given = Entry("retrain").arguments(TRAINING, 0)
    assert (given["epochs"], given["lr"], given["warmup"]) == (7, TRAINING.lr, TRAINING.warmup)


def test_the_recipe_of_our_methods_has_the_seed_and_the_ratio_that_is_asked_for() -> None:
    plain = Entry("topk").arguments(TRAINING, 5)
    assert plain["repair"].seed == 5
    assert plain["repair"].forget_batch == 2
    assert plain["ratio"] == FORGET_TERM.ratio
    assert parse("topk:ratio=0.25").arguments(TRAINING, 5)["ratio"] == 0.25
    assert "ratio" not in parse("topk:k=100").arguments(TRAINING, 5)
    matched = parse("topk:recipe=heldout").arguments(TRAINING, 5)
    assert (matched["repair"].forget, matched["repair"].forget_batch, matched["perturb"]) == ("heldout", 8, None)
    assert matched["repair"].neighbour_layer is None
    assert Entry("topk").arguments(TRAINING, 5, HELDOUT)["repair"] == matched["repair"]  # it is open
    assert parse("topk:recipe=forget_term").arguments(TRAINING, 5, HELDOUT)["repair"] == plain["repair"]
    paper = parse("topk:recipe=perturb_repair").arguments(TRAINING, 5)
    assert paper["repair"].forget == "none"
    assert paper["ratio"] == PERTURB_REPAIR.ratio
