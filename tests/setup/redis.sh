#!/bin/sh
# redis.sh   Install redis-server, without a service of its own. Run as root; idempotent. Exit 3: missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../worker/setup/apt.sh"
. "$here/no-service.sh"

find_missing redis-server:redis-server
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
begin_install $missing
# shellcheck disable=SC2086
without_services install_packages $missing
