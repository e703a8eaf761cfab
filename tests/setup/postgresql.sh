#!/bin/sh
# postgresql.sh   Install PostgreSQL 15's server, without a cluster or service. Run as root; idempotent.
# Exit 3: missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../worker/setup/apt.sh"
. "$here/no-service.sh"

for program in /usr/lib/postgresql/*/bin/initdb; do
    [ ! -x "$program" ] || exit 0
done
begin_install postgresql-15
# Debian's package makes and starts a cluster unless told not to.
mkdir -p /etc/postgresql-common
[ -f /etc/postgresql-common/createcluster.conf ] ||
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
# The configuration file above is not the package's own: keep it, and do not ask.
APT_GET="$APT_GET -o Dpkg::Options::=--force-confold"
without_services install_packages postgresql-15
