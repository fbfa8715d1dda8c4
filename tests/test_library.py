from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

import fgunlearn as fg


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_build_info_says_what_is_installed() -> None:
    info = fg.build_info()
    assert info["version"] == fg.__version__
    assert info["torch"] == torch.__version__
    assert info["torch_target"] == "2.11"
    assert info["simd"] in ("scalar", "avx2", "avx512")
    assert isinstance(info["cuda"], bool)
    assert (info["arches"] == "") == (not info["cuda"])
    if info["cuda_library"] is None:
        assert not torch.cuda.is_available() or not info["cuda"] or info["cuda_error"] is not None
    else:
        assert info["cuda"]
        assert info["cuda_error"] is None
        assert Path(info["cuda_library"]).exists()
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
    done = run(f"{break_it}\nimport fgunlearn.ops")
    assert done.returncode != 0
    assert re.search(f"ImportError: .*{words}", done.stderr), done.stderr


_PRETEND = """
import pathlib, torch
exists, load = pathlib.Path.exists, torch.ops.load_library
pathlib.Path.exists = lambda self: self.name == 'libfgunlearn_cuda.so' or exists(self)
def load_cpu_only(path):
    if 'cuda' in pathlib.Path(path).name:
        raise OSError('no') from OSError('libcudart.so.13: cannot open shared object file')
    load(path)
torch.ops.load_library = load_cpu_only
"""


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("'13.0'", "libfgunlearn_cuda.so can't be loaded into torch .*: libcudart.so.13: cannot open"),
        ("None", "torch .* has no CUDA"),
    ],
)
def test_a_cuda_library_that_does_not_load_is_reported_and_the_cpu_works(version: str, words: str) -> None:
    done = run(
        f"{_PRETEND}\ntorch.version.cuda = {version}\nimport fgunlearn as fg\n"
        "print(fg.topk([torch.ones(3)], k=1).k, fg.build_info()['cuda_library'])\n"
        "print(fg.build_info()['cuda_error'])"
    )
    assert done.stdout.startswith("1 None\n"), done.stderr
    assert re.search(words, done.stdout), done.stdout


def test_cuda_tensors_without_cuda_kernels_are_refused_with_the_cure() -> None:
    from fgunlearn import ops
    from fgunlearn.parameters import check_tensors

    with FakeTensorMode():
        tensors = {"weight": torch.empty(3, device="cuda")}
    for error, why in ((None, "it was built without CUDA"), ("libcudart is missing", "libcudart is missing")):
        without = {**ops.BUILD_INFO, "cuda_library": None, "cuda_error": error}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "BUILD_INFO", without)
            words = rf"parameter 'weight' is on cuda:0, .*: {why}. Rebuild .*\.to\('cpu'\)"
            with pytest.raises(ValueError, match=words):
                check_tensors(tensors, "parameter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "BUILD_INFO", {**ops.BUILD_INFO, "cuda_library": "there"})
        check_tensors(tensors, "parameter")


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
