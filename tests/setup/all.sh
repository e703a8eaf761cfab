#!/bin/sh
# all.sh PYTHON   Install everything the tests need. Exit 3: something is missing, named on stderr, and we are not root.
set -u
here=$(cd "$(dirname "$0")" && pwd)
status=0
"$here/../../worker/setup/node.sh" || status=$?
"$here/postgresql.sh" || status=$?
"$here/redis.sh" || status=$?
"$here/chromium.sh" || status=$?
"$here/pypi-client.sh" "${1:-python3}" prominence 0.21.0 >/dev/null || status=$?
"$here/pypi-client.sh" "${1:-python3}" prominence-cli 1.5.1 >/dev/null || status=$?
exit "$status"
