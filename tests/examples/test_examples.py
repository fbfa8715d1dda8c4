"""The examples run from end to end, and their figures are those of the models they return."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import images
import text
import time_series
import vectors
from architectures import IMAGE_MODELS, torchvision_model
from comparison import Comparison

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAGE = (EXAMPLES / "README.md").read_text()
RUNS: dict[str, tuple[Callable[..., Comparison], list[str]]] = {
    **{name: (images.main, ["--model", name]) for name in IMAGE_MODELS},
    "random images": (images.main, ["--model", "vgg", "--forget", "random"]),
    "text": (text.main, []),
    "time series": (time_series.main, []),
    "vectors": (vectors.main, []),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", list(RUNS))
def test_an_example_runs_from_end_to_end(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, options = RUNS[name]
    found = main([*options, "--epochs", "1", "--seed", "11"])
    assert list(found.rows) == list(found.models) == ["source", "retrained", "unlearned"]
    assert found.rows["retrained"]["accel."] == 1.0
    assert found.rows["retrained"]["JS"] == pytest.approx(0.0, abs=1e-9)
    for model, row in found.rows.items():
        for column in ("D_u %", "D_r %", "D_t %"):
            assert 0.0 <= row[column] <= 100.0, (model, column)
        assert 0.0 <= row["MIA"] <= 1.0
    unlearned = found.rows["unlearned"]
    assert unlearned["seconds"] == pytest.approx(found.result.total_seconds)
    ratio = found.rows["retrained"]["seconds"] / unlearned["seconds"]
    assert unlearned["accel."] == pytest.approx(ratio)
    shown = capsys.readouterr().out
    for model, row in found.rows.items():
        line = next(line for line in shown.splitlines() if line.startswith(model))
        assert [float(value) for value in line.split()[1:4]] == [
            float(f"{row[column]:.1f}") for column in ("D_u %", "D_r %", "D_t %")
        ]
    selection, changed = found.result.selection, sum(found.result.changed.values())
    assert f"{changed:,} of {selection.numel:,} parameters changed" in shown
    assert 0 < changed <= selection.k < selection.numel
    masks = dict(zip(selection.names or [], selection.masks(), strict=True))
    for parameter, was in found.models["source"].named_parameters():
        now = found.models["unlearned"].get_parameter(parameter)
        assert not bool(((was != now) & ~masks[parameter]).any()), parameter


def test_torchvisions_models_run_too_where_it_is_installed() -> None:
    try:
        torchvision_model("vit")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision can't be imported: {error}")
    found = images.main(["--model", "vit", "--library", "torchvision", "--epochs", "1"])
    assert 0 < sum(found.result.changed.values()) <= found.result.selection.k
    assert list(found.rows) == ["source", "retrained", "unlearned"]


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    first, again, other = (vectors.main(["--epochs", "2", "--seed", seed]) for seed in ("3", "3", "4"))
    figures = ("D_u %", "D_r %", "D_t %", "MIA", "JS")
    assert all(first.rows["unlearned"][name] == again.rows["unlearned"][name] for name in figures)
    assert any(first.rows["unlearned"][name] != other.rows["unlearned"][name] for name in figures)


def test_a_forgotten_digit_is_forgotten_and_the_others_are_kept() -> None:
    rows = images.main(["--model", "vgg", "--epochs", "5", "--seed", "1"]).rows
    assert rows["source"]["D_u %"] > 90.0
    assert rows["retrained"]["D_u %"] == 0.0
    assert rows["unlearned"]["D_u %"] < 5.0
    for column in ("D_r %", "D_t %"):
        assert rows["unlearned"][column] == pytest.approx(rows["retrained"][column], abs=3.0), column


def test_the_grammar_is_the_one_that_is_stated() -> None:
    names = dict(enumerate(text.WORDS))
    for sample in text.corpus(200, 5):
        ids, mask = sample["input_ids"], sample["attention_mask"]
        assert len(ids) == text.LENGTH
        assert mask.tolist() == (ids != text.PADDING).long().tolist()
        words = " ".join(names[int(i)] for i in ids[mask.bool()])
        sentences = re.split(r" (and|but) ", words)
        good: list[bool] = []
        for sentence in sentences[::2]:
            found = re.fullmatch(r"the (\w+) was (not )?(\w+)", sentence)
            assert found is not None, words
            assert found[1] in text.SUBJECTS
            assert found[3] in text.GOOD + text.BAD
            good.append((found[3] in text.GOOD) != (found[2] is not None))
        for before, after, conjunction in zip(good, good[1:], sentences[1::2], strict=False):
            assert (before != after) is (conjunction == "but"), words
        assert int(sample["labels"]) == int(good[-1])


def test_every_sensor_has_its_own_way_with_a_wave_whatever_the_seed() -> None:
    x, kind, _ = time_series.waves(4000, 0)
    assert x.shape == (4000, 1, time_series.LENGTH)
    assert kind.unique().tolist() == [0, 1, 2, 3]
    offsets = [
        torch.stack([x[sensor == s].mean() for s in range(time_series.SENSORS)])
        for x, _, sensor in (time_series.waves(4000, seed) for seed in (0, 1))
    ]
    torch.testing.assert_close(offsets[0], offsets[1], atol=0.05, rtol=0.0)
    assert float(offsets[0].std()) > 0.1
    assert math.isfinite(float(x.square().mean()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "lenet"], "argument --model: invalid choice: 'lenet' (choose from"),
        (["--forget", "all"], "argument --forget: invalid choice: 'all'"),
        (["--epochs", "0"], "argument --epochs: must be at least 1, got 0"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        images.main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("main", [images.main, text.main, time_series.main, vectors.main])
def test_an_example_has_help(main: Callable[..., Comparison], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--seed" in shown
    assert "--epochs" in shown


def test_an_example_is_a_script_that_runs_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "vectors.py"), "--epochs", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["source", "retrained", "unlearned"]


def test_the_page_shows_every_example() -> None:
    commands = re.findall(r"python examples/(\w+)\.py(.*)", PAGE)
    assert {name for name, _ in commands} == {"images", "text", "time_series", "vectors"}
    shown = " ".join(options for name, options in commands if name == "images")
    assert set(re.findall(r"--model (\w+)", shown)) == set(IMAGE_MODELS)
