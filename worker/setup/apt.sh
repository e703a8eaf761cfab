# Sourced by the install scripts beside it: what they share in dealing with apt. POSIX sh.
#
# An install script sets `missing` with find_missing, leaves at once when there is nothing to do, and
# calls begin_install before it changes the machine.

export DEBIAN_FRONTEND=noninteractive
APT_GET='apt-get -qq -o DPkg::Lock::Timeout=300'
LOCK=/run/lock/prominence-setup.lock

# find_missing COMMAND:PACKAGE...   Set `missing` to the packages whose command is absent.
find_missing() {
    missing=
    for pair; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
}

# find_missing_busybox   Add busybox-static to `missing` unless it is installed: Debian's other package of
# that command is linked dynamically, and useless inside an image.
find_missing_busybox() {
    dpkg-query -W -f '${Status}\n' busybox-static 2>/dev/null | grep -q '^install ok installed' ||
        missing="$missing busybox-static"
}

# begin_install WHAT...   Say what will be installed and hold the machine-wide lock until this process
# ends; exit 3 when not root.
begin_install() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing: $*" >&2
        echo "run as root: $0" >&2
        exit 3
    fi
    echo "installing: $*"
    mkdir -p "${LOCK%/*}"
    exec 9>"$LOCK"
    flock 9
}

# install_packages PACKAGE...   Install from the machine's own apt sources. The package lists are
# refreshed only when a first try fails: they may be absent or too old to name existing files.
install_packages() {
    [ $# -gt 0 ] || return 0
    # shellcheck disable=SC2086
    $APT_GET install -y --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    # shellcheck disable=SC2086
    $APT_GET update && $APT_GET install -y --no-install-recommends "$@" >/dev/null
}

# debian_mirror   Print the address from which this machine's apt takes Debian itself.
debian_mirror() {
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian bookworm //p' | head -n 1
}
