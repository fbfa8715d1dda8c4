"""The example that unlearns documents from a language model, from end to end and in its parts."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import causal_lm  # noqa: E402
import documents as texts  # noqa: E402
import forget_documents  # noqa: E402
import measures  # noqa: E402
from tokens import IGNORED, Batches, Sequences, load_tokenizer  # noqa: E402

EXAMPLE = Path(forget_documents.__file__).parent
SMALL = ["--count", "12", "--held-out-count", "8", "--width", "32", "--layers", "1", "--batch", "6", "--seed", "3"]
SMALL += ["--epochs", "40"]
ASKED = [document.name for document in texts.generated(3, 3)]
FORGET = ["--forget", *ASKED]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model that memorised twelve documents, in a folder; and its first unlearning."""
    folder = tmp_path_factory.mktemp("llm")
    line = [*SMALL, *FORGET, "--train", "--retrain", "--train-epochs", "60", "--train-lr", "0.01"]
    saving = ["--save-source", str(folder / "source"), "--save", str(folder / "unlearned")]
    figures = forget_documents.main([*line, *saving, "--json", str(folder / "plain.json")])
    return SimpleNamespace(folder=folder, source=str(folder / "source"), figures=figures)


def test_documents_are_forgotten_and_the_others_kept(trained: SimpleNamespace) -> None:
    source, unlearned, retrained = (trained.figures[name] for name in ("source", "unlearned", "retrained"))
    assert source["forget_verbatim_tokens"] > 0.9
    assert source["min_k_auc"] == 1.0
    assert retrained["forget_verbatim_tokens"] < 0.3
    assert unlearned["forget_verbatim_tokens"] < 0.3
    assert unlearned["forget_perplexity"] > 2.0 * source["forget_perplexity"]
    assert unlearned["min_k_auc"] < source["min_k_auc"]
    assert unlearned["retain_verbatim_tokens"] > 0.8
    assert unlearned["retain_perplexity"] < 1.5


def test_the_file_holds_the_figures_and_what_each_phase_took(trained: SimpleNamespace) -> None:
    written = json.loads((trained.folder / "plain.json").read_text())
    assert written["models"] == trained.figures
    assert list(written["phases"]) == ["train", "select", "perturb", "repair", "retrain"]
    assert all(cost["seconds"] >= 0.0 and cost["peak_mib"] > 0.0 for cost in written["phases"].values())
    assert (written["forget"], written["retain"], written["held_out"]) == (3, 9, 4)


def test_nothing_moves_but_what_was_selected(trained: SimpleNamespace) -> None:
    was, now = (
        transformers.AutoModelForCausalLM.from_pretrained(trained.folder / name).state_dict()
        for name in ("source", "unlearned")
    )
    written = json.loads((trained.folder / "plain.json").read_text())
    moved = sum(int((value != now[name]).sum()) for name, value in was.items())
    assert 0 < moved <= written["selected"] == round(0.3 * written["parameters"])


