from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fgunlearn
from command_line import Run, as_options, press_ctrl_c, refused, start, wait_for
from fgunlearn.experiment.data import Dataset

ARCHITECTURE = """
from pathlib import Path
from torch import nn

def make():
    Path("made").touch()
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

def number():
    return 3
"""


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an architecture, its weights, data of 60 rows, and the ids of rows to forget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "architecture", raising=False)
    (tmp_path / "architecture.py").write_text(ARCHITECTURE)
    torch.manual_seed(0)
    save_file(network().state_dict(), tmp_path / "model.safetensors", metadata={"trained": "yesterday"})
    y = torch.arange(60) % 3
    x = torch.randn(60, 6)
    x[torch.arange(60), y] += 2.0
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    (tmp_path / "ids.txt").write_text("# asked for on Monday\n3\n10  # and this one\n\n17\n")
    return tmp_path


def options(**changes: object) -> list[object]:
    files = {"model": "model.safetensors", "data": "data.safetensors", "forget": "ids.txt", "out": "out.safetensors"}
    return ["unlearn", *as_options({**files, "arch": "architecture:make", "batch": 16, **changes})]


def test_info_prints_what_is_installed(run: Run) -> None:
    status, out, _ = run("info")
    assert status == 0
    for key, value in fgunlearn.build_info().items():
        assert re.search(rf"{key}\s+{re.escape(str(value))}", out), key


def test_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"fgunlearn {fgunlearn.__version__}\n")


@pytest.mark.parametrize("command", [[], ["demo"], ["unlearn"], ["tune"], ["spdgan"], ["bench"], ["info"]])
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    status, out, _ = run(*command, "--help")
    assert status == 0
    assert "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nothing"], ["nothing"]),
        (["demo", "--bogus"], ["--bogus"]),
        (["demo", "--seeds", "three"], ["--seeds", "three"]),
        (["demo", "--seeds=three"], ["--seeds", "three"]),
        (["demo", "--seeds", "0"], ["--seeds", "0"]),
        (["demo", "--jobs", "-1"], ["--jobs", "-1"]),
        (["demo", "--scenario", "half"], ["--scenario", "'half'", "mislabel"]),
        (["demo", "--data", "mnist"], ["data", "'mnist'"]),
        (["demo", "--data", "cifar10:nowhere"], ["data", "nowhere"]),
        (["demo", "--out", "nowhere/results.json"], ["--out", "nowhere"]),
        (["bench", "everything"], ["NAME", "'everything'"]),
        (["bench", "select", "--json", "nowhere/results.json"], ["--json", "nowhere"]),
        (["bench", "select", "--profile", "nowhere/trace.json"], ["--profile", "nowhere"]),
        (["bench", "select", "--json", "a.json", "--profile", "b.json"], ["--json", "--profile"]),
        (["bench", "select", "--device", "abacus"], ["--device", "'abacus'"]),
        (["bench", "select", "--device", "mps"], ["--device", "'mps'"]),
        (["bench", "select", "--device", "cuda:99"], ["--device", "cuda:99"]),
        (["unlearn", "--model", "m"], ["--arch"]),
    ],
)
def test_bad_input_gets_one_line_and_status_2(run: Run, work: Path, arguments: list[str], parts: list[str]) -> None:
    refused(run(*arguments), *parts)


