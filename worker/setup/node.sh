#!/bin/sh
# node.sh [--without-registry]   Make a Debian 12 machine able to be a node: install what is missing of
# Apptainer, udocker and (for demo images and tests) a registry. Run as root; well under a second when
# all is there. Exit 3: not root, and the lines on stderr say what is missing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
status=0
"$here/install-apptainer.sh" || status=$?
"$here/install-udocker.sh" || status=$?
[ "${1-}" = --without-registry ] || "$here/install-registry.sh" || status=$?
exit "$status"
