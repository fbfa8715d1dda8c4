"""Commands of other modules: listed without them, and once called as if they had been there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from command_line import Run, refused
from fgunlearn.cli.later import add_later, imported

LATER = sys.modules["fgunlearn.cli.main"].LATER
BUILT_IN = ("demo", "bench", "info")

SHOUTING = """
import typer

app = typer.Typer(no_args_is_help=True, help="Say it.")

@app.command()
def loudly(word: str, times: int = typer.Option(1, help="How often.")) -> None:
    "Say it loudly."
    typer.echo(word.upper() * times)

def once(word: str) -> None:
    "Say it once."
    typer.echo(word)
"""


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command line of two commands in a module of their own, as click's or typer's group."""
    (tmp_path / "shouting.py").write_text(SHOUTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shouting", raising=False)
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    add_later(app, "shout", "shouting:app", "Say it.")
    add_later(app, "say", "shouting:once", "Say it once.")
    return get_command(app)


def test_help_lists_every_command_in_one_line(run: Run) -> None:
    status, out, error = run("--help")
    assert (status, error) == (0, "")
    listed = re.findall(r"^│ (\w+) +(\w.*?) +│$", out, re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted([*LATER, *BUILT_IN])
    assert {name: line for name, line in listed if name in LATER} == {name: line for name, (_, line) in LATER.items()}


@pytest.mark.parametrize("name", LATER)
def test_what_the_list_says_of_a_command_is_how_its_own_help_begins(name: str) -> None:
    place, summary = LATER[name]
    assert imported(name, place).help.partition("\n\n")[0].replace("\n", " ") == summary


@pytest.mark.parametrize("name", LATER)
def test_the_help_of_a_command_is_its_own(run: Run, name: str) -> None:
    status, out, error = run(name, "--help")
    assert (status, error) == (0, "")
    command = imported(name, LATER[name][0])
    assert f"fgunlearn {name} [OPTIONS]" in out
    for option in command.params:
        assert option.opts[0] in out, option
    for each in getattr(command, "commands", ()):
        assert re.search(rf"^│ {each} ", out, re.MULTILINE), each


def test_a_command_that_is_not_there_is_refused(run: Run) -> None:
    refused(run("unlern"), "'unlern'")
    refused(run("audit", "verfy"), "'verfy'")


def test_errors_of_a_command_are_as_ever(run: Run) -> None:
    refused(run("plan", "--params", "8e9"), "--k")
    refused(run("plan", "--params", "8e9", "--k", "0.1%", "--gpus", "many"), "--gpus", "'many'")
    refused(run("audit", "verify", "nowhere.json"), "AUDIT", "nowhere.json")


def test_a_module_is_imported_when_its_command_is_called(shouting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        shouting(["--help"])
    out = capsys.readouterr().out
    assert "Say it once." in out
    assert "shouting" not in sys.modules
    shouting(["shout", "loudly", "no", "--times", "2"], standalone_mode=False)
    shouting(["say", "yes"], standalone_mode=False)
    assert capsys.readouterr().out == "NONO\nyes\n"


def test_a_command_with_commands_shows_them_where_none_is_given(
    shouting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        shouting(["shout", "--help"])
    asked = capsys.readouterr().out
    with pytest.raises(SystemExit):
        shouting(["shout"])
    shown = capsys.readouterr()
    assert "Say it loudly." in asked
    assert asked.split() == (shown.out + shown.err).split()
