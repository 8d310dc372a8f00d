#!/bin/sh
# A picture's page in a real browser: loads it, zooms, drags, opens and closes frames, points, steps
# backward. Installs Debian's chromium and its driver where they are missing (needs root for that).
# PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null
fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
exec "$PYTHON" tests/show/browser.py
