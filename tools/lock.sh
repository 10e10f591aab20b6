#!/bin/sh
# Resolves pyproject.toml into requirements/dev.txt: exact versions with hashes, for every platform and Python.
set -eu
cd "$(dirname "$0")/.."

if command -v uv >/dev/null; then
    uv=uv
else
    [ -x build/uv/bin/uv ] || { python3 -m venv build/uv && build/uv/bin/python -m pip install --quiet uv; }
    uv=build/uv/bin/uv
fi
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras --no-header \
    pyproject.toml -o requirements/dev.txt "$@"
