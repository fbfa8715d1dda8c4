"""What importing the package brings with it, and what it can do without torch."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fgunlearn as fg
from fgunlearn import audit

NAMES = sorted(set(fg.__all__) - {"__version__", "build_info"})
PLAN = ["plan", "--params", "8e9", "--k", "0.1%", "--device", "h200"]
WITHOUT_TORCH = {
    0: [["--version"], ["--help"], ["plan", "--help"], PLAN, ["audit", "--help"], ["audit", "verify", "--help"]],
    2: [["nothing"], ["audit", "verify", "nowhere.json"], ["bench", "everything"]],
}
"""Command lines by their exit status."""

COMMANDS = """
import sys
from fgunlearn.cli import main

def run(*arguments):
    sys.argv = ["fgunlearn", *arguments]
    try:
        main()
    except SystemExit as stop:
        return stop.code
"""

CHECK = """
import importlib

def check():
    for name in fgunlearn.__all__:
        found = getattr(fgunlearn, name)
        home = fgunlearn._HOMES.get(name)
        if home is not None:
            assert found is getattr(importlib.import_module("fgunlearn." + home), name), name
            assert callable(found), name
        elif name in fgunlearn._MODULES:
            assert found is importlib.import_module("fgunlearn." + name), name
"""


def run(code: str, *arguments: object) -> str:
    """What another process prints that ran it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_is_not_imported_before_it_is_needed() -> None:
    out = run(
        "import fgunlearn as fg, sys\nassert 'torch' not in sys.modules, 'import'\nfg.__version__, dir(fg), fg.audit\n"
        f"{COMMANDS}\nfor status, lines in {WITHOUT_TORCH}.items():\n    for each in lines:\n"
        "        assert run(*each) == status, each\n        assert 'torch' not in sys.modules, each"
    )
    assert f"fgunlearn {fg.__version__}\n" in out
    assert "arithmetic for 8e+09 bf16 parameters" in out


def test_checkpoints_are_verified_where_there_is_no_torch(tmp_path: Path) -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    result = {"a": base["a"] * torch.tensor([1.0, 2.0, 1.0]), "b": base["b"]}
    for name, tensors in (("base", base), ("result", result)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    hashes = audit.fingerprint(base), audit.fingerprint(result)
    audit.of_patch(*hashes, {"strategy": "topk"}, changed={"a": 2}).save(tmp_path / "audit.json")
    arguments = [tmp_path / "audit.json", "--base", tmp_path / "base.safetensors"]
    arguments += ["--result", tmp_path / "result.safetensors", "--json", tmp_path / "checks.json"]
    out = run(
        "import sys; sys.modules['torch'] = None; given = sys.argv[1:]\n"
        f"{COMMANDS}\nassert [run(each) for each in ('--version', '--help')] == [0, 0]\n"
        "assert run('audit', 'verify', *given) == 0\n"
        "assert run('info') == run('spdgan', '--help') == 2",
        *arguments,
    )
    assert f"fgunlearn {fg.__version__}\n" in out
    for claim in ("base checkpoint", "result checkpoint", "how many values changed"):
        assert f'"claim": "{claim}",\n   "state": "verified"' in (tmp_path / "checks.json").read_text(), claim


def test_patches_are_made_and_applied_where_there_is_no_torch(tmp_path: Path) -> None:
    for name, value in (("base", 0.0), ("new", 1.0)):
        save_file({"a": torch.full((9,), value)}, tmp_path / name)
    lines = [
        ["create", "base", "new", "p"],
        ["apply", "base", "p", "out", "--audit", "audit.json"],
        ["revert", "out", "p", "back"],
        ["apply", "base", "p", "--in-place"],
        ["recover", "base"],
        ["inspect", "p"],
    ]
    run(
        f"import os, sys; os.chdir({str(tmp_path)!r}); sys.modules['torch'] = None\n"
        f"{COMMANDS}\nfor each in {lines}:\n    assert run('patch', *each) == 0, each\n"
        "assert run('patch', 'apply', 'new', 'p', 'out') == 2"
    )
    assert (tmp_path / "base").read_bytes() == (tmp_path / "out").read_bytes()
    assert (tmp_path / "audit.json").is_file()


def test_python_m_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "fgunlearn", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fgunlearn {fg.__version__}\n", "")


def test_any_name_can_be_the_first_to_be_used() -> None:
    """In whichever order modules import each other then. A fork of one process each, which has torch, for speed."""
    out = run(
        "import fgunlearn, torch, os, sys, traceback\n"
        "assert 'fgunlearn.ops' not in sys.modules\n"
        f"for name in {sorted({*NAMES, *fg._MODULES} - {'patch'})}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            getattr(fgunlearn, name)\n"
        "        except BaseException:\n"
        "            traceback.print_exc()\n"
        "            os._exit(1)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
        "print('all')"
    )
    assert out == "all\n"


def test_names_ops_and_modules_are_there_where_torch_comes_later() -> None:
    run(
        f"import sys, fgunlearn\n{CHECK}\nfrom fgunlearn import Repair\nimport torch\n"
        "assert torch.ops.fgunlearn.topk_select\nfrom fgunlearn import *\nassert topk is fgunlearn.topk\n"
        "assert callable(unlearn)\ncheck()"
    )


def test_names_are_there_after_every_module_has_been_imported() -> None:
    """And ops at once, with torch imported before."""
    others = ("__main__", "benchmarks", "libfgunlearn", "libfgunlearn_cuda")
    modules = [each.name for each in pkgutil.iter_modules(fg.__path__) if each.name not in others]
    run(
        f"import torch, fgunlearn, importlib\nassert torch.ops.fgunlearn.topk_select\n{CHECK}\n"
        f"for name in {modules[::-1]}:\n    importlib.import_module('fgunlearn.' + name)\ncheck()"
    )


def test_what_was_pickled_is_read_where_nothing_was_imported() -> None:
    """As worker processes do that are spawned."""
    held = pickle.dumps((fg.TopK(ratio=0.5), fg.topk([torch.tensor([1.0, 3.0])], k=1), fg.unlearn, fg.Repair))
    run(
        f"import pickle; strategy, selection, unlearn, kind = pickle.loads({held!r})\nimport fgunlearn as fg\n"
        "assert strategy == fg.TopK(ratio=0.5)\nassert selection.indices[0].tolist() == [1]\n"
        "assert unlearn is fg.unlearn and kind is fg.Repair"
    )


def test_no_module_has_the_name_of_a_function_or_class() -> None:
    """Importing it would put it in the other's place."""
    modules = {each.name for each in pkgutil.iter_modules(fg.__path__)}
    assert not modules & fg._HOMES.keys()
    assert set(NAMES) == (fg._HOMES.keys() | set(fg._MODULES)) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_its_module_holds(name: str) -> None:
    home = fg._HOMES.get(name)
    found = importlib.import_module(f"fgunlearn.{home or name}")
    assert getattr(fg, name) is (found if home is None else getattr(found, name))


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'fgunlearn' has no attribute 'nothing'"):
        _ = fg.nothing
    assert not hasattr(fg, "__wrapped__")
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'fgunlearn'"):
        exec("from fgunlearn import nothing")


def test_dir_has_every_public_name() -> None:
    assert set(fg.__all__) <= set(dir(fg))
