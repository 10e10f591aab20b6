#!/bin/sh
# Runs every check that needs no store, all of them even when one fails, and says which did.
set -u
cd "$(dirname "$0")/.."

python=.venv/bin/python
export BUF_CACHE_DIR="$PWD/.venv/buf"
failed=""

run() {
    name=$1
    shift
    if output=$("$@" 2>&1); then
        printf '%-14s ok\n' "$name"
    else
        printf '%-14s FAILED\n%s\n' "$name" "$output"
        failed="$failed $name"
    fi
}

# The released contract where there is a release, else what main has.
baseline() {
    git describe --tags --abbrev=0 2>/dev/null && return
    for name in refs/remotes/origin/main refs/heads/main; do
        git rev-parse --quiet --verify "$name^{commit}" 2>/dev/null && return
    done
}

run format "$python" -m ruff format --check --quiet .
run lint "$python" -m ruff check --quiet .
run types "$python" -m mypy
run imports "$python" -c 'import sys; sys.path.insert(0, "services"); from importlinter.cli import lint_imports_command; lint_imports_command()'
run generated "$python" tools/gen.py --check
run contracts .venv/bin/buf lint protos
base=$(baseline)
if [ -n "$base" ] && git cat-file -e "$base:protos/buf.yaml" 2>/dev/null; then
    run breaking .venv/bin/buf breaking protos --against ".git#ref=$base,subdir=protos"
else
    printf '%-14s skipped: no earlier version in this checkout\n' breaking
fi

if [ -n "$failed" ]; then
    printf '\nfailed:%s\n' "$failed"
    exit 1
fi
