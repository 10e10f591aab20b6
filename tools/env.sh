#!/bin/sh
# Makes .venv with the locked dependencies and this checkout. `make env` calls it when the lock is newer than .venv.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# The first Python that can run the suite; a name that exists may still be a shim for a version that does not.
find_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
}

# Debian and Ubuntu ship Python without the parts that make a virtual environment.
install_packages() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing $*"
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
    elif command -v apt-get >/dev/null; then
        die "run this first: sudo apt-get install $*"
    else
        die "install these with your package manager first: $*"
    fi
}

command -v python3 >/dev/null || install_packages python3 python3-venv
python=$(find_python)
[ -n "$python" ] || die "Mneme needs Python 3.11 or newer, as python3 or python3.11 on the PATH; found $(python3 --version)"
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    install_packages "python$version-venv"
fi

if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

if command -v uv >/dev/null; then
    uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements/dev.txt
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    say "installing the locked dependencies (about a minute, once)"
    pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore .venv/bin/python -m pip install --quiet"
    $pip --require-hashes -r requirements/dev.txt
    $pip --no-deps --no-build-isolation --editable .
fi
touch .venv/ready
