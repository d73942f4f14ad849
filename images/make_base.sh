#!/usr/bin/env bash
# Makes the root file system of a base image with debootstrap, for machines without a registry:
#
#   images/make_base.sh SUITE ROOT [PACKAGE...]
#
# ROOT is a folder that is not there yet.  Needs root.  DEBIAN_MIRROR names another mirror for the
# making; what is made asks Debian's own.
set -euo pipefail

[[ $# -ge 2 ]] || { sed -n '2,7p' "$0" >&2; exit 2; }
suite=$1 root=$2
shift 2
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
[[ $EUID -eq 0 ]] || { echo "make_base.sh: debootstrap needs root" >&2; exit 1; }
[[ ! -e $root ]] || { echo "make_base.sh: $root is there already; name a new folder" >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT

quietly() { # command: its output is shown only if it fails
  "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; return 1; }
}

inside() {
  quietly env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
    ${http_proxy:+http_proxy="$http_proxy"} chroot "$root" "$@"
}

quietly debootstrap --variant=minbase "$suite" "$root" "$mirror"

# As in Debian's own slim images: programs stay, manuals and translations go, licences stay.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'CONFIGURATION'
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
CONFIGURATION
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
rm -rf "$root"/usr/share/{man,locale}/*

# No daemon is started by an installation, and no package list or archive is kept.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cat >"$root/etc/apt/apt.conf.d/slim" <<'CONFIGURATION'
APT::Install-Recommends "false";
Acquire::Languages "none";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
CONFIGURATION

sources() { # mirror, mirror of security updates
  printf 'deb %s %s main\ndeb %s %s-updates main\ndeb %s %s-security main\n' \
    "$1" "$suite" "$1" "$suite" "$2" "$suite" >"$root/etc/apt/sources.list"
}
sources "$mirror" "${mirror%/}-security"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
inside apt-get update
inside apt-get upgrade -y
[[ $# -eq 0 ]] || inside apt-get install -y "$@"
inside apt-get clean
sources http://deb.debian.org/debian http://deb.debian.org/debian-security

# What is of this machine, and what the container runtime makes.
rm -rf "$root"/{var/log,var/lib/apt/lists,tmp,run,var/tmp,root,var/cache}/* "$root"/etc/{resolv.conf,hostname}
rm -f "$root"/var/cache/debconf/* "$root"/etc/machine-id "$root"/etc/*- "$root"/var/lib/dpkg/*-old
