#!/usr/bin/env bash
# Fuzzes the patcher with FILES files (a million by default) under AddressSanitizer and UBSan, and writes what came of it.
# Usage: scripts/fuzz_patch.sh [FILES] [SEED]; PYTHON names the interpreter, which needs numpy and pybind11.
set -euo pipefail
cd "$(dirname "$0")/.."

"${PYTHON:-.venv/bin/python}" tests/fuzz/building.py "${1:-1000000}" "${2:-0}" docs/results/patch-fuzz.json
