#!/usr/bin/env bash
# All figures of the lectures into a folder, and the edges in them against those written down.
#     bash tests/show/figures.sh DIR     (PYTHON=... for another interpreter than .venv's)
set -uo pipefail
folder=$(realpath -m "${1:?give a folder for the figures}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends
python=${PYTHON:-.venv/bin/python}

echo "\$ minigrad-rnn figure --all $1"
"$python" -m minigrad_rnn.cli figure --all "$folder" || exit 1
echo
"$python" tests/show/figures.py "$folder"
