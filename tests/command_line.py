"""The command line in tests: what a refusal looks like, and runs in processes of their own, to be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import fgunlearn

Run = Callable[..., tuple[int, str, str]]
"""From arguments to exit status, stdout and stderr; see the fixture ``run``."""


def refused(result: tuple[int, str, str], *parts: str) -> None:
    status, _, error = result
    assert status == 2
    assert error.startswith("fgunlearn: ")
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error


def as_options(given: Mapping[str, object]) -> list[object]:
    """Options by their names in Python: None leaves one out, True gives it without a value."""
    options: list[object] = []
    for name, value in given.items():
        if value is not None:
            options += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return options


RUN_MAIN = "from fgunlearn.cli import main; main()"


def start(work: Path, *arguments: object, code: str = RUN_MAIN) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(work / "tmp")}
    (work / "tmp").mkdir(exist_ok=True)
    package = str(Path(fgunlearn.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT and so would its children: give these a terminal's setting.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "did not get there in a minute"
        time.sleep(0.02)


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """To the whole group, as a terminal does, and see that nothing is left of it."""
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert error == "interrupted\n"
    assert out == ""
    deadline = time.monotonic() + 5  # multiprocessing's own resource tracker outlives the parent by a moment
    while group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not group_lives(process.pid)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
