#!/usr/bin/env bash
# Makes the project's virtual environment (.venv) with every Python tool that the checks need, from PyPI.
# Does nothing when it is already there and neither pyproject.toml nor the interpreter changed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.installed
python=$(scripts/python.sh)
wanted="$("$python" -VV | tr '\n' ' ') $(cksum <pyproject.toml)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    touch "$stamp"
    exit 0
fi

echo "installing the Python tools into $venv (with $python)"
if ! "$python" -m venv --clear "$venv" >"$venv.log" 2>&1; then
    cat "$venv.log" >&2
    echo "error: \`$python -m venv\` failed" >&2
    echo "hint: on Debian, apt-get install python3-venv" >&2
    exit 2
fi
rm -f "$venv.log"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --group dev
printf '%s' "$wanted" >"$stamp"