def test_unlearn_writes_a_checkpoint_like_the_one_it_read(run: Run, work: Path) -> None:
    before = load_file("model.safetensors")
    status, out, error = run(*options(ratio=0.25, epochs=1))
    assert (status, error) == (0, "")
    after = load_file("out.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }
    with safe_open("out.safetensors", framework="pt") as file:
        assert file.metadata() == {"trained": "yesterday"}
    parameters = [name for name in before if "running" not in name and "num_batches" not in name]
    changed = {name: int((before[name] != after[name]).sum()) for name in parameters}
    numel = sum(before[name].numel() for name in parameters)
    assert 0 < sum(changed.values()) <= round(0.25 * numel)
    for name, count in changed.items():
        assert re.search(rf"^ *{re.escape(name)} .* {count:,}\s*$", out, re.MULTILINE), name
    assert "3 samples forgotten" in out
    assert re.search(r"select .* s, .*repair .* s", out)
    assert load_file("model.safetensors").keys() == before.keys()


@pytest.mark.parametrize("strategy", ["topk", "randomk", "random_topk"])
def test_unlearn_selects_whole_channels_if_asked(run: Run, work: Path, strategy: str) -> None:
    before = load_file("model.safetensors")
    changes = {"scope": "channel", "strategy": strategy, "perturb": "zero", "forget_term": "none", "epochs": 1}
    assert run(*options(ratio=27 / 195, **changes))[0] == 0
    after = load_file("out.safetensors")
    # Neurons: 6 weights, a bias, a scale and a shift, or 16 weights and a bias. 27 are at most 3, one of them whole.
    rows = [(before[name] != after[name]).sum(1).tolist() for name in ("0.weight", "3.weight")]
    assert 6 in rows[0] or 16 in rows[1]
    assert sum(count > 0 for part in rows for count in part) <= 3


def test_unlearn_makes_the_forgotten_look_like_heldout_data_if_asked(run: Run, work: Path) -> None:
    given = {"forget_term": "heldout", "heldout": "data.safetensors"}
    code, out = run(*options(**given))[:2]
    assert code == 0
    assert "recipe heldout: " in out
    assert "forget setup" in out
    assert Path("out.safetensors").exists()


def test_unlearn_takes_what_is_not_given_from_the_recipe(run: Run, work: Path) -> None:
    spelled_out = {"ratio": 0.5, "perturb": "shrink", "size": 0.0, "epochs": 2, "lr": 0.2, "forget_term": "none"}
    weights = []
    for given in ({"recipe": "perturb_repair"}, {"recipe": "perturb_repair", **spelled_out}, {"forget_term": "none"}):
        code, out = run(*options(**given))[:2]
        assert code == 0
        assert "recipe perturb_repair: " in out
        weights.append(load_file("out.safetensors"))
    for others in weights[1:]:
        assert all(value.equal(others[name]) for name, value in weights[0].items())


def test_unlearn_chooses_the_recipe_by_heldout_data(run: Run, work: Path) -> None:
    saved = load_file("data.safetensors")
    model = network()
    model.load_state_dict(load_file("model.safetensors"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(saved["x"]), saved["y"]).backward()
        optimizer.step()
    save_file(model.state_dict(), "trained.safetensors")
    save_file({"x": saved["x"], "y": (saved["y"] + 1) % 3}, "unlike.safetensors")
    chosen = []
    for given in ({}, {"heldout": "data.safetensors"}, {"heldout": "unlike.safetensors"}):
        code, out = run(*options(model="trained.safetensors", **given))[:2]
        assert code == 0
        chosen.append(re.findall(r"^recipe (\w+): ", out, re.MULTILINE))
    assert chosen == [["forget_term"], ["forget_term"], ["heldout"]]


def test_unlearn_gives_the_same_weights_in_less_memory(run: Run, work: Path) -> None:
    weights = []
    for given in ({}, {"memory": "streaming", "memory_budget": 64}):
        assert run(*options(ratio=0.25, epochs=1, **given))[0] == 0
        weights.append(load_file("out.safetensors"))
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_unlearn_can_replace_its_own_input(run: Run, work: Path) -> None:
    before = load_file("model.safetensors")["0.weight"].clone()
    assert run(*options(out="model.safetensors"))[0] == 0
    assert not torch.equal(load_file("model.safetensors")["0.weight"], before)
    assert not list(work.glob(".*"))


def test_unlearn_is_a_function_of_the_seed(run: Run, work: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        assert run(*options(strategy="randomk", seed=seed))[0] == 0
        weights.append(load_file("out.safetensors")["0.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model": "nowhere"}, ["--model", "nowhere"]),
        ({"model": "ids.txt"}, ["--model", "ids.txt", "safetensors"]),
        ({"model": "data.safetensors"}, ["--model", "does not fit"]),
        ({"arch": "architecture"}, ["--arch", "'architecture'"]),
        ({"arch": "nowhere:make"}, ["--arch", "'nowhere'"]),
        ({"arch": "architecture:made"}, ["--arch", "'made'"]),
        ({"arch": "architecture:number"}, ["--arch", "int"]),
        ({"data": "model.safetensors"}, ["--data", "x and y"]),
        ({"forget": "nowhere"}, ["--forget", "nowhere"]),
        ({"out": "nowhere/out.safetensors"}, ["--out", "nowhere"]),
        ({"ratio": 1.5}, ["ratio", "1.5"]),
        ({"strategy": "best"}, ["--strategy", "'best'"]),
        ({"perturb": "shake"}, ["--perturb", "'shake'"]),
        ({"forget_term": "loudly"}, ["forget", "'loudly'"]),
        ({"forget_term": "heldout"}, ["--forget-term heldout", "--heldout"]),
        ({"recipe": "heldout"}, ["--recipe heldout", "--heldout"]),
        ({"recipe": "best"}, ["--recipe", "'best'"]),
        ({"size": 0.3}, ["--size", "--perturb", "0.3"]),
        ({"score": "taste"}, ["score", "'taste'"]),
        ({"memory": "little"}, ["memory", "'little'"]),
        ({"memory": "streaming", "scope": "channel"}, ["memory", "'dense'"]),
        ({"memory_budget": 64}, ["memory_budget", "64", "'streaming'"]),
        ({"epochs": -1}, ["epochs", "-1"]),
        ({"batch": 0}, ["batch", "0"]),
    ],
)
def test_unlearn_names_the_option_and_the_value(
    run: Run, work: Path, changes: dict[str, object], parts: list[str]
) -> None:
    refused(run(*options(**changes)), *parts)
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ("3\nsix\n", ["line 2", "'six'"]),
        ("-1\n", ["line 1", "'-1'"]),
        ("60\n", ["line 1", "60 rows"]),
        ("3\n3\n", ["line 2", "repeats row 3"]),
        ("# none\n", ["names no row"]),
        ("\n".join(map(str, range(60))), ["every row"]),
    ],
)
def test_bad_ids_are_named_by_line(run: Run, work: Path, lines: str, parts: list[str]) -> None:
    Path("ids.txt").write_text(lines)
    refused(run(*options()), "--forget", *parts)


