#!/usr/bin/env bash
# README's two commands, verbatim, each in a fresh clone of the last commit without a venv.
#     bash tests/show/readme.sh [train|test]
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Nothing of this shell's own environment helps.
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME
for name in ${!MINIGRAD_*}; do unset "$name"; done
failed=0
verdict() { # verdict CODE WORDS
    if [[ $1 -eq 0 ]]; then echo "PASS $2"; else echo "FAIL $2" && failed=1; fi
}

show() { # show NAME PATTERN: run the README's line that matches, in a clone of its own
    local line started code
    line=$(grep -E -m1 "$2" "$root/README.md") || { verdict 1 "README has no line $2"; return 1; }
    git clone --quiet "$root" "$folder/$1" || { verdict 1 "no clone"; return 1; }
    echo "commit $(git -C "$folder/$1" rev-parse --short HEAD), $(python3 --version)"
    echo "\$ $line"
    started=$SECONDS
    (cd "$folder/$1" && exec bash -uo pipefail -c "$line") </dev/null 2>&1 |
        tr '\r' '\n' | grep -v '^ *$' | tee "$folder/$1.log" | grep -vE '^ *[0-9]+%\|'
    code=${PIPESTATUS[0]}
    verdict "$code" "README's $1 command, $((SECONDS - started)) s with the installation"
}

if [[ ${1:-train} == train ]] && show train '^python3 -m venv .*minigrad-rnn train$'; then
    minutes=$(awk '$1 == "done" { print $3 ~ /^minute/ ? $2 : $2 / 60 }' "$folder/train.log")
    awk -v m="${minutes:-99}" 'BEGIN { exit !(m <= 3.0) }'
    verdict $? "the training took ${minutes:-?} minutes, at most 3"
    for file in minigrad-rnn.safetensors minigrad-rnn.csv minigrad-rnn.png; do
        test -s "$folder/train/$file"
        verdict $? "it left $file"
    done
    echo '$ .venv/bin/minigrad-rnn sample'
    (cd "$folder/train" && .venv/bin/minigrad-rnn sample)
    verdict $? "and it writes"
fi
if [[ ${1:-test} == test ]]; then
    show test '^python3 -m venv .* -m pytest$'
fi
exit $failed
