#!/usr/bin/env bash
# What can be held of the CUDA kernels without a GPU: they compute what the CPU kernels compute, run on the CPU under
# AddressSanitizer and UndefinedBehaviorSanitizer (tests/cuda); and nvcc compiles them without spills or stack frames.
#
#   PYTHON  the interpreter, beside which cmake and ninja are looked for first (default python3)
#   JOBS    compilers at once (default 2)
#   ARCHS   architectures for nvcc (default "90 80")
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
jobs="${JOBS:-2}"
build="build/cuda_tests"

beside="$(dirname "$(command -v "$python")")"
PATH="$beside:$PATH"
for tool in cmake ninja; do
  command -v "$tool" >/dev/null || { echo "check_cuda: $tool is neither beside $python nor on the PATH" >&2; exit 1; }
done

# A folder configured by a cmake that has gone, or for a tree that has moved, is no use.
if ! cmake -S tests/cuda -B "$build" -G Ninja -DSANITIZE=ON -Wno-dev >/dev/null 2>&1; then
  rm -rf "$build"
  cmake -S tests/cuda -B "$build" -G Ninja -DSANITIZE=ON -Wno-dev >/dev/null
fi
cmake --build "$build" --parallel "$jobs"
"$build/cuda_tests"

if ! command -v nvcc >/dev/null; then
  echo "check_cuda: there is no nvcc: registers, stack frames and spills are not checked"
  exit 0
fi
arguments=()
for arch in ${ARCHS:-90 80}; do arguments+=(--arch "$arch"); done
"$python" scripts/check_ptxas.py "${arguments[@]}"
