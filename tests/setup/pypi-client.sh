#!/bin/sh
# pypi-client.sh PYTHON   Make a virtual environment with the published client, prominence 0.21.0, and print its place.
# It has the same module name as this project, hence an environment of its own, kept between runs.
set -eu
VERSION=0.21.0
room=${XDG_CACHE_HOME:-$HOME/.cache}/prominence-tests/client-$VERSION
if [ ! -f "$room/complete" ]; then
    rm -rf "$room"
    "${1:-python3}" -m venv "$room"
    "$room/bin/pip" install -q --disable-pip-version-check "prominence==$VERSION" >&2
    touch "$room/complete"
fi
echo "$room"
