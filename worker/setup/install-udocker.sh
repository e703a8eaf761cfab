#!/bin/sh
# install-udocker.sh   Install udocker 1.3.17 with Debian's proot on Debian 12. Run as root.
#
#   /opt/udocker          the Python package, and `proot`, a wrapper
#   /usr/local/bin/udocker
#   /etc/udocker.conf     use that proot; download no binary tools
#
# Idempotent. Exit 3: something is missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"
VERSION=1.3.17
ROOM=/opt/udocker

install_package() {
    rm -rf "$ROOM"
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip ca-certificates
    python3 -m pip install -qq --no-deps --root-user-action=ignore --target "$ROOM" "udocker==$VERSION"
    cat >"$ROOM/proot" <<'PROOT'
#!/bin/sh
# Debian 12's proot 5.1.0 breaks openat() when told to emulate a kernel release (-k), which udocker
# always asks for: run it without. Only options before the root (-r) are proot's own for sure.
for argument do
    shift
    if [ -n "${skip-}" ]; then skip=; continue; fi
    if [ -z "${rooted-}" ]; then
        case $argument in
            -k) skip=1; continue ;;
            -r) rooted=1 ;;
        esac
    fi
    set -- "$@" "$argument"
done
exec /usr/bin/proot "$@"
PROOT
    chmod 755 "$ROOM/proot"
    chmod -R a+rX "$ROOM"
}

install_command() {
    cat >/usr/local/bin/udocker <<'COMMAND'
#!/usr/bin/python3 -I
# The system's Python: every user can run it, which is not so of one under root's home.
import sys

sys.path.insert(0, "/opt/udocker")
from udocker.maincmd import main

sys.exit(main())
COMMAND
    printf '[DEFAULT]\ntarball =\nuse_proot_executable = %s/proot\n' "$ROOM" >/etc/udocker.conf
    chmod 755 /usr/local/bin/udocker
    chmod 644 /etc/udocker.conf
}

complete() {
    [ -x "$ROOM/proot" ] && [ -x /usr/local/bin/udocker ] && [ -f /etc/udocker.conf ] &&
        [ -d "$ROOM/udocker-$VERSION.dist-info" ]
}

find_missing proot:proot curl:curl /usr/bin/python3:python3
find_missing_busybox # the supervisor inside containers
complete || missing="$missing udocker-$VERSION"
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
begin_install $missing
install_packages proot curl python3 busybox-static
if ! complete; then
    install_package
    install_command
fi
echo "udocker $VERSION"
