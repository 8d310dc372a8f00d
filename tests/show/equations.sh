#!/usr/bin/env bash
# The lectures' equations beside those that the captured graphs say, each checked against NumPy.
#     bash tests/show/equations.sh [NAME]   (PYTHON=... for another interpreter than .venv's)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends
python=${PYTHON:-.venv/bin/python}
echo "\$ minigrad-rnn equations $*"
if "$python" -m minigrad_rnn.cli equations "$@"; then
    echo "PASS all equations hold"
else
    echo "FAIL an equation does not hold"
    exit 1
fi
