#!/bin/sh
# install-registry.sh   Install what demo images and tests need. Run as root.
#
# docker-registry (an image registry for loopback), apache2-utils (htpasswd: a private registry) and
# busybox-static (what the demo images are made of). Idempotent. Exit 3: something is missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"

find_missing docker-registry:docker-registry htpasswd:apache2-utils
find_missing_busybox
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
begin_install $missing
# shellcheck disable=SC2086
install_packages $missing
# Debian's package starts a registry for the whole machine; ours are started where they are needed.
[ ! -d /run/systemd/system ] || systemctl --quiet disable --now docker-registry
