#!/usr/bin/env bash
# Everything that only a GPU can show, in one command and a few minutes: the tests marked cuda, compute-sanitizer,
# the benchmarks, and one pass of ncu over every kernel.
#
#   scripts/gpu_check.sh [--device cuda|cpu] OUT_DIR
#
# Each step has a log, a time limit, and a line in OUT_DIR/summary.md as soon as it ends: a run that is cut off leaves
# what it had, and a step that fails stops no other but those that need its result. Exit status 0: every step passed;
# 1: one failed; 3: none failed, but some were skipped, which is not passing. No setting of the GPU is changed.
#
#   PYTHON  an interpreter with torch >= 2.11, pytest, hypothesis, pip, scikit-build-core, pybind11, cmake and ninja
#           (default python3). Nothing is downloaded, and nothing is installed outside WORK_DIR.
#   STEPS   which, in this order (default "environment build tests sanitizers bench ncu"); a later run with others adds
#           to the same OUT_DIR
#   WHEEL   a wheel of this tree to use; where it does not work, the tree is built
#   SITE    a folder to import fgunlearn from, already built
#   WORK_DIR  where the build goes (default build/gpu_check)
#   QUICK=1   small benchmarks
#   COMMIT    recorded with the figures where the tree is no git checkout
#   DRY_RUN=1 or --device cpu: without a GPU, to try this script: the steps that need one are skipped
set -uo pipefail
from="$PWD"
cd "$(dirname "$0")/.."
absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$from/$1" ;; esac; }

usage() { sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "scripts/gpu_check.sh"; }

device=cuda
[ "${DRY_RUN:-0}" = 1 ] && device=cpu
out=""
while [ $# -gt 0 ]; do
  case "$1" in
    --device) [ $# -gt 1 ] || { usage >&2; exit 2; }; device="$2"; shift 2 ;;
    --device=*) device="${1#*=}"; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "gpu_check: no such option: $1" >&2; exit 2 ;;
    *) [ -z "$out" ] || { echo "gpu_check: one OUT_DIR, got also $1" >&2; exit 2; }; out="$1"; shift ;;
  esac
done
case "$device" in cuda | cpu) ;; *) echo "gpu_check: --device must be cuda or cpu, got $device" >&2; exit 2 ;; esac
[ -n "$out" ] || { usage >&2; exit 2; }
out="$(absolute "$out")"
mkdir -p "$out/logs" || exit 2

