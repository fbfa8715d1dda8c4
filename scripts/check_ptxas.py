"""Compiles every CUDA kernel and holds it to what ptxas reports: no spills, and no stack frame.

A register array that a run-time index sends to local memory, or one variable too many, costs more than any tuning wins,
and no test notices. Prints a table of registers, shared memory, stack and spills, one row per kernel and architecture.
Exit status 1 where a kernel has a stack frame or spills, a file does not compile, or the report names no kernel.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# As CMakeLists.txt compiles them.
FLAGS = ("-std=c++20", "-O3", "--fmad=false", "-lineinfo", "-Xcompiler=-fvisibility=hidden,-Wall,-Wextra")


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel for one architecture; memory in bytes."""

    name: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spills: int

    @property
    def clean(self) -> bool:
        """Whether nothing of it lies in local memory."""
        return self.stack == 0 and self.spills == 0


_ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)' for '(?P<architecture>[^']+)'")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_FUNCTION = re.compile(r"Function properties for (?P<name>\S+)")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse(report: str) -> list[Kernel]:
    """The kernels of a report of ``ptxas -v``.

    A function that is called and not inlined has its own lines, and its stack is not in its callers': it is held to the
    same as a kernel, with 0 registers.

    Raises:
        ValueError: a kernel without its memory or its registers: the report is in a form this does not know.
    """
    kernels = []
    entry: re.Match[str] | None = None
    architecture = ""
    function = ""
    memory: dict[str, tuple[int, int]] = {}
    for line in report.splitlines():
        if found := _ENTRY.search(line):
            if entry is not None:
                raise ValueError(f"no registers for {entry['name']}")
            entry, architecture = found, found["architecture"]
        elif found := _FUNCTION.search(line):
            function = found["name"]
        elif found := _MEMORY.search(line):
            stack, stores, loads = map(int, found.groups())
            memory[function] = (stack, stores + loads)
        elif entry is not None and (found := _USED.search(line)):
            name = entry["name"]
            if name not in memory:
                raise ValueError(f"no stack frame and spills for {name}")
            shared = _SHARED.search(line)
            kernels.append(
                Kernel(name, architecture, int(found[1]), int(shared[1]) if shared else 0, *memory.pop(name))
            )
            kernels += [Kernel(called, architecture, 0, 0, *held) for called, held in memory.items()]
            memory = {}
            entry = None
    if entry is not None:
        raise ValueError(f"no registers for {entry['name']}")
    return kernels + [Kernel(called, architecture, 0, 0, *held) for called, held in memory.items()]


def compile_report(nvcc: str, source: Path, architecture: str) -> str:
    """What ptxas reports for one file.

    Raises:
        RuntimeError: it does not compile; the message is the compiler's.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(nvcc, "-cubin", f"-arch=sm_{architecture}", *FLAGS, "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"),
            *(str(source), "-o", str(Path(folder) / "kernels.cubin")),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{source.name}, sm_{architecture}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stderr + done.stdout


def demangled(names: list[str], nvcc: str) -> list[str]:
    """Readable names, without return types, parameters, and the namespaces that all share."""
    beside = shutil.which("cu++filt", path=str(Path(nvcc).resolve().parent))
    tool = beside or shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is not None and names:
        done = subprocess.run([tool], input="\n".join(names) + "\n", capture_output=True, text=True, check=False)
        if done.returncode == 0 and len(done.stdout.splitlines()) == len(names):
            names = done.stdout.splitlines()
    return [_shortened(name) for name in names]


def _shortened(name: str) -> str:
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|fgunlearn::(cuda::)?|^void ", "", name)
    depth = 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:position]
    return name


def table(kernels: list[Kernel], names: list[str]) -> str:
    """One line per kernel and architecture, those that are not clean marked."""
    width = max(len(name) for name in names)
    lines = [f"{'kernel':{width}}  arch   registers    smem   stack  spills"]
    for kernel, name in sorted(zip(kernels, names, strict=True), key=lambda pair: (pair[1], pair[0].architecture)):
        lines.append(
            f"{name:{width}}  {kernel.architecture:6} {kernel.registers:9} {kernel.shared:7} {kernel.stack:7} "
            f"{kernel.spills:7}{'' if kernel.clean else '  <-- not clean'}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="files to compile; by default csrc/cuda/*.cu")
    parser.add_argument("--arch", action="append", help="architectures, by default 90 and 80; may be repeated")
    parser.add_argument("--nvcc", default=shutil.which("nvcc"), help="by default the one on the PATH")
    chosen = parser.parse_args(arguments)
    if chosen.nvcc is None:
        parser.error("there is no nvcc on the PATH; give --nvcc")
    sources = chosen.sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    kernels: list[Kernel] = []
    errors = []
    for architecture in chosen.arch or ["90", "80"]:
        for source in sources:
            try:
                found = parse(compile_report(chosen.nvcc, source, architecture))
            except (RuntimeError, ValueError) as error:
                errors.append(str(error))
                continue
            if not found:
                errors.append(f"{source.name}, sm_{architecture}: the report names no kernel")
            # A kernel that several files instantiate is reported once per file, and is the same.
            kernels += [kernel for kernel in found if kernel not in kernels]
    if kernels:
        print(table(kernels, demangled([kernel.name for kernel in kernels], chosen.nvcc)))
    unclean = sum(not kernel.clean for kernel in kernels)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if not kernels:
        print("error: no kernel was compiled", file=sys.stderr)
    print(f"{len(kernels)} kernels, {unclean} with a stack frame or spills, {len(errors)} errors")
    return 1 if unclean or errors or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
