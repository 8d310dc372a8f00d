#!/usr/bin/env bash
# Run the suite on a machine with an NVIDIA GPU; ends in a table, which alone goes to stdout:
#   bash tests/gpu/run.sh [arguments for pytest] > tests/gpu/RESULTS.md
# Needs Python 3.11 or later with cupy, numpy, pytest and hypothesis; numba and torch are used where
# they are. PYTHON=... chooses the interpreter. Fails, and says why, where CuPy finds no usable GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=".:backends${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" tests/gpu/report.py "$@"
