#!/usr/bin/env bash
# The experiments that are run in full, seeds 0-4, with their tables; about 8 minutes.
#     bash tests/show/experiments.sh [NAME ...]   (PYTHON=... for another interpreter than .venv's)
#     bash tests/show/experiments.sh --quick [NAME ...]   (all quick forms)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends
python=${PYTHON:-.venv/bin/python}
quick=()
names=(output_recurrence hidden_bit cliff gradient_norms adding)
if [[ ${1-} == --quick ]]; then
    shift
    quick=(--quick)
    export MINIGRAD_BACKEND=numpy OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
    read -ra names < <("$python" -c '
from minigrad_rnn.experiments import NAMES, experiment
print(experiment.QUICK_SECONDS, *NAMES)')
    limit=${names[0]} names=("${names[@]:1}")
fi
(($#)) && names=("$@")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
TIMEFORMAT=%U
for name in "${names[@]}"; do
    words=(experiment "$name" "${quick[@]}")
    echo "\$ minigrad-rnn ${words[*]}"
    words+=(--save "$folder/$name.json")
    { time "$python" -m minigrad_rnn.cli "${words[@]}" 2>"$folder/err"; } 2>"$folder/time"
    status=$? seconds=$(<"$folder/time")
    if ((status)); then
        tail -3 "$folder/err"
        echo "FAIL experiment $name" && failed=1
    elif ((${#quick[@]} && ${seconds%.*} >= limit)); then
        echo "FAIL experiment $name: $seconds s of processor time, at most $limit" && failed=1
    else
        echo "PASS experiment $name: $seconds s of processor time"
    fi
    echo
done
exit $failed
