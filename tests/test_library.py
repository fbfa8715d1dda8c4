from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fgunlearn as fg


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_build_info_says_what_is_installed() -> None:
    info = fg.build_info()
    assert info["version"] == fg.__version__
    assert info["torch"] == torch.__version__
    assert info["torch_target"] == "2.11"
    assert info["simd"] in ("scalar", "avx2", "avx512")
    assert info["cuda"] is False
    assert Path(info["library"]).exists()


def test_a_torch_that_is_too_old_is_named_with_the_cure() -> None:
    done = run("import torch; torch.__version__ = '2.10.1'; import fgunlearn")
    assert "ImportError: fgunlearn needs torch >= 2.11, but torch 2.10.1 is installed" in done.stderr
    assert "pip install 'torch>=2.11'" in done.stderr


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("import sys; sys.modules['fgunlearn._host'] = None", "compiled module fgunlearn._host can't be imported"),
        (
            "import pathlib; pathlib.Path.exists = lambda self: False",
            "library .* is missing. Reinstall it: pip install",
        ),
        (
            "import torch\ndef no(path): raise OSError('x') from OSError('undefined symbol: torch_new')\n"
            "torch.ops.load_library = no",
            "can't be loaded into torch .* undefined symbol: torch_new.*built with torch .*rebuild it",
        ),
    ],
)
def test_a_library_that_does_not_load_says_why_and_what_to_do(break_it: str, words: str) -> None:
    import re

    done = run(f"{break_it}\nimport fgunlearn")
    assert done.returncode != 0
    assert re.search(f"ImportError: .*{words}", done.stderr), done.stderr


def test_the_host_module_needs_no_torch() -> None:
    place = Path(fg.build_info()["library"]).parent
    code = (
        f"import sys; sys.path.insert(0, {str(place)!r}); sys.modules['torch'] = None; "
        "import _host; print(_host.build_info()['version'], _host.simd())"
    )
    done = run(code)
    assert done.stdout.split()[0] == fg.__version__, done.stderr


def test_an_unknown_instruction_set_gives_the_best_one() -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-c", "import fgunlearn as fg; print(fg.build_info()['simd'])"],
        env=os.environ | {"FGUNLEARN_SIMD": "mmx"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("scalar", "avx2", "avx512")
