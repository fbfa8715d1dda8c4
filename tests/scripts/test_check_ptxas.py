from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


def kernel(name: str, *, stack: int = 0, stores: int = 0, loads: int = 0, registers: int = 46, more: str = "") -> str:
    """What ptxas of CUDA 13.0 says of one kernel."""
    return (
        f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\n"
        f"ptxas info    : Function properties for {name}\n"
        f"    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads\n"
        f"ptxas info    : Used {registers} registers, used 1 barriers{more}\n"
        "ptxas info    : Compile time = 85.679 ms\n"
    )


HEAD = "ptxas info    : 0 bytes gmem\n"


def test_every_kernel_is_read_with_its_memory(script: Script) -> None:
    report = HEAD + kernel("_Z5firstv", more=", 1024 bytes smem, 400 bytes cmem[0]") + kernel("_Z6secondv", registers=8)
    first, second = script("check_ptxas").parse(report)
    assert (first.name, first.architecture, first.registers, first.shared) == ("_Z5firstv", "sm_90", 46, 1024)
    assert (second.name, second.registers, second.shared) == ("_Z6secondv", 8, 0)
    assert first.clean
    assert second.clean


@pytest.mark.parametrize("memory", [{"stack": 40}, {"stores": 44}, {"loads": 4}])
def test_a_stack_frame_or_a_spill_is_not_clean(script: Script, memory: dict[str, int]) -> None:
    clean, bad = script("check_ptxas").parse(HEAD + kernel("_Z5cleanv") + kernel("_Z3badv", **memory))
    assert clean.clean
    assert not bad.clean


@pytest.mark.parametrize("after", [kernel("_Z4lastv"), ""])
def test_a_function_that_is_not_inlined_is_held_to_the_same(script: Script, after: str) -> None:
    called = (
        "ptxas info    : Function properties for _Z6calledv\n"
        "    256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    )
    found = script("check_ptxas").parse(HEAD + kernel("_Z5firstv") + called + after)
    assert {one.name: one.clean for one in found if one.name != "_Z4lastv"} == {"_Z5firstv": True, "_Z6calledv": False}


def test_a_report_in_another_form_is_an_error_and_not_a_pass(script: Script) -> None:
    parse = script("check_ptxas").parse
    lines = kernel("_Z5firstv").splitlines(keepends=True)
    with pytest.raises(ValueError, match="no registers for _Z5firstv"):
        parse("".join(lines[:3]))
    with pytest.raises(ValueError, match="no registers for _Z5firstv"):
        parse("".join(lines[:3]) + kernel("_Z6secondv"))
    with pytest.raises(ValueError, match="no stack frame and spills for _Z5firstv"):
        parse(lines[0] + lines[3])


def run(check: ModuleType, monkeypatch: pytest.MonkeyPatch, report: Callable[[], str]) -> int:
    monkeypatch.setattr(check, "compile_report", lambda nvcc, source, architecture: report())
    return check.main(["kernels.cu", "--arch", "90", "--nvcc", "nvcc"])


def test_the_exit_status_tells(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = script("check_ptxas")
    assert run(check, monkeypatch, lambda: HEAD + kernel("_Z5cleanv")) == 0
    assert "1 kernels, 0 with a stack frame or spills, 0 errors" in capsys.readouterr().out
    assert run(check, monkeypatch, lambda: HEAD + kernel("_Z5cleanv") + kernel("_Z3badv", stores=4, loads=4)) == 1
    assert "8  <-- not clean" in capsys.readouterr().out
    assert run(check, monkeypatch, lambda: HEAD) == 1
    assert "names no kernel" in capsys.readouterr().err

    def broken() -> str:
        raise RuntimeError("kernels.cu, sm_90: expected a ';'")

    assert run(check, monkeypatch, broken) == 1
    assert "expected a ';'" in capsys.readouterr().err


def test_names_are_shortened_to_the_kernel_and_its_template_arguments(script: Script) -> None:
    shortened = script("check_ptxas")._shortened
    long = "void fgunlearn::cuda::(anonymous namespace)::move_kernel<(bool)0>(fgunlearn::cuda::CoordinateTable<Pairs>)"
    assert shortened(long) == "move_kernel<(bool)0>"
    assert shortened("void fgunlearn::cuda::_GLOBAL__N__2c4_9_gather_cu_5f::scan(int*)") == "scan"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_nvcc_itself(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "indexed.cu"
    source.write_text(
        "__device__ __noinline__ float called(float* p, int i) {\n"
        "  float a[64];\n"
        "  for (int j = 0; j < 64; ++j) a[j] = p[j];\n"
        "  return a[i];\n"
        "}\n"
        "__global__ void indexed(float* p, int i) { p[0] = called(p, i); }\n"
    )
    assert script("check_ptxas").main([str(source), "--arch", "90"]) == 1
    assert "indexed" in capsys.readouterr().out
    source.write_text("__global__ void copied(float* p, int i) { p[0] = p[i]; }\n")
    assert script("check_ptxas").main([str(source), "--arch", "90"]) == 0
    source.write_text("__global__ void wrong(float* p, int i) { p[0] = q; }\n")
    assert script("check_ptxas").main([str(source), "--arch", "90"]) == 1
