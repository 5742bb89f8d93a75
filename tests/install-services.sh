#!/usr/bin/env bash
# Installs what tests run beside Python: Redis, PostgreSQL and Chromium, from Debian's packages.
# Does nothing where they are. Where it cannot, it says why and succeeds; the tests that need one
# skip and say so.
set -euo pipefail

missing=()
command -v redis-server > /dev/null || missing+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/postgres' > /dev/null || missing+=(postgresql)
command -v chromium > /dev/null || missing+=(chromium)
(( ${#missing[@]} )) || exit 0

skip() {
    echo "Tests that need ${missing[*]} will be skipped: $1." >&2
    exit 0
}

command -v apt-get > /dev/null || skip "there is no apt-get; install them by your own means"
(( EUID == 0 )) || skip "installing packages needs root"
echo "Installing ${missing[*]} for the tests, once." >&2
export DEBIAN_FRONTEND=noninteractive
# Debian starts servers when they are installed; the tests start their own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq > /dev/null 2>&1 || true
apt-get install -qq --no-install-recommends "${missing[@]}" > /dev/null 2>&1 ||
    skip "apt-get could not install them"
