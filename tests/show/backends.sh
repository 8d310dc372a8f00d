#!/usr/bin/env bash
# What can run here, and which kernel serves which op in one training step on the Numba backend.
#     bash tests/show/backends.sh        (PYTHON=... for another interpreter than .venv's)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=.:backends
python=${PYTHON:-.venv/bin/python}
failed=0
check() { # check WORDS COMMAND...: PASS if the command succeeds
    local words=$1
    shift
    if "$@"; then echo "PASS $words"; else echo "FAIL $words" && failed=1; fi
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo '$ python -m minigrad backends'
"$python" -m minigrad backends | tee "$folder/backends"
check "numpy, numba and cupy are listed" \
    test "$(grep -cE '\b(numpy|numba|cupy)\b' "$folder/backends")" -ge 3

echo
echo '$ MINIGRAD_BACKEND=numba MINIGRAD_DEBUG=dispatch python -c "... one training step ..."'
MINIGRAD_BACKEND=numba MINIGRAD_DEBUG=dispatch "$python" - 2>"$folder/dispatch" <<'PYTHON'
import math

from minigrad_rnn.session import Session, Settings
from minigrad_rnn.text import default_corpus

session = Session(Settings(steps=1, seq=20), default_corpus(100_000))
print(f"one step: {session.advance():.4f} nats per character, untrained ln V = {math.log(len(session.vocabulary)):.4f}")
PYTHON
check "the step ran" test $? -eq 0
echo "... $(grep -c ' us$' "$folder/dispatch") calls, the first ten of those by a kernel:"
grep ' numba kernel ' "$folder/dispatch" | grep ' us$' | head -10
echo "... and what all of them took, the most expensive first:"
sed -n '/^op  *backend/,$p' "$folder/dispatch" | tee "$folder/table"
check "every op ran on numba" test "$(awk 'NR > 1 && $2 != "numba"' "$folder/table" | wc -l)" -eq 0
for op in sigmoid exp random_bits; do
    check "a kernel served $op" grep -qE "^$op +numba +kernel" "$folder/table"
done
check "matrix products are the array library's" grep -qE "^matmul +numba +xp" "$folder/table"
exit $failed
