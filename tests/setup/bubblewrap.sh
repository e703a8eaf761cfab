#!/bin/sh
# bubblewrap.sh   Install bwrap, the floor of the benchmarks of containers. Run as root; idempotent. Exit 3: missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../worker/setup/apt.sh"

find_missing bwrap:bubblewrap
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
begin_install $missing
# shellcheck disable=SC2086
install_packages $missing
