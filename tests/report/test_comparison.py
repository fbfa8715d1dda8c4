"""What the report of a comparison says, and that it is one file that can be relied on."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compared import RATIOS, SHARES, results
from fgunlearn.experiment.results import read_json, write_json
from fgunlearn.report.comparison import rendered, write_report
from fgunlearn.report.comparison.readings import scenarios
from fgunlearn.report.comparison.table import COLUMNS, rows
from fgunlearn.report.comparison.verdict import cards, sentences

pytest.importorskip("jinja2")

FIGURES = {"quality", "accuracy", "scores", "membership", "density", "learning", "phases"}


class Page(HTMLParser):
    """Elements of a page, and what is not well nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.figures: list[dict[str, Any]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "figure":
            self.figures.append({"name": dict(attrs)["class"], "svg": 0, "caption": ""})
        if tag == "svg" and self.figures and dict(attrs).get("class") != "swatch":
            self.figures[-1]["svg"] += 1
        if tag not in ("meta", "link", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "figcaption" in self.open:
            self.figures[-1]["caption"] += data


def best_in(found: dict[str, Any], head: str) -> set[str]:
    scenario = scenarios(found)[0]
    place = [column.head for column in COLUMNS].index(head)
    return {row.model.name for row in rows(scenario) if row.cells and row.cells[place].best}


def cell(found: dict[str, Any], name: str, head: str) -> Any:
    place = [column.head for column in COLUMNS].index(head)
    return next(row for row in rows(scenarios(found)[0]) if row.model.name == name).cells[place]


@pytest.fixture(scope="module")
def page() -> str:
    return rendered(results(scenarios=("random-0.1", "class", "mislabel-0.1")))


def test_nothing_is_fetched_from_outside(page: str) -> None:
    assert "//" not in page
    for word in ("url(", "@import", "src=", "srcset", "<iframe", "<object", "<embed", "fetch(", "XMLHttpRequest"):
        assert word not in page
    links = [value for _, name, value in Page(page).attributes if name in ("href", "xlink:href", "action")]
    assert links
    assert all(value.startswith(("#", "data:")) for value in links)
    assert "default-src 'none'" in page  # and a browser sees to it


def test_the_page_is_well_nested_and_no_id_is_there_twice(page: str) -> None:
    parsed = Page(page)
    assert parsed.wrong == []
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    aims = [v for _, name, v in parsed.attributes if name in ("aria-labelledby", "aria-describedby")]
    assert {part for aim in aims for part in aim.split()} <= set(parsed.ids)


def test_every_figure_has_a_drawing_and_a_caption_that_says_what_good_looks_like(page: str) -> None:
    figures = Page(page).figures
    assert {figure["name"] for figure in figures} == FIGURES | {"k-sweep", "share-sweep"}
    assert len(figures) == 3 * (len(FIGURES) + 2)
    for figure in figures:
        assert figure["svg"] >= 1
        assert re.search(r"\S.*Good: \S", figure["caption"], re.DOTALL)


def test_every_drawing_has_a_title_and_a_description(page: str) -> None:
    drawings = re.findall(r'<svg class="(?!swatch).*?</desc>', page)
    assert len(drawings) >= 3 * len(FIGURES)
    assert all(re.search(r'role="img".*<title id="[\w-]+">[^<]+</title><desc id="[\w-]+">[^<]+<', d) for d in drawings)


def test_the_same_results_give_the_same_bytes_also_from_their_file(tmp_path: Path) -> None:
    found = results()
    write_report(found, tmp_path / "a.html")
    write_json(found, tmp_path / "results.json")
    write_report(read_json(tmp_path / "results.json") or {}, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_best_of_a_column_is_the_nearest_to_the_retrained_model_or_the_largest() -> None:
    found = results(
        ("retrain", "topk", "finetune", "ssd"),
        seeds=(0,),
        retrain={"average_gap": 0.0, "gap_forget": 0.0, "js_divergence": 0.0},
        retrained={"forgetting_rate": -0.2, "nomus": 0.9, "unlearning_degree": {"value": 0.1, "low": 0, "high": 0.2}},
        topk={
            **{"average_gap": 0.5, "gap_forget": -0.03, "gap_mia": -0.01, "gap_mia_worst": -0.02, "tug_of_war": 0.9},
            **{"forgetting_rate": 0.9, "nomus": 0.99, "relearn_ratio": 0.9, "acceleration": 12.0, "seconds": 1.0},
            "unlearning_degree": {"value": 0.3, "low": 0.2, "high": 0.4},
        },
        finetune={
            **{"average_gap": 0.7, "gap_forget": 0.02, "gap_mia": 0.02, "gap_mia_worst": 0.01, "tug_of_war": 0.98},
            **{"forgetting_rate": -0.1, "nomus": 0.91, "relearn_ratio": 1.3, "acceleration": 20.0, "seconds": 0.6},
            "unlearning_degree": {"value": 0.12, "low": 0.0, "high": 0.2},
        },
        ssd={"failed": "diverged at step 3"},
    )
    winners = {
        **{"avg gap": "topk", "acc D_u": "finetune", "MIA AUC": "topk", "worst MIA": "finetune", "ToW": "finetune"},
        **{"FR": "finetune", "NoMUS": "finetune", "relearn": "topk", "UD_net": "finetune", "speed": "finetune"},
        "time": "finetune",
    }
    for head, winner in winners.items():
        assert best_in(found, head) == {winner}, head
    assert best_in(found, "predicted") == set()


def test_of_equals_both_are_best_and_a_single_one_is_not() -> None:
    equal = {"js_divergence": 0.01, "relearn_ratio": None}
    found = results(("topk", "finetune"), topk=equal, finetune=equal | {"relearn_ratio": 1.0})
    assert best_in(found, "JS") == {"topk", "finetune"}
    assert best_in(found, "relearn") == set()


def test_several_seeds_have_a_deviation_and_one_has_an_interval_over_samples() -> None:
    one = cell(results(("topk",), seeds=(0,), topk={"gap_mia": 0.0123}), "topk", "MIA AUC")
    assert re.fullmatch(r" \[0\.\d{3}, 0\.\d{3}\]", one.spread)
    assert one.below == "+0.012"
    several = cell(results(("topk",)), "topk", "MIA AUC")
    assert re.fullmatch(r" ±0\.\d{3}", several.spread)
    assert several.tip.count("[") == 3
    assert "±" not in cell(results(("topk",), seeds=(0,)), "topk", "avg gap").spread
    assert cell(results(("topk",), seeds=(0,), topk={"gap_test": -0.015}), "topk", "acc D_t").below == "\u22121.5"


GOOD = {
    **{f"gap_{part}": 0.002 for part in ("forget", "retain", "test")},
    **{"gap_mia": 0.001, "average_gap": 0.25, "tug_of_war": 0.99, "seconds": 2.0, "acceleration": 20.0},
}


def test_a_method_within_all_limits_is_marked_and_said_to_be() -> None:
    found = results(("retrain", "topk", "finetune"), topk=GOOD, finetune=GOOD | {"average_gap": 3.0})
    scenario = scenarios(found)[0]
    fits = {row.model.name: (row.fits, row.missed) for row in rows(scenario)}
    assert fits["topk"] == (True, "")
    assert fits["finetune"] == (False, "average gap")
    assert fits["source"] == (None, "")
    said = sentences(scenario)
    assert (
        said[0]
        == "Best of ours: topk keeps to every limit, with an average gap of 0.25 points and 20.0\u00d7 the speed "
        "of retraining."
    )
    assert "None of the others keeps to every limit. The nearest, finetune" in said[1]
    assert "misses average gap" in said[1]
    assert "Retraining once more" in said[2]
    ours, others = cards(scenario)
    assert ours.fits
    assert [check.kept for check in ours.checks] == [*[True] * 6, None]  # a speed is wished for, and no limit
    assert [check.name for check in others.checks if check.kept is False] == ["average gap"]
    page = rendered(found)
    assert '<tr class="ours fits">' in page
    assert page.count("keeps to every limit</p>") == 1


def test_names_and_messages_are_text_whatever_they_hold() -> None:
    evil = '<script>alert("1")</script>&amp;\'"]]>'
    found = results(
        ("topk", f"topk:recipe={evil}"),
        scenarios=(evil,),
        topk={"density": {evil: 0.5, "b": 0.1}, "phases": {evil: 1.0}},
    )
    found["machine"]["processor"] = found["configuration"]["source"] = found["date"] = evil
    failed = results(("topk", "ssd"), scenarios=("b",), ssd={"failed": evil})
    found["summary"] += failed["summary"]
    found["rows"] += failed["rows"]
    page = rendered(found)
    assert page.count("<script") == 1
    assert "alert(&#34;1" in page
    parsed = Page(page)
    assert parsed.wrong == []
    assert parsed.open == []


def test_a_method_that_failed_says_why_and_is_in_no_figure() -> None:
    found = results(("topk", "ssd"), ssd={"failed": "loss is nan in epoch 1"})
    page = rendered(found)
    assert "failed on 3 of 3 seeds: loss is nan in epoch 1" in page
    assert not any("ssd" in drawing for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL))


def test_sweeps_are_shown_only_where_an_option_has_three_values() -> None:
    def names(*entries: str) -> set[str]:
        return {figure["name"] for figure in Page(rendered(results(entries))).figures}

    assert names("topk", *RATIOS[:2], *SHARES[:2]) == FIGURES
    assert names("topk", *RATIOS[:3]) == FIGURES | {"k-sweep"}
    assert names(*SHARES) == FIGURES | {"share-sweep"}
    mixed = scenarios(results((*(f"{name},score=fisher" for name in RATIOS), "topk:ratio=0.2")))[0]
    assert list(mixed.swept["ratio"]) == ["topk:score=fisher"]
    assert [value for value, _ in mixed.swept["ratio"]["topk:score=fisher"]] == [0.01, 0.05, 0.1, 0.3, 0.5, 1.0]


OPTIONAL = (
    *("scores", "history", "phases", "density", "relearn_ratio", "relearn_steps", "selected", "options", "sizes"),
    *("parameters", "mia", "unlearning_degree", "nomus", "predicted_acceleration", "prediction_error", "seconds"),
    *("acceleration", "average_gap", "gap_forget", "accuracy_forget", "tug_of_war", "js_divergence", "met"),
)


def blank(value: Any) -> Any:
    """NaN for every number, as in results that were never written to a file."""
    if isinstance(value, dict):
        return {key: blank(item) for key, item in value.items()}
    if isinstance(value, list):
        return [blank(item) for item in value]
    return math.nan if isinstance(value, float) else value


@pytest.mark.parametrize("how", ["missing", "null", "nan"])
@pytest.mark.parametrize("field", OPTIONAL)
def test_a_field_that_is_not_there_leaves_a_gap_and_no_error(field: str, how: str) -> None:
    found = results(("retrain", "topk", *RATIOS[:3], "finetune"))
    for row in [*found["rows"], *found["summary"][0]["rows"]]:
        if how == "missing":
            row.pop(field, None)
        elif field in row:
            row[field] = None if how == "null" else blank(row[field])
    page = rendered(found)
    assert Page(page).wrong == []
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page.lower(), flags=re.DOTALL)


@pytest.mark.parametrize("field", ["fgunlearn", "date", "machine", "configuration", "limits", "seconds", "rows"])
def test_results_without_something_make_a_page_all_the_same(field: str) -> None:
    found = results(("topk", "finetune"))
    del found[field]
    assert "Evidence, not proof" in rendered(found)


@pytest.mark.parametrize("names", [(), ("retrain",), ("topk",), ("finetune",)])
def test_few_methods_or_none_make_a_page(names: tuple[str, ...]) -> None:
    page = rendered(results(names, seeds=(0,)))
    assert Page(page).wrong == []
    if "topk" not in names:
        assert "There is no figure of any of ours." in page


def test_extreme_figures_make_a_page() -> None:
    extreme = {"average_gap": 0.0, "acceleration": 1e5, "seconds": 1e-5, "gap_mia_worst": -0.0}
    slow = {"average_gap": 98.0, "acceleration": 0.01, "phases": {"train": 9000.0}}
    same = [{"epoch": 1, "retain_loss": 0.0, "forget_loss": 0.0, "learning_rate": 0.1}]
    many = {f"layer.{i}": 0.0 for i in range(300)}
    found = results(("topk", "randomk", "ssd"), topk=extreme | {"history": same, "density": many}, ssd=slow)
    page = rendered(found)
    assert "the 72 densest" in page
    assert "e+" not in page
    assert not re.search("\u22120\\.?0*[^.0-9]", page)


def test_results_that_are_none_are_refused_and_the_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one")
    with pytest.raises(ValueError, match=r"must hold a list of summaries as 'summary', got keys \['rows'\]"):
        write_report({"rows": []}, path)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_results_are_left_as_they_were() -> None:
    found = results(("topk", "finetune"))
    before = copy.deepcopy(found)
    rendered(found)
    assert json.dumps(found) == json.dumps(before)


def test_without_jinja2_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'fgunlearn\[report\]'"):
        write_report(results(("topk",)), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_report_needs_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report(results(("topk",)), tmp_path / "report.html")


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_have_the_contrast_that_wcag_asks_for(page: str, theme: str) -> None:
    begin = page.index(":root {" if theme == "light" else '[data-theme="dark"]')
    palette = colours(page[begin : page.index("}", begin)])

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(palette[a]), luminance(palette[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ink in ("ink", "soft", "ours-ink", "others-ink", "good-ink", "bad-ink"):
        for ground in ("page", "card", "band"):
            assert contrast(ink, ground) >= 4.5, (ink, ground)
    for ink, ground in (("best-ink", "best"), ("soft", "good"), ("ours-ink", "good"), ("others-ink", "good")):
        assert contrast(ink, ground) >= 4.5, (ink, ground)
    for mark in ("ours", "others", "reference", "s1", "s2", "s3", "limit"):
        assert contrast(mark, "card") >= 3.0, mark
