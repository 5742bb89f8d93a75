#!/usr/bin/env bash
# Installs LiteLLM's proxy for tests/serving/http/test_litellm_proxy.py into an environment of its
# own, .cache/litellm: 750 MB, a few minutes once. Does nothing if that is done. Where it cannot,
# it says why and succeeds, and the test is skipped.
#
#   PYTHON     an interpreter of version 3.10 or newer; .venv's unless given
#   PIP_FLAGS  more options for pip, such as an index of your own
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

requirements=tests/requirements-litellm.txt
folder=.cache/litellm
stamp=$folder/installed
python=${PYTHON:-.venv/bin/python}
wanted=$(cksum < "$requirements")

skip() {
    echo "LiteLLM is not installed, its test will be skipped: $1." >&2
    exit 0
}

if [[ -x $folder/bin/litellm && $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    exit 0
fi
command -v "$python" > /dev/null || skip "there is no $python; run make lint first or set PYTHON"
mkdir -p .cache
free_kb=$(df -Pk .cache | awk 'NR == 2 { print $4 }')
(( free_kb > 2000000 )) || skip "it needs 2 GB of free disk"

echo "Installing LiteLLM's proxy for its test into $folder: 750 MB, a few minutes once." >&2
rm -rf "$folder"
"$python" -m venv "$folder" || skip "no virtual environment could be made"
# shellcheck disable=SC2086  # several options
"$folder/bin/python" -m pip install -qq --disable-pip-version-check ${PIP_FLAGS:-} \
    --requirement "$requirements" > "$folder/pip.log" 2>&1 ||
    skip "pip failed: $(grep -v '^WARNING' "$folder/pip.log" | tail -n 1 | cut -c 1-200)"
echo "$wanted" > "$stamp"
