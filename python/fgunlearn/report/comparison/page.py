"""``report.html``: one file with everything in it, which opens without a network."""

from __future__ import annotations

import os
from importlib import resources
from typing import TYPE_CHECKING, Any

from fgunlearn.files import replacing
from fgunlearn.report.comparison import figures, table, verdict
from fgunlearn.report.comparison.readings import Scenario, found, number, scenarios
from fgunlearn.report.comparison.wording import seconds

if TYPE_CHECKING:
    import jinja2

_FILES = ("page.html.jinja", "scenario.html.jinja", "page.css", "theme.js")


def check_jinja2() -> None:
    """That jinja2 can be imported.

    Raises:
        ImportError: it can't; the message says what to install.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ImportError("reports need jinja2: pip install 'fgunlearn[report]'") from error


def write_report(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the report of a comparison, replacing the file at once.

    The page needs no other file and no network, and follows the reader's choice of dark or light. The same results
    give the same bytes.

    Args:
        results: of :func:`fgunlearn.experiment.compare.comparison.run`, or what its ``results.json`` holds.
        path: of the HTML file.

    Raises:
        ImportError: there is no jinja2.
        ValueError: the results have no summary.
        OSError: the file can't be written; one that was there is as it was.
    """
    page = rendered(results)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def rendered(results: dict[str, Any]) -> str:
    """The report as HTML; for arguments and errors see :func:`write_report`."""
    environment = _environment()
    every = [_view(scenario, i) for i, scenario in enumerate(scenarios(results))]
    configuration = results.get("configuration") or {}
    return environment.get_template("page.html.jinja").render(
        title="Machine unlearning compared",
        data=str(configuration.get("source") or ""),
        version=str(results.get("fgunlearn") or ""),
        facts=_facts(results, configuration),
        scenarios=every,
        columns=table.COLUMNS,
        seed_columns=table.SEED_COLUMNS,
    )


def _environment() -> jinja2.Environment:
    check_jinja2()
    import jinja2

    folder = resources.files(__package__) / "template"
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in _FILES}
    return jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,  # names of methods and tensors are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _view(scenario: Scenario, place: int) -> dict[str, Any]:
    return {
        "id": f"s{place}",
        "title": scenario.title[:1].upper() + scenario.title[1:],
        "facts": _sizes(scenario),
        "sentences": verdict.sentences(scenario),
        "cards": verdict.cards(scenario),
        "groups": table.grouped(scenario),
        "seed_rows": table.seed_rows(scenario),
        "figures": figures.of(scenario, f"s{place}"),
        "several_seeds": len(scenario.seeds) > 1,
    }


def _sizes(scenario: Scenario) -> str:
    names = {"forget": "to forget", "retain": "to retain", "heldout": "held out", "test": "to test"}
    sizes = [f"{scenario.sizes[part]:,} {name}" for part, name in names.items() if number(scenario.sizes.get(part))]
    parameters = [] if scenario.parameters is None else [f"{scenario.parameters:,} parameters"]
    seeds = [f"seed{'s' if len(scenario.seeds) > 1 else ''} {', '.join(map(str, scenario.seeds))}"]
    return " \u00b7 ".join([", ".join(sizes)] * bool(sizes) + parameters + seeds * bool(scenario.seeds))


def _facts(results: dict[str, Any], configuration: dict[str, Any]) -> list[tuple[str, str]]:
    """What the figures were measured on, as terms and descriptions."""
    training = found(configuration, "training") or {}
    said = [f"{name.replace('_', ' ')} {value}" for name, value in training.items() if value is not None]
    about = [
        ("Machine", _machine(results.get("machine") or {})),
        ("Date", str(results.get("date") or "")),
        ("Seeds", ", ".join(map(str, configuration.get("seeds") or []))),
        ("Training", ", ".join(said)),
        ("Images", f"at most {configuration['limit']:,}" if number(configuration.get("limit")) else ""),
        ("Took", seconds(took) if (took := number(results.get("seconds"))) is not None else ""),
    ]
    return [(term, text) for term, text in about if text]


def _machine(machine: dict[str, Any]) -> str:
    parts = [
        machine.get("gpu"),
        machine.get("processor"),
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else None,
        f"{machine['processes']} processes" if machine.get("processes") else None,
        f"torch {machine['torch']}" if machine.get("torch") else None,
    ]
    return ", ".join(str(part) for part in parts if part)
