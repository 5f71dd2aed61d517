#!/usr/bin/env bash
# Makes the project's virtual environment (.venv) with every Python tool that the checks need, from PyPI.
# Does nothing when it is already there and neither pyproject.toml nor the interpreter changed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.installed
python=$(scripts/python.sh)
interpreter=$("$python" -VV | tr '\n' ' ')
wanted="$interpreter$(cksum <pyproject.toml)"
if "$venv/bin/python" -c '' 2>/dev/null; then
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        touch "$stamp"
        exit 0
    fi
    [ "$("$venv/bin/python" -VV | tr '\n' ' ')" = "$interpreter" ] || rm -rf "$venv"
else
    rm -rf "$venv"
fi

echo "installing the Python tools into $venv (with $python)"
if [ ! -d "$venv" ]; then
    if ! "$python" -m venv "$venv" >"$venv.log" 2>&1; then
        cat "$venv.log" >&2
        rm -rf "$venv"
        echo "error: \`$python -m venv\` failed" >&2
        echo "hint: on Debian, apt-get install python3-venv" >&2
        exit 2
    fi
    rm -f "$venv.log"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --group dev
printf '%s' "$wanted" >"$stamp"
