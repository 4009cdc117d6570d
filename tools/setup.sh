#!/bin/bash
# Make this checkout ready to run: Debian packages, .venv, and the kernel that the test guest boots.
#
#   S1  Idempotent. Each step first looks whether its result is there, so a second run takes a fraction of a second.
#   S2  Only missing packages are installed, and only as root with apt. Otherwise one line says what is missing,
#       and the steps that do not need it go on.
#   S3  Only the virtual environment is essential: without it the script fails. Tests of what else is missing skip.
#   S4  A result appears under its final name only when it is whole (venv: a stamp; guest: a rename).
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(qemu-utils qemu-system-x86 qemu-block-extra nbdkit libnbd-bin python3-libnbd fio busybox-static cpio
          e2fsprogs kmod strace rsync git make libc6-dev fuse3 libfuse3-dev pkg-config gcc stress-ng attr acl
          radosgw ceph-mon ceph-osd ceph-common)
GUEST=.cache/guest
STAMP=.venv/.sds-setup
LOG=.cache/setup.log
mkdir -p .cache

say() { echo "setup: $*"; }

# name of a Python >= 3.11, or nothing
find_python() {
    local name
    for name in python3.11 python3 python3.12 python3.13; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

# whether programs can be compiled for this Python
has_headers() {
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

# whether pyfuse3 can be built: it comes as source only
can_build_fuse() {
    command -v gcc >/dev/null && pkg-config --exists fuse3 2>/dev/null && has_headers "$1"
}

have_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

refresh_index() {
    # A fresh machine has no package index at all; an old one is refreshed when an installation fails.
    say "reading the package index"
    apt-get update -q >>"$LOG" 2>&1
}

install_packages() {
    local missing=() name python
    python=$(find_python)
    [ -n "$python" ] && { "$python" -c 'import ensurepip, venv' 2>/dev/null || PACKAGES+=(python3-venv); }
    [ -n "$python" ] && { has_headers "$python" || PACKAGES+=(python3-dev); }
    if ! have_apt; then
        say "no apt here: tests that need these are skipped unless you install them: ${PACKAGES[*]}"
        return
    fi
    for name in "${PACKAGES[@]}"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        say "not root, so tests that need them are skipped; to have them: apt-get install ${missing[*]}"
        return
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt_install "${missing[@]}" && return
    refresh_index && apt_install "${missing[@]}" && return
    say "apt could not install all of: ${missing[*]} (see $LOG); going on without"
}

apt_install() { apt-get install -q -y --no-install-recommends "$@" >>"$LOG" 2>&1; }

make_venv() {
    local python want extras=dev,s3,fuse
    python=$(find_python)
    [ -n "$python" ] || { say "Python 3.11 or newer is missing: install python3"; exit 1; }
    can_build_fuse "$python" || extras=dev,s3
    want=$(echo "$extras" | cat - pyproject.toml tools/setup.sh | sha256sum)
    [ -x .venv/bin/sds ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$want" ] && return
    if [ ! -x .venv/bin/pip ]; then
        say "making .venv"
        rm -rf .venv
        "$python" -m venv .venv >>"$LOG" 2>&1 ||
            { rm -rf .venv; say "cannot make .venv: install python3-venv (see $LOG)"; exit 1; }
    fi
    say "installing Python packages"
    [ "$extras" = dev,s3 ] && say "without FUSE, so tests that mount are skipped: it needs fuse3 libfuse3-dev gcc python3-dev"
    if [ "$extras" != dev,s3 ] && ! pip_install "$extras"; then
        say "pyfuse3 cannot be built (see $LOG): going on without FUSE"
        extras=dev,s3
    fi
    [ "$extras" != dev,s3 ] || pip_install dev,s3 ||
        { tail -3 "$LOG" >&2; say "pip failed (see $LOG): is the package index reachable?"; exit 1; }
    echo "$want" >"$STAMP"
}

pip_install() { .venv/bin/pip install -q --disable-pip-version-check -e ".[$1]" >>"$LOG" 2>&1; }

# libnbd's Python binding comes from Debian only. The environment does not see Debian's packages, on purpose, so the
# two files of this one are linked into it.
link_libnbd() {
    local site file
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    for file in /usr/lib/python3/dist-packages/nbd.py /usr/lib/python3/dist-packages/libnbdmod.*.so; do
        [ -e "$file" ] && ln -sf "$file" "$site/"
    done
    .venv/bin/python -c 'import nbd' 2>/dev/null || say "libnbd's Python binding does not load: its tests are skipped"
}

# The guest's kernel and modules, unpacked and not installed: nothing on this machine boots it.
fetch_guest_kernel() {
    local new=$GUEST.new
    [ -e "$GUEST/vmlinuz" ] && return
    if ! have_apt; then
        say "no apt here: tests that boot a guest are skipped (they need Debian's cloud kernel in $GUEST)"
        return
    fi
    say "fetching the guest's kernel"
    if download_kernel "$new" || { [ "$(id -u)" -eq 0 ] && refresh_index && download_kernel "$new"; }; then
        rm -rf "$GUEST" && mv "$new" "$GUEST"
    else
        rm -rf "$new"
        say "cannot download a linux-image-cloud-amd64 kernel (see $LOG): tests that boot a guest are skipped"
    fi
}

newest_kernel() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -1
}

# Leaves vmlinuz and the modules a virtio disk needs in directory $1; the other hundred megabytes go.
download_kernel() {
    local package
    package=$(newest_kernel)
    [ -n "$package" ] || return
    rm -rf "$1" && mkdir -p "$1/modules"
    chmod 777 "$1" # apt downloads as its own user where it can
    (cd "$1" && apt-get download -q "$package") >>"$LOG" 2>&1 || return
    dpkg -x "$1"/linux-image-*.deb "$1/whole" >>"$LOG" 2>&1 || return
    cp "$1"/whole/boot/vmlinuz-* "$1/vmlinuz" &&
        cp "$1"/whole/lib/modules/*/kernel/drivers/{virtio/virtio*.ko,block/virtio_blk.ko} "$1/modules/" &&
        rm -rf "$1/whole" "$1"/*.deb && chmod 755 "$1"
}

install_packages
make_venv
compgen -G '.venv/lib/python3*/site-packages/nbd.py' >/dev/null || link_libnbd
fetch_guest_kernel
