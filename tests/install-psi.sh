#!/usr/bin/env bash
# Installs openmined-psi for tests/serving/sharing/test_overlap.py into .cache/psi, a few MB, once.
# It pins an older protobuf than the training libraries need and works with theirs, so it is
# installed without its dependencies, beside them. Where it cannot, it says why and succeeds, and
# the test is skipped.
#
#   PYTHON     the interpreter of the tests; .venv's unless given
#   PIP_FLAGS  more options for pip, such as an index of your own
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(grep -o 'openmined-psi==[0-9.]*' pyproject.toml | head -n 1)
folder=.cache/psi
stamp=$folder/installed
python=${PYTHON:-.venv/bin/python}

if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"
# shellcheck disable=SC2086  # several options
if ! "$python" -m pip install -qq --disable-pip-version-check ${PIP_FLAGS:-} --no-deps \
    --target "$folder" "$wanted" > "$folder/pip.log" 2>&1; then
    echo "openmined-psi is not installed, its test will be skipped:" \
        "$(grep -v '^WARNING' "$folder/pip.log" | tail -n 1 | cut -c 1-200)." >&2
    exit 0
fi
echo "$wanted" > "$stamp"
