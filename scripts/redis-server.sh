#!/usr/bin/env bash
# Sees to it that redis-server is installed: the tests start servers of their own from it, on free ports, and openssl,
# which makes the certificates of those that speak TLS.
# Debian's package starts a service on port 6379; one that came with this script is neither started nor enabled.
set -euo pipefail

if command -v redis-server >/dev/null 2>&1 && command -v redis-cli >/dev/null 2>&1 && command -v openssl >/dev/null 2>&1; then
    redis-server --version
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: redis-server or openssl is not installed" >&2
    echo "hint: install Redis 7.0 or later and openssl with this system's package manager" >&2
    exit 2
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi
policy=/usr/sbin/policy-rc.d
made_policy=no
restore() {
    if [ "$made_policy" = yes ]; then
        "${as_root[@]}" rm -f "$policy"
    fi
}
trap restore EXIT
if [ ! -e "$policy" ]; then
    # What Debian asks before it starts a service: 101 is no.
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made_policy=yes
fi

echo "installing redis-server and openssl with apt-get"
install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends redis-server redis-tools openssl)
"${as_root[@]}" "${install[@]}" || { "${as_root[@]}" apt-get update --quiet && "${as_root[@]}" "${install[@]}"; }
if command -v systemctl >/dev/null 2>&1; then
    "${as_root[@]}" systemctl disable --now redis-server >/dev/null 2>&1 || true
fi
redis-server --version
