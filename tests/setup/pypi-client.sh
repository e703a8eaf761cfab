#!/bin/sh
# pypi-client.sh PYTHON [PACKAGE VERSION]   Make a virtual environment with a published client (prominence 0.21.0) and
# print its place. Both have the module name of this project, hence environments of their own, kept between runs.
set -eu
package=${2:-prominence} version=${3:-0.21.0}
room=${XDG_CACHE_HOME:-$HOME/.cache}/prominence-tests/$package-$version
if [ ! -f "$room/complete" ]; then
    rm -rf "$room"
    "${1:-python3}" -m venv "$room"
    "$room/bin/pip" install -q --disable-pip-version-check "$package==$version" >&2
    touch "$room/complete"
fi
echo "$room"