def test_the_trainer_computes_what_the_plain_loop_does(trained: SimpleNamespace) -> None:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate, which is not installed")
    if not hasattr(transformers.Trainer, "_clip_grad_norm"):
        pytest.skip("this Trainer clips in place")
    found = forget_documents.main([*SMALL, *FORGET, "--model", trained.source, "--loop", "trainer"])
    assert found == {name: trained.figures[name] for name in ("source", "unlearned")}


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch is built without gloo")
def test_two_processes_compute_what_one_does(trained: SimpleNamespace) -> None:
    folder = trained.folder
    line = [*SMALL, *FORGET, "--model", trained.source, "--device", "cpu", "--epochs", "3"]
    alone = forget_documents.main([*line, "--save", str(folder / "one")])
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    saving = ["--json", str(folder / "two.json"), "--save", str(folder / "two")]
    done = subprocess.run(
        [*run, str(EXAMPLE / "forget_documents.py"), *line, *saving],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "two.json").read_text())
    assert found["processes"] == 2
    for model in ("source", "unlearned"):  # save for the order of sums
        for key in ("forget_perplexity", "retain_perplexity", "held_out_perplexity"):
            assert found["models"][model][key] == pytest.approx(alone[model][key], rel=1e-3), (model, key)
    assert found["models"]["unlearned"]["forget_perplexity"] > 1.2 * found["models"]["source"]["forget_perplexity"]
    one, two = (
        transformers.AutoModelForCausalLM.from_pretrained(folder / name).state_dict() for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.0, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_documents_of_ones_own_need_no_held_out_ones(tmp_path: Path) -> None:
    folder, lines = tmp_path / "texts", tmp_path / "texts.jsonl"
    folder.mkdir()
    made = texts.generated(4, 3)
    for document in made:
        (folder / f"{document.name}.txt").write_text(document.text)
    lines.write_text("\n".join(json.dumps({"name": d.name, "text": d.text}) for d in made) + "\n\n")
    assert texts.read(lines, "documents") == made
    assert sorted(texts.read(folder, "documents"), key=lambda d: d.name) == sorted(made, key=lambda d: d.name)
    tiny = ["--train", "--train-epochs", "1", "--epochs", "1", "--width", "8", "--heads", "2", "--layers", "1"]
    options = ["--documents", str(folder), "--tokenizer", "bytes", "--forget", made[0].name, "--model", "gpt2"]
    found = forget_documents.main([*tiny, *options])
    assert found["unlearned"]["min_k_auc"] is found["unlearned"]["held_out_perplexity"] is None
    assert found["unlearned"]["forget_perplexity"] > 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--forget", "nobody-at-all"], "forget names 'nobody-at-all', which is no document: there are "),
        (["--forget"], "forget names no document"),
        (["--forget", *[d.name for d in texts.generated(12, 3)]], "forget names all 12 documents: none is left"),
        (["--count", "140"], "documents must be at most 144 with those held out, got 148"),
        (["--held-out-count", "1"], "held-out documents must be two or more, one to measure on and one to repair by"),
        (["--count", "0"], "argument --count: must be at least 1, got 0"),
        (["--model", "llama-7"], "model must be a folder or a model type of transformers such as llama or gpt2, got"),
        (["--width", "30"], "width must be a multiple of heads, got 30 and 4"),
        (["--tokenizer", "words"], "tokenizer must be 'bytes', 'bpe:N' or a folder, got 'words'"),
        (["--tokenizer", "bpe:many"], "tokenizer must be bpe:N with a whole number N >= 256, got 'bpe:many'"),
        (["--documents", "/no/such"], "--documents must be a folder of .txt files or a JSONL file, got '/no/such'"),
        (["--held-out", "some.jsonl"], "--held-out some.jsonl goes with --documents"),
        (["--ratio", "1.5"], r"ratio must be in [0, 1], got 1.5"),
        (["--score", "size"], "score must be one of 'grad'"),
        (["--shrink", "-1"], "factor must be in [0, 1), got -1.0"),
        (["--epochs", "-1"], "epochs must be >= 1, got -1"),
        (["--lr", "0"], "lr must be > 0, got 0.0"),
        (["--prefix", "0"], "prefix must be >= 1, got 0"),
        (["--share", "0"], "share must be > 0 and at most 1, got 0.0"),
        (["--length", "1"], "length must be >= 2, got 1"),
    ],
)
def test_what_cant_be_done_is_refused_by_name(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        forget_documents.main([*SMALL, "--train", "--train-epochs", "1", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "model 'llama' has random weights and knows no document: give --train, or a folder"),
        (["--model", "."], "model '.': "),
        (["--model", ".", "--retrain"], "--retrain trains as --train does, but without the documents to forget"),
    ],
)
def test_a_model_that_knows_nothing_is_refused(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        forget_documents.main([*SMALL, "--tokenizer", "bytes", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["transformers", "accelerate"])
def test_without_transformers_the_extra_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(SystemExit):
        forget_documents.main([*SMALL, "--train", "--loop", "trainer"])
    assert f"this needs {missing}, which is not installed: pip install 'fgunlearn[hf]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "has no document"),
        ("{", "line 1: not JSON"),
        ('\n{"name": 3, "text": "a"}', "line 2: must be an object with the texts"),
        ('{"name": "a", "text": " "}', "document 'a' is empty"),
        ('{"name": "a", "text": "b"}\n{"name": "a", "text": "c"}', "several documents of the name 'a'"),
    ],
)
def test_bad_lines_are_refused_by_place(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=re.escape(message)):
        texts.read(path, "documents")


def test_generated_documents_depend_on_seed_and_number_alone() -> None:
    whole = texts.generated(144, 5)
    assert len({document.name for document in whole}) == 144
    assert whole[20:30] == texts.generated(10, 5, 20)
    assert whole[:10] != texts.generated(10, 6)


def sequences(lengths: list[int]) -> Sequences:
    draw = torch.Generator().manual_seed(0)
    return Sequences(
        [torch.randint(1, 20, (n,), generator=draw) for n in lengths], list(range(len(lengths))), padding=0
    )


def model() -> Any:
    shape = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    return causal_lm.make_model("llama", 20, shape, seed=0).eval()


def test_the_loss_is_the_mean_over_tokens_whatever_the_padding_and_the_number_of_processes() -> None:
    given, lm = sequences([3, 9, 5, 2, 7]), model()
    with torch.no_grad():
        every = torch.cat([-part for part in measures.log_probs(lm, given, 1)])
        for loss, batch, wanted in (
            (causal_lm.token_mean_loss, 5, float(every.mean())),
            (lambda m, b: causal_lm.unseen_distance(m, b, torch.tensor([1.0, 4.0])), 5, None),
        ):
            [whole] = Batches(given, batch)
            alone = float(loss(lm, whole))
            assert wanted is None or alone == pytest.approx(wanted, rel=1e-5)
            for world in (2, 3, 7):  # of 7 some have nothing
                parts = [float(loss(lm, next(iter(Batches(given, batch, rank=r, world=world))))) for r in range(world)]
                assert sum(parts) / world == pytest.approx(alone, rel=1e-5)


