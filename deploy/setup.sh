#!/usr/bin/env bash
# Brings a Debian 12 machine to where Purser runs: programs from Debian, packages from npm, and the build.
# Does only what is missing, so it is quick when nothing is. With --test also what the tests need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin"

# A package and the program that shows that it is there, from Debian or from elsewhere (Docker's own packages, say).
runtime_packages="
  runc=runc
  crun=crun
  containerd=containerd-shim-runc-v2
  nats-server=nats-server
  containernetworking-plugins=cni:bridge
  docker-registry=docker-registry
  busybox-static=busybox
  iptables=iptables
  iproute2=ip
  zstd=zstd
  util-linux=unshare"
test_packages="
  docker.io=dockerd
  skopeo=skopeo
  umoci=umoci
  tini=tini
  openssl=openssl"

main() {
  local packages="$runtime_packages" for_tests=no
  case "${1:-}" in
    '') ;;
    --test) packages+="$test_packages" for_tests=yes ;;
    *) fail "unknown option $1" "the only one is --test" ;;
  esac

  [ "$EUID" = 0 ] || fail "this needs root" "containers, mounts and networks do too: run it with sudo, or as root"
  check_node
  install_packages $(missing $packages)
  [ $for_tests = no ] || install_promtool
  install_node_modules
  build
}

check_node() {
  command -v node >/dev/null || fail "node is missing" "install Node.js 20.15 or newer (https://nodejs.org)"
  node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 15) ? 0 : 1)' ||
    fail "node $(node --version) is too old" "install Node.js 20.15 or newer (https://nodejs.org)"
  command -v npm >/dev/null || fail "npm is missing" "it comes with Node.js; Debian has it as the package npm"
}

# Prints the packages whose program is not there. No dpkg: asking the shell takes no time, and the answer is truer.
missing() {
  local entry
  for entry in "$@"; do
    is_there "${entry#*=}" || echo "${entry%%=*}"
  done
}

is_there() {
  case "$1" in
    cni:*) [ -x "/usr/lib/cni/${1#cni:}" ] || [ -x "/opt/cni/bin/${1#cni:}" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

install_packages() {
  [ $# -gt 0 ] || return 0
  say "installing $*"
  command -v apt-get >/dev/null ||
    fail "there is no apt-get here" "install the equivalents of these Debian packages by hand: $*"
  update_lists
  forbid_services
  # Never at the price of something else: Docker's containerd.io, for one, excludes Debian's containerd and runc.
  apt_get install --yes --no-install-recommends --no-remove "$@" ||
    fail "apt-get could not install $*" "its own words are above; once that is mended, run this again"
  allow_services
  disable_services "$@"
}

# promtool checks the metrics and alerts. Debian has it only in the package of the whole server.
install_promtool() {
  [ ! -x .cache/prometheus/usr/bin/promtool ] || return 0
  say "fetching promtool"
  update_lists
  local directory
  directory=$(mktemp -d)
  (
    cd "$directory"
    apt_get download prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
  ) || fail "promtool could not be fetched" "it is in Debian's package prometheus; is a mirror within reach?"
  mkdir -p .cache/prometheus/usr/bin
  mv "$directory/usr/bin/promtool" .cache/prometheus/usr/bin/promtool
  rm -r "$directory"
}

install_node_modules() {
  [ ! node_modules/.package-lock.json -nt package-lock.json ] || return 0
  say "installing packages from npm"
  npm ci --no-audit --no-fund --loglevel=error || fail "npm ci failed" "is the npm registry within reach?"
  touch node_modules/.package-lock.json
}

build() {
  if [ -f dist/purserd.js ] && [ -d proto/gen ] && [ -z "$(changed_source)" ]; then return 0; fi
  say "building"
  npm run --silent build || fail "the build failed" "its own words are above"
}

# The first source, if any, that is newer than the build.
changed_source() {
  local places=() place
  for place in package.json buf.gen.yaml proto plugins services deploy test/bench test/harness test/simulate test/soak; do
    [ ! -e "$place" ] || places+=("$place")
  done
  find "${places[@]}" -path proto/gen -prune -o \
    -type f \( -name '*.ts' -o -name '*.mjs' -o -name '*.proto' -o -name package.json -o -name 'buf*.yaml' \) \
    -newer dist/purserd.js -print -quit
}

lists_updated=no
update_lists() {
  [ $lists_updated = no ] || return 0
  apt_get update || say "the package lists could not be refreshed, so those that are here have to do"
  lists_updated=yes
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o APT::Sandbox::User=root "$@"
}

# Debian starts the services of what it installs unless this file says no. One that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
forbid_services() {
  [ ! -e $policy ] || return 0
  trap allow_services EXIT
  printf '#!/bin/sh\n# Written by Purser, which removes it again.\nexit 101\n' >$policy
  chmod 755 $policy
}

allow_services() {
  if grep -qs 'Written by Purser' $policy; then rm -f $policy; fi
}

# Purser starts what it needs itself: what has just been installed shall not start on its own at the next boot.
disable_services() {
  command -v systemctl >/dev/null || return 0
  local package
  for package in "$@"; do
    case $package in
      containerd | nats-server | docker-registry) systemctl disable --quiet "$package.service" || true ;;
      docker.io) systemctl disable --quiet docker.service docker.socket || true ;;
      containernetworking-plugins) systemctl disable --quiet cni-dhcp.service cni-dhcp.socket || true ;;
    esac
  done
}

say() {
  echo "purser setup: $1"
}

fail() {
  echo "purser setup: $1: $2" >&2
  exit 1
}

main "$@"