python="${PYTHON:-python3}"
case "$python" in */*) python="$(absolute "$python")" ;; esac
command -v "$python" >/dev/null || { echo "gpu_check: there is no $python" >&2; exit 2; }
work="$PWD/build/gpu_check"
[ -n "${WORK_DIR:-}" ] && work="$(absolute "$WORK_DIR")"
site="$work/site"
[ -n "${SITE:-}" ] && site="$(absolute "$SITE")"
[ -n "${WHEEL:-}" ] && WHEEL="$(absolute "$WHEEL")" && export WHEEL
mkdir -p "$site" || exit 2
steps=" ${STEPS:-environment build tests sanitizers bench ncu} "
# Tools that may lie beside nvcc and not on the PATH; and scripts that came with the interpreter.
PATH="$(dirname "$(command -v "$python")"):$PATH:/usr/local/cuda/bin"
export PATH PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
export device out python work site

has_cuda=no
if [ "$device" = cuda ] && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  has_cuda=yes
fi
slug=cpu
if [ "$has_cuda" = yes ]; then
  slug="cuda-$("$python" -c 'import re, torch
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))')"
fi
results="$out/results/$slug"
mkdir -p "$results"
export results has_cuda

# --- steps: recorded one by one -------------------------------------------------------------------------------------

running=""
record() { # NAME STATUS SECONDS NOTE
  local note
  note="$(printf '%s' "$4" | tr -d '\000-\010\013-\037' | tr '\t\n' '  ' | cut -c 1-200)"
  # A step that is run again replaces what it said before.
  if [ -f "$out/steps.tsv" ]; then
    awk -F '\t' -v name="$1" '$1 != name' "$out/steps.tsv" >"$out/steps.tmp"
    mv "$out/steps.tmp" "$out/steps.tsv"
  fi
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$note" >>"$out/steps.tsv"
  printf '%-9s %-34s %5s s  %s\n' "$2" "$1" "$3" "$note"
  "$python" scripts/gpu_summary.py "$out" || echo "gpu_check: no summary could be written" >&2
}

skip() { record "$1" skipped 0 "$2"; } # NAME REASON

interrupted() {
  trap - INT TERM
  [ -n "$running" ] && { kill -TERM "$running" 2>/dev/null; record "$name" failed "$((SECONDS - begin))" "interrupted"; }
  exit 130
}
trap interrupted INT TERM

step() { # NAME SECONDS COMMAND...: status 77 is a step that says it can't be done here
  name="$1"
  local limit="$2" code status
  shift 2
  export STEP_LOG="$out/logs/$name.log"
  begin=$SECONDS
  timeout --kill-after=10 "$limit" bash -c 'set -uo pipefail; "$@"' step "$@" >"$STEP_LOG" 2>&1 </dev/null &
  running=$!
  wait "$running"
  code=$?
  running=""
  local note
  note="$(grep -v '^[[:space:]]*$' "$STEP_LOG" | tail -n 1)"
  case $code in
    0) status=passed ;;
    77) status=skipped ;;
    124 | 137) status=failed note="not done in $limit s: $note" ;;
    *) status=failed note="exit status $code: $note" ;;
  esac
  record "$name" "$status" "$((SECONDS - begin))" "$note"
  [ "$status" = passed ]
}

wanted() { case "$steps" in *" $1 "*) true ;; *) false ;; esac; }

# --- what they do ---------------------------------------------------------------------------------------------------

environment() {
  uname -srm
  nproc
  free -g 2>/dev/null
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  nvidia-smi -q -d CLOCK,POWER,ECC 2>/dev/null
  nvcc --version 2>/dev/null || echo "no nvcc"
  for tool in compute-sanitizer ncu; do command -v "$tool" || echo "no $tool"; done
  git rev-parse HEAD 2>/dev/null || echo "commit ${COMMIT:-unknown}"
  "$python" -c 'import platform, sys, torch
if torch.cuda.is_available():
    print(torch.cuda.get_device_properties(0))
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
print("python", platform.python_version(), "torch", torch.__version__, "cuda", torch.version.cuda, gpu)
found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
if found < (2, 11):
    sys.exit("torch >= 2.11 is needed")'
}

install() { # WHAT
  # Into a folder of its own: the interpreter's may not be writable, and a venv of a venv does not see its packages.
  "$python" -m pip install --disable-pip-version-check --no-index --no-deps --no-build-isolation --upgrade \
    --target "$site" --config-settings=build-dir="$work/cmake" "$1"
}

works() { # that it is imported from there and, where there is a GPU, computes on it
  "$python" - <<'CHECK'
import os, sys
import torch, fgunlearn
info = fgunlearn.build_info()
print(info)
if os.environ["has_cuda"] == "yes":
    value = torch.ops.fgunlearn.rms([torch.full((1000,), 3.0, device="cuda")])
    torch.cuda.synchronize()
    print("rms on the GPU:", value.tolist())
    sys.exit(value.tolist() != [3.0])
CHECK
}

build() {
  if [ -n "${SITE:-}" ]; then
    works && echo "used the build in SITE"
    return
  fi
  if [ -n "${WHEEL:-}" ]; then
    install "$WHEEL" && works && { echo "used WHEEL"; return; }
    echo "the wheel does not work here; building the tree"
  fi
  rm -rf "$site" "$work/cmake"
  mkdir -p "$site"
  local define="FGUNLEARN_CUDA=OFF"
  if [ "$has_cuda" = yes ]; then
    define="FGUNLEARN_CUDA=ON;CMAKE_CUDA_ARCHITECTURES=$("$python" -c 'import torch
print("%d%d" % torch.cuda.get_device_capability())')" || return
  fi
  SKBUILD_CMAKE_DEFINE="$define" install . && works && echo "built from the tree with $define"
}

test_file() { # FILE XML
  "$python" -m pytest -m cuda -p no:cacheprovider -rs --junit-xml "$2" "$1"
  local code=$?
  [ $code -eq 5 ] && { echo "no test of $1 is marked cuda"; return 77; }
  [ $code -eq 0 ] || return $code
  "$python" scripts/gpu_summary.py --counts "$2" # 77 where every test was skipped
}

sanitize() { # TOOL
  # What goes on inside a kernel is watched in ours only. memcheck watches all, and initcheck has to: it learns what is
  # initialised from the kernels that write it.
  local only=()
  case "$1" in racecheck | synccheck) only=(--kernel-name kernel_substring=fgunlearn) ;; esac
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 99 --report-api-errors no \
    --target-processes all ${only[@]+"${only[@]}"} "$python" scripts/sanitizer_case.py --device cuda || return
  # An exit status of 0 alone proves nothing: the tool has to have counted, and to no more than 0.
  local none='(ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards displayed \(0 errors, 0 warnings\))'
  if ! grep -qE "$none" "$STEP_LOG" || grep -E '(ERROR|RACECHECK) SUMMARY: ' "$STEP_LOG" | grep -qvE "$none"; then
    echo "compute-sanitizer did not say that it found 0 errors"
    return 1
  fi
  grep -q '^every op ran$' "$STEP_LOG" || { echo "not every op ran"; return 1; }
  grep -E "$none" "$STEP_LOG" | tail -n 1
}

fgunlearn() { "$python" -c 'from fgunlearn.cli import main; main()' "$@"; }

bench() { # NAME
  local more=()
  [ "${QUICK:-0}" = 1 ] || [ "$device" = cpu ] && more+=(--quick)
  [ -n "${COMMIT:-}" ] && more+=(--commit "$COMMIT")
  fgunlearn bench "$1" --device "$device" --json "$results/$1.json" ${more[@]+"${more[@]}"} || return
  "$python" scripts/gpu_summary.py --targets "$results/$1.json"
}

profile() {
  local metrics="gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum"
  metrics="$metrics,dram__throughput.avg.pct_of_peak_sustained_elapsed"
  metrics="$metrics,sm__throughput.avg.pct_of_peak_sustained_elapsed"
  metrics="$metrics,sm__warps_active.avg.pct_of_peak_sustained_active,launch__registers_per_thread"
  ncu --clock-control none --target-processes all --kernel-name-base demangled --kernel-name regex:fgunlearn \
    --launch-count 400 --metrics "$metrics" --csv --page raw --print-units base --print-kernel-base function \
    --log-file "$out/ncu.csv" "$python" scripts/sanitizer_case.py --device cuda --numel 100000000 || return
  "$python" scripts/gpu_summary.py --kernels "$out/ncu.csv"
}

export -f environment install works build test_file sanitize fgunlearn bench profile

# --- in order -------------------------------------------------------------------------------------------------------

none="no CUDA device"
wanted environment && step environment 60 environment

ready=yes
if wanted build; then
  step build 420 build || ready=no
else
  works >/dev/null 2>&1 || ready=no # by an earlier run
fi

# Runs a step that needs the build and a GPU, or says why not.
on_gpu() { # NAME SECONDS COMMAND...
  if [ "$has_cuda" = no ]; then
    skip "$1" "$none"
  elif [ "$ready" = no ]; then
    skip "$1" "fgunlearn is not built"
  else
    step "$@"
  fi
}

if wanted tests; then
  found=no
  while IFS= read -r file; do
    found=yes
    short="$(printf '%s' "${file#tests/}" | sed 's/\.py$//; s,/,-,g')"
    on_gpu "tests-$short" 300 test_file "$file" "$out/logs/tests-$short.xml"
  done < <(grep -rlE 'mark\.cuda\b' tests --include='test_*.py' | sort)
  [ $found = yes ] || skip tests "no file has a test marked cuda"
fi

if wanted sanitizers; then
  for tool in memcheck racecheck initcheck synccheck; do
    if [ "$has_cuda" = yes ] && ! command -v compute-sanitizer >/dev/null; then
      skip "sanitizer-$tool" "there is no compute-sanitizer"
    else
      on_gpu "sanitizer-$tool" 240 sanitize "$tool"
    fi
  done
  if [ "$device" = cpu ] && [ $ready = yes ]; then
    step case-on-cpu 120 "$python" scripts/sanitizer_case.py --device cpu
  fi
fi

if wanted bench; then
  for name in ${BENCHES:-select bracket score perturb update streaming}; do on_gpu "bench-$name" 300 bench "$name"; done
  if [ "$device" = cpu ] && [ $ready = yes ]; then step bench-on-cpu 120 bench score; fi
fi

if wanted ncu; then
  if [ "$has_cuda" = yes ] && ! command -v ncu >/dev/null; then
    skip ncu "there is no ncu"
  else
    on_gpu ncu 300 profile
  fi
fi

# An empty run, or one whose steps all stand from an earlier one, is judged by all that OUT_DIR has.
touch "$out/steps.tsv"
counts="$(cut -f 2 "$out/steps.tsv" | sort | uniq -c | awk '{printf "%s%s %s", sep, $1, $2; sep = ", "}')"
echo "${counts:-no step}: $out/summary.md"
cut -f 2 "$out/steps.tsv" | grep -qx failed && exit 1
cut -f 2 "$out/steps.tsv" | grep -qx skipped && exit 3
[ -s "$out/steps.tsv" ] || exit 1
exit 0