def test_a_repair_that_diverges_leaves_the_old_file(run: Run, work: Path) -> None:
    Path("out.safetensors").write_bytes(b"the old one")
    refused(run(*options(lr=1e30)), "diverged")
    assert Path("out.safetensors").read_bytes() == b"the old one"


def test_ctrl_c_ends_unlearn_and_leaves_the_old_file(work: Path) -> None:
    (work / "out.safetensors").write_bytes(b"the old one")
    process = start(work, *options(epochs=1_000_000))
    wait_for((work / "made").exists, process)
    time.sleep(0.3)
    press_ctrl_c(process)
    assert (work / "out.safetensors").read_bytes() == b"the old one"
    assert not list(work.glob(".*"))


@pytest.mark.parametrize("delay", [0.05, 4.0], ids=["while workers start", "while workers work"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_the_demo_and_its_workers(work: Path, delay: float, jobs: int) -> None:
    labels = torch.arange(60) % 2
    Dataset(torch.rand(60, 1, 8, 8), labels).save(work / "images.safetensors")
    process = start(
        work, "demo", "--data", "tensors:images.safetensors", "--epochs", 1_000_000, "--jobs", jobs, "--out", "r.json"
    )
    wait_for(lambda: bool(list((work / "tmp").glob("fgunlearn-tasks-*/data.safetensors"))), process)
    time.sleep(delay)
    press_ctrl_c(process)
    assert not (work / "r.json").exists()
    assert not list((work / "tmp").glob("*fgunlearn*"))  # torch's own cache folder may lie there too


def test_ctrl_c_in_a_destructor_is_not_lost(work: Path) -> None:
    # Stands for the weak references' callbacks that run during imports: Python drops what is raised there.
    code = """
import pathlib, sys, time
from fgunlearn.cli import main

class Busy:
    def __del__(self):
        pathlib.Path("ready").touch()
        time.sleep(60)

@sys.modules["fgunlearn.cli.main"].app.command()
def wait():
    Busy()
    time.sleep(60)

main()
"""
    process = start(work, "wait", code=code)
    wait_for((work / "ready").exists, process)
    press_ctrl_c(process)


def test_demo_prints_the_table_and_writes_the_same_as_json(run: Run, work: Path) -> None:
    torch.manual_seed(0)
    Dataset(torch.rand(200, 1, 8, 8), torch.arange(200) % 2).save(work / "images.safetensors")
    status, out, _ = run(
        *("demo", "--data", "tensors:images.safetensors", "--epochs", 1, "--jobs", 1, "--seeds", 1),
        *("--scenario", "random", "--scenario", "class", "--out", "results.json"),
    )
    assert status == 0
    results = json.loads((work / "results.json").read_text())
    for section in results["summary"]:
        assert f"{section['scenario']}: best is {section['best']}" in out
        for row in section["rows"]:
            assert f"{100 * row['accuracy_test']['mean']:.1f}" in out
    assert [task["scenario"] for task in results["tasks"]] == ["random", "class"]
