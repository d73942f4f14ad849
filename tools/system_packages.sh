#!/usr/bin/env bash
# Installs what the whole cluster of tests/full_cluster takes from the system (Debian, Ubuntu).
# May be run again: asks apt only for what is missing.
set -euo pipefail

packages=(
  buildah                     # builds the project's images, without a daemon
  busybox                     # the programs of the image that test pods run
  conntrack                   # kube-proxy
  containernetworking-plugins # the pods' network
  debootstrap                 # base images where no registry is reached
  gcc                         # to build runc, and the images' own programs
  iproute2                    # links
  ipset                       # what enforces NetworkPolicies
  iptables                    # kube-proxy, kubelet, NetworkPolicies
  libc6-dev
  libseccomp-dev              # to build runc
  mount                       # mount, umount
  openssl                     # certificates
  pkg-config                  # finds libseccomp
  runc                        # tests/images run images by it
  util-linux                  # unshare, nsenter
)

find_missing() {
  missing=()
  local package status
  for package in "${packages[@]}"; do
    status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
  done
}

find_missing
if [ "${#missing[@]}" = 0 ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "system packages: run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

# apt does not wait for itself: who comes second waits here, and looks what is left to do.
exec 9>/run/zeus-operator-system-packages.lock
flock 9
find_missing
if [ "${#missing[@]}" = 0 ]; then
  exit 0
fi
echo "system packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Without the lock: a daemon that a package starts would keep it.
apt-get update -qq 9>&-
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 9>&-
