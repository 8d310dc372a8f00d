#!/usr/bin/env bash
# The experiments whose trained results the lectures' table asks for, in full, seeds 0-4 (hours).
#     bash tests/show/experiments_full.sh [NAME ...]   (PYTHON=... for another interpreter)
# Each result is kept in FOLDER (default: experiments-full) as it ends: after Ctrl-C the same
# command goes on. SEEDS="0 1" runs fewer, MINIGRAD_BACKEND=numba is fastest.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends MINIGRAD_BACKEND=${MINIGRAD_BACKEND:-numba}
python=${PYTHON:-.venv/bin/python}
folder=${FOLDER:-experiments-full}
read -ra seeds <<<"${SEEDS:-0 1 2 3 4}"
names=("$@")
((${#names[@]})) || names=(recall temporal_order gru_lstm copying dates reversal ntm_copy)
mkdir -p "$folder"
failed=0
for name in "${names[@]}"; do
    echo "\$ minigrad-rnn experiment $name --seeds ${seeds[*]}"
    "$python" -m minigrad_rnn.cli experiment "$name" --seeds "${seeds[@]}" \
        --save "$folder/$name.json"
    case $? in
        0) echo "PASS experiment $name" ;;
        130) exit 130 ;;
        *) echo "FAIL experiment $name" && failed=1 ;;
    esac
    echo
done
exit $failed
