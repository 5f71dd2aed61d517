#!/usr/bin/env bash
# Builds the wheel: the extension, the typed package and the native `checkrein` command in one file.
#   scripts/wheel.sh PROFILE OUT_DIR     PROFILE is a cargo profile: dev (fast to build) or release (fast to run)
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:?a cargo profile}
out=${2:?a directory for the wheel}

rm -rf "$out"
# The tools of .venv build it, as `pip install .` would in an environment of its own.
PATH="$PWD/.venv/bin:$PATH" CHECKREIN_PROFILE=$profile .venv/bin/python -m pip wheel --quiet \
    --disable-pip-version-check --no-build-isolation --no-deps --no-index --wheel-dir "$out" .
ls -sh "$out"
