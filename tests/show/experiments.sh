#!/usr/bin/env bash
# The experiments that are run in full, seeds 0-4, with their tables; about 8 minutes.
#     bash tests/show/experiments.sh [NAME ...]   (PYTHON=... for another interpreter than .venv's)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends
python=${PYTHON:-.venv/bin/python}
names=("$@")
((${#names[@]})) || names=(output_recurrence hidden_bit cliff gradient_norms adding)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for name in "${names[@]}"; do
    echo "\$ minigrad-rnn experiment $name"
    if "$python" -m minigrad_rnn.cli experiment "$name" --save "$folder/$name.json" 2>"$folder/err"; then
        echo "PASS experiment $name"
    else
        tail -3 "$folder/err"
        echo "FAIL experiment $name" && failed=1
    fi
    echo
done
exit $failed
