#!/usr/bin/env bash
# Prints the Python that the project's environment is built from: $PYTHON, else the first of the usual names that
# is 3.11 or newer. Says what to install when there is none.
set -euo pipefail

recent_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    recent_enough "$PYTHON" && { command -v "$PYTHON"; exit 0; }
    echo "error: PYTHON=\`$PYTHON\` is not a Python 3.11 or newer" >&2
    exit 2
fi
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && recent_enough "$candidate"; then
        command -v "$candidate"
        exit 0
    fi
done
echo "error: no Python 3.11 or newer found" >&2
echo "hint: apt-get install python3 python3-venv, or set PYTHON=/path/to/python3" >&2
exit 2
