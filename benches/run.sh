#!/usr/bin/env bash
# Every measurement of the project: decisions and memory in Rust beside governor, Python beside the published packages,
# a durable file beside SQLite alone, a shared store beside the least that a Redis server can be asked.
#   benches/run.sh [--quick]      tables on the terminal, JSON in bench-results/
# Close what else is running: one-thread figures are CPU time, the others are not.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=()
[ "${1:-}" = --quick ] && quick=(--quick)
out=$PWD/bench-results
date=$(date -u +%F)
mkdir -p "$out"

cargo bench --quiet -p checkrein --bench decisions -- "${quick[@]}" --date "$date" --json "$out/decisions.json"
cargo bench --quiet -p checkrein --bench memory -- --date "$date" --json "$out/memory.json"
cargo bench --quiet -p checkrein --bench durable -- "${quick[@]}" --date "$date" --json "$out/durable.json"
if command -v redis-server >/dev/null; then
    cargo bench --quiet -p checkrein --bench redis -- "${quick[@]}" --date "$date" --json "$out/redis.json"
else
    echo "skipped: decisions on a Redis server: there is no redis-server (apt-get install redis-server)"
fi
cargo bench --quiet -p checkrein --bench ledger -- --date "$date" --json "$out/ledger.json"
cargo bench --quiet -p checkrein --bench prices -- --date "$date" --json "$out/prices.json"
cargo bench --quiet -p checkrein --bench policy -- --date "$date" --json "$out/policy.json"

# The release wheel, in an environment of the Python version that the published packages run on.
scripts/wheel.sh release build/bench-wheel
.venv/bin/python benches/python/run.py "${quick[@]}" --wheel build/bench-wheel/*.whl --date "$date" \
    --json "$out/python.json"
.venv/bin/python benches/python/shared.py "${quick[@]}" --wheel build/bench-wheel/*.whl --date "$date" \
    --json "$out/redis-python.json"
echo "results: $out"
