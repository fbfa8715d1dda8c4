"""gpu_check.sh's logic where there is no GPU: what is skipped is never called passed, and what fails stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import fgunlearn

Script = Callable[[str], ModuleType]
ROOT = Path(__file__).resolve().parent.parent.parent
NEED_A_GPU = (
    "tests",
    "sanitizer-",
    "bench-select",
    "bench-bracket",
    "bench-score",
    "bench-perturb",
    "bench-update",
    "bench-streaming",
    "ncu",
)


def check(out: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    own = {"PYTHON": sys.executable, "SITE": str(Path(fgunlearn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own, **settings}
    command = [str(ROOT / "scripts" / "gpu_check.sh"), *arguments, str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def outcomes(out: Path) -> dict[str, tuple[str, str]]:
    rows = (line.split("\t") for line in (out / "steps.tsv").read_text().splitlines())
    return {name: (status, note) for name, status, _, note in rows}


def test_without_a_gpu_its_steps_are_skipped_and_the_rest_passes(tmp_path: Path) -> None:
    done = check(tmp_path, DRY_RUN="1")
    assert done.returncode == 3, done.stdout + done.stderr
    found = outcomes(tmp_path)
    for step, (status, note) in found.items():
        if step.startswith(NEED_A_GPU):
            assert status == "skipped", step
            assert note in ("no CUDA device", "no file has a test marked cuda")
        else:
            assert status == "passed", (step, note)
    assert {"environment", "build", "case-on-cpu", "bench-on-cpu"} <= found.keys()
    assert "every op ran" in (tmp_path / "logs" / "case-on-cpu.log").read_text()
    page = (tmp_path / "summary.md").read_text()
    assert "0 failed" in page
    assert "| ncu | skipped | 0 | no CUDA device |" in page
    assert json.loads((tmp_path / "results" / "cpu" / "score.json").read_text())["quick"]


def test_a_step_that_fails_is_said_to_and_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "fgunlearn.py").write_text("raise ImportError('this build is broken')\n")
    done = check(tmp_path / "out", "--device=cpu", SITE=str(tmp_path), STEPS="environment build sanitizers")
    assert done.returncode == 1
    found = outcomes(tmp_path / "out")
    assert found["environment"][0] == "passed"
    assert found["build"][0] == "failed"
    assert "this build is broken" in found["build"][1]
    assert found["sanitizer-memcheck"][0] == "skipped"
    assert "case-on-cpu" not in found
    assert "| build | **failed** |" in (tmp_path / "out" / "summary.md").read_text()


def test_a_later_run_adds_its_steps_and_replaces_those_it_repeats(tmp_path: Path) -> None:
    done = check(tmp_path, DRY_RUN="1", STEPS="environment")
    assert "1 passed" in done.stdout
    done = check(tmp_path, DRY_RUN="1", STEPS="environment ncu")
    assert list(outcomes(tmp_path)) == ["environment", "ncu"]
    assert "1 passed, 1 skipped" in done.stdout


@pytest.mark.parametrize("arguments", [("--device", "tpu"), ("--bogus",), ("one",)])
def test_bad_arguments_get_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = check(tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_that_it_runs_changes_the_gpus_settings() -> None:
    text = (ROOT / "scripts" / "gpu_check.sh").read_text()
    for line in text.splitlines():
        if "nvidia-smi" in line:
            assert not any(word in line for word in (" -pm", " -pl", " -ac", " -lgc", " -c ", " -mig", " -r")), line
    assert "--clock-control none" in text


XML = """<testsuites><testsuite tests="{}">{}</testsuite></testsuites>"""
PASSED = '<testcase name="a"/>'
SKIPPED = '<testcase name="b"><skipped message="no GPU"/></testcase>'
FAILED = '<testcase name="c"><failure message="no"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "status", "said"),
    [
        ((PASSED, SKIPPED), 0, "1 tests passed, 0 failed, 1 skipped"),
        ((SKIPPED, SKIPPED), 77, "0 tests passed, 0 failed, 2 skipped"),
        ((PASSED, FAILED), 1, "1 tests passed, 1 failed, 0 skipped"),
        ((), 77, "0 tests passed, 0 failed, 0 skipped"),
    ],
)
def test_a_file_whose_tests_were_all_skipped_has_not_passed(
    script: Script,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cases: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    (tmp_path / "t.xml").write_text(XML.format(len(cases), "".join(cases)))
    assert script("gpu_summary").main(["--counts", str(tmp_path / "t.xml")]) == status
    assert capsys.readouterr().out.strip() == said


def test_the_table_of_kernels_is_ncus_own_figures(script: Script, tmp_path: Path) -> None:
    head = (
        '"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum",'
        '"dram__throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread"\n'
    )
    lines = (
        "==PROF== Connected to process 7\n"
        + head
        + '"","","","ns","byte","byte","%","register/thread"\n'
        + '"0","7","move_kernel","12000","32000000","1000000","61.5","46"\n'
        + '"1","7","rms_kernel","1,250,000","400000000","0","91.25","32"\n'
    )
    (tmp_path / "ncu.csv").write_text(lines)
    summary = script("gpu_summary")
    assert summary.main(["--kernels", str(tmp_path / "ncu.csv")]) == 0
    rows = [line for line in summary.kernel_table(tmp_path / "ncu.csv") if "_kernel" in line]
    assert rows == [
        "| rms_kernel | 1.2500 | 400.0 | 0.0 | 91.2 | 32 |",
        "| move_kernel | 0.0120 | 32.0 | 1.0 | 61.5 | 46 |",
    ]
    (tmp_path / "ncu.csv").write_text("==ERROR== no permission\n")
    assert summary.main(["--kernels", str(tmp_path / "ncu.csv")]) == 1
    assert summary.kernel_table(tmp_path / "ncu.csv") == []


PRETENDED_CUDA = """
import sys

