#!/bin/sh
# install-apptainer.sh   Install Apptainer 1.4 on Debian 12, from Debian's archive alone. Run as root.
#
# Debian 12 has no Apptainer; Debian's development branch (sid) has, built against a newer glibc of
# which it uses only renamed twins of old functions. So: fetch the signed package from sid without
# touching this machine's apt configuration, rebind those symbols (relink_glibc.py refuses whatever it
# cannot rebind), relax the dependencies to Debian 12's names, and install that. The binaries stay
# unprivileged: Debian builds no setuid starter, containers run in user namespaces.
#
# Idempotent. APPTAINER_VERSION=1.4.5-2 pins the version. Exit 3: something is missing, not root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/apt.sh"

sid_apt() {
    # Signatures are checked, the release's age is not: a mirror may be a frozen snapshot.
    apt-get -qq -o Dir::Etc::sourcelist="$work/sid.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false \
        -o APT::Sandbox::User=root "$@"
}

download_from_sid() {
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    mirror=${DEBIAN_MIRROR:-$(debian_mirror)}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sid.list"
    sid_apt update
    (cd "$work" && sid_apt download "apptainer${APPTAINER_VERSION:+=$APPTAINER_VERSION}")
}

rebuild_for_bookworm() {
    dpkg-deb -R "$work"/apptainer_*.deb "$work/tree"
    find "$work/tree" -path "$work/tree/DEBIAN" -prune -o \
        -type f \( -perm /111 -o -name '*.so*' \) -exec python3 "$here/relink_glibc.py" {} +
    # Debian 12 has the same libraries without the "t64" of the 64-bit time transition.
    sed -i -e '/^Depends:/s/libc6 (>= 2\.[0-9]*)/libc6 (>= 2.36)/' \
        -e '/^Depends:/s/\(lib[a-z0-9.+-]*\)t64\( ([^)]*)\)\{0,1\}/\1/g' \
        -e '/^Version:/s/$/~bookworm/' "$work/tree/DEBIAN/control"
    (cd "$work/tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb -Znone -b "$work/tree" "$work/rebuilt.deb" >/dev/null
}

find_missing apptainer:apptainer unsquashfs:squashfs-tools newuidmap:uidmap python3:python3
[ -n "$missing" ] || exit 0
# shellcheck disable=SC2086
begin_install $missing
find_missing apptainer:apptainer # someone else may have held the lock to install it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
install_packages python3 squashfs-tools uidmap
if [ -n "$missing" ]; then
    download_from_sid
    rebuild_for_bookworm
    install_packages "$work/rebuilt.deb"
fi
apptainer --version
