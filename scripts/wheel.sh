#!/usr/bin/env bash
# Builds the wheel: the extension, the typed package and the native `checkrein` command in one file.
#   scripts/wheel.sh PROFILE OUT_DIR     PROFILE is a cargo profile: dev (fast to build) or release (fast to run)
# maturin takes the command from python/checkrein.data/scripts, so it is put there first.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:?a cargo profile}
out=${2:?a directory for the wheel}
target=${CARGO_TARGET_DIR:-target}
built=$profile
[ "$profile" = dev ] && built=debug

cargo build --locked --profile "$profile" -p checkrein-cli
mkdir -p python/checkrein.data/scripts
install -m 755 "$target/$built/checkrein" python/checkrein.data/scripts/checkrein
[ "$profile" = dev ] || strip python/checkrein.data/scripts/checkrein 2>/dev/null || true

rm -rf "$out"
.venv/bin/maturin build --locked --interpreter .venv/bin/python --profile "$profile" --compatibility linux --out "$out"
ls -l "$out"/*.whl
