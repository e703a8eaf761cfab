#!/bin/sh
# venv.sh PYTHON DIR   Make a virtual environment in DIR. Debian keeps venv in a package of its own: as root it is
# installed, else named (exit 3).
set -eu
python=$1
directory=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is too old: Python 3.11 or newer is needed (make PYTHON=...)" >&2
    exit 3
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing: python3-venv; install it as root, then run make again" >&2
        exit 3
    fi
    echo "installing: python3-venv"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq install -y --no-install-recommends python3-venv >/dev/null 2>&1 || {
        apt-get -qq update
        apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
    }
fi
[ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