def test_a_text_as_surprising_as_those_never_seen_is_at_no_distance() -> None:
    given, lm = sequences([4, 7]), model()
    [batch] = Batches(given, 2)
    [first] = Batches(sequences([4]), 1)
    own = [(-part).sort().values for part in measures.log_probs(lm, given, 2)]
    with torch.no_grad():
        assert float(causal_lm.unseen_distance(lm, first, own[0])) == pytest.approx(0.0, abs=1e-6)
        assert float(causal_lm.unseen_distance(lm, first, own[0] + 2.0)) == pytest.approx(2.0, rel=1e-5)
        constant = torch.tensor([50.0])
        wanted = sum(float((50.0 - losses).mean()) for losses in own) / 2
        assert float(causal_lm.unseen_distance(lm, batch, constant)) == pytest.approx(wanted, rel=1e-5)


def test_labels_leave_padding_out() -> None:
    [batch] = Batches(sequences([2, 4]), 2)
    assert batch["labels"].ne(IGNORED).tolist() == [[True, True, False, False], [True] * 4]
    assert float(batch["tokens"]) == 4.0


def test_batches_have_another_order_in_each_pass_and_the_same_for_a_seed() -> None:
    given = sequences([3] * 12)
    one, other = Batches(given, 4, seed=1), Batches(given, 4, seed=1)
    passes = [torch.cat([batch["input_ids"] for batch in one]) for _ in range(2)]
    assert not passes[0].equal(passes[1])
    assert all(p.equal(torch.cat([batch["input_ids"] for batch in other])) for p in passes)


@pytest.mark.parametrize("spec", ["bytes", "bpe:300"])
def test_a_tokenizer_gives_any_text_back_and_is_saved_with_the_model(spec: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spec, texts.generated(5))
    text = "Zoë kept 19 «clocks».\n\tAnd 猫."
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, load_tokenizer(str(tmp_path), [])):
        ids = each(text, add_special_tokens=False)["input_ids"]
        assert each.decode(ids) == text
        assert spec != "bytes" or len(ids) == len(text.encode())


def test_a_long_document_is_several_sequences_and_loses_no_token() -> None:
    tokenizer = load_tokenizer("bytes", [])
    made = Sequences.of([texts.Document("a", "x" * 50), texts.Document("b", "yz")], tokenizer, 16)
    assert made.document == [0, 0, 0, 0, 1]
    assert sum(len(ids) - 1 for ids in made.ids) == 51 + 3
    assert all(int(ids[0]) == tokenizer.bos_token_id for ids in made.ids)


class Parrot(torch.nn.Module):
    """Says what it was taught."""

    def __init__(self, answers: dict[int, list[int]]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._answers = answers

    def generate(self, given: torch.Tensor, *, max_new_tokens: int, **_: Any) -> torch.Tensor:
        said = [(self._answers[int(row[0])] + [0] * max_new_tokens)[:max_new_tokens] for row in given]
        return torch.cat([given, torch.tensor(said)], 1)


def test_what_is_given_back_before_the_first_wrong_token_counts() -> None:
    ids = [torch.tensor([n, 9, 1, 2, 3, 4]) for n in (1, 2, 3)] + [torch.tensor([4, 9])]
    given = Sequences(ids, [0, 1, 2, 3], padding=0)
    parrot = Parrot({1: [1, 2, 3, 4], 2: [1, 2, 9, 4], 3: [9, 2, 3, 4]})
    look = measures.Look(batch=2, prefix=2, completion=10)
    assert measures.verbatim(parrot, given, look) == (pytest.approx(6 / 12), pytest.approx(1 / 3))
    assert measures.verbatim(parrot, given, measures.Look(prefix=2, completion=2)) == (
        pytest.approx(4 / 6),
        pytest.approx(2 / 3),
    )
    assert measures.verbatim(parrot, given, measures.Look(prefix=6)) == (None, None)


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    assert measures.perplexity([torch.tensor([-math.log(2.0)]), torch.tensor([-math.log(8.0)])]) == pytest.approx(4.0)
    assert measures.perplexity([torch.tensor([-1e9])]) == math.inf


def test_the_page_shows_commands_that_parse() -> None:
    page = (EXAMPLE / "README.md").read_text()
    commands = re.findall(r"examples/llm/forget_documents\.py(.*)", page.replace("\\\n", " "))
    assert len(commands) >= 4
    for options in commands:
        forget_documents.parser().parse_args(options.split("#")[0].split())
