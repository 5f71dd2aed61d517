#!/usr/bin/env bash
# Every check of the project, cheapest first; stops at the first that fails and names it.
#   scripts/test.sh lint    only what reads the sources
#   scripts/test.sh all     the whole of `make test`
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_PROGRESS_WHEN=never

what=${1:-all}
summary=()
begun=$SECONDS

# step NAME COMMAND...: runs it, keeps its time, and ends everything when it fails.
step() {
    local name=$1 started=$SECONDS
    shift
    printf '\n==> %s\n' "$name"
    if ! "$@"; then
        summary+=("  FAILED  $(printf '%4ds' $((SECONDS - started)))  $name")
        printf '\n'
        printf '%s\n' "${summary[@]}"
        printf '\nmake test: failed at step "%s"\n    %s\n' "$name" "$*" >&2
        exit 1
    fi
    summary+=("  ok      $(printf '%4ds' $((SECONDS - started)))  $name")
}
skip() {
    printf '\n==> %s: skipped, %s\n' "$1" "$2"
    summary+=("  skipped        $1 ($2)")
}

rust_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        CHECKREIN_REQUIRE_REDIS=1 cargo nextest run --locked --workspace --no-fail-fast --no-tests=fail --status-level fail
    else
        CHECKREIN_REQUIRE_REDIS=1 cargo test --locked --workspace --all-targets --quiet
    fi
}
install_wheel() {
    scripts/wheel.sh dev build/wheel &&
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps build/wheel/*.whl &&
        .venv/bin/checkrein --version
}
older_sdks() {
    # Beside the environment: their newer versions are in there, and both are supported.
    older openai2 openai 2.54.0 && older anthropic0 anthropic 0.85.0
}
older() {
    [ -d "build/$1/$2-$3.dist-info" ] ||
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
            --target "build/$1" "$2==$3"
}
python_tests() {
    # From the installed wheel, not from the source tree: tests/python/conftest.py refuses to run otherwise.
    env -u PYTHONPATH CHECKREIN_TEST_INSTALLED=1 .venv/bin/python -m pytest -q -rs tests/python
}

step "python tools" scripts/venv.sh
step "rust format" cargo fmt --all --check
step "python lint" .venv/bin/ruff check .
step "python format" .venv/bin/ruff format --check .
step "python types" .venv/bin/mypy
step "rust lint" cargo clippy --locked --workspace --all-targets -- -D warnings
if cargo deny --version >/dev/null 2>&1; then
    # Advisories need a database from the network; a scheduled job of the forge checks them.
    step "dependencies" cargo deny --log-level error check licenses bans sources
else
    skip "dependencies" "cargo-deny is not installed"
fi
if [ "$what" = all ]; then
    step "redis server" scripts/redis-server.sh
    step "rust tests" rust_tests
    step "planted bugs" cargo test --locked --quiet -p checkrein-sim --features planted-bugs --test planted
    step "rust doc tests" cargo test --locked --workspace --doc --quiet
    step "wheel" install_wheel
    step "stubs" .venv/bin/python -m mypy.stubtest checkrein._native \
        --mypy-config-file pyproject.toml --allowlist tests/python/stubtest-allowlist.txt
    step "older SDKs" older_sdks
    step "python tests" python_tests
fi

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%s: all checks passed in %d s\n' "$what" $((SECONDS - begun))