if not any("gpu_summary" in word for word in sys.orig_argv):
    import torch

    full = torch.full
    torch.full = lambda *sizes, device=None, **options: full(*sizes, **options)
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.get_device_name = lambda device=None: "Pretended GPU 9000"
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.get_device_properties = lambda device=None: "pretended"
"""

PRETENDED_PYTHON = """#!/usr/bin/env bash
given=()
for word in "$@"; do [ "$word" = cuda ] && word=cpu; given+=("$word"); done
exec {python} "${{given[@]}}"
"""

# memcheck and racecheck find nothing; initcheck ends well without having counted; synccheck finds something.
PRETENDED_SANITIZER = """#!/usr/bin/env bash
[ "$PYTORCH_NO_CUDA_MEMORY_CACHING" = 1 ] || exit 5
tool="$2"
while [ "$1" != "$PYTHON" ]; do echo "option $1"; shift; done
"$@" || exit
case "$tool" in
  memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  synccheck) echo "========= ERROR SUMMARY: 3 errors"; exit 99 ;;
esac
"""

PRETENDED_NCU = """#!/usr/bin/env bash
while [ "$1" != --log-file ]; do echo "option $1"; shift; done
{ echo '==PROF== Connected'; echo '"ID","Kernel Name","gpu__time_duration.sum"'; echo '"","","ns"'; } >"$2"
echo '"0","move_kernel","1000"' >>"$2"
"""


def test_with_a_gpu_every_tool_is_called_and_none_is_believed_without_its_count(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("python", PRETENDED_PYTHON.format(python=sys.executable)),
        ("compute-sanitizer", PRETENDED_SANITIZER),
        ("ncu", PRETENDED_NCU),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tools / "sitecustomize.py").write_text(PRETENDED_CUDA)
    out = tmp_path / "out"
    done = check(
        out,
        PYTHON=str(tools / "python"),
        PYTHONPATH=str(tools),
        STEPS="environment build sanitizers bench ncu",
        BENCHES="score",
        QUICK="1",
        COMMIT="abc1234",
    )
    found = outcomes(out)
    status = {name: one for name, (one, _) in found.items()}
    assert status == {
        "environment": "passed",
        "build": "passed",
        "sanitizer-memcheck": "passed",
        "sanitizer-racecheck": "passed",
        "sanitizer-initcheck": "failed",
        "sanitizer-synccheck": "failed",
        "bench-score": "passed",
        "ncu": "passed",
    }, (found, done.stderr)
    assert done.returncode == 1
    assert found["sanitizer-memcheck"][1] == "========= ERROR SUMMARY: 0 errors"
    assert "did not say that it found 0 errors" in found["sanitizer-initcheck"][1]
    assert "exit status 99" in found["sanitizer-synccheck"][1]
    assert "--kernel-name" in (out / "logs" / "sanitizer-racecheck.log").read_text()
    assert "--kernel-name" not in (out / "logs" / "sanitizer-initcheck.log").read_text()
    assert "option --clock-control\noption none" in (out / "logs" / "ncu.log").read_text()
    figures = json.loads((out / "results" / "cuda-pretended-gpu-9000" / "score.json").read_text())
    assert figures["machine"]["commit"] == "abc1234"
    assert "| move_kernel | 0.0010 |" in (out / "summary.md").read_text()
