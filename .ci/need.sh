#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs programs that tests, stories and benchmarks run, as Debian has them. Does nothing for those
# that are there. Without arguments: dig, which the demo and the stories use as a stock resolver.
set -euo pipefail

# package COMMAND: the package that has it.
package() {
	case $1 in
	dig) echo bind9-dnsutils ;;
	bird) echo bird2 ;;
	ip) echo iproute2 ;;
	busybox) echo busybox-static ;; # a root file system by itself
	knotd) echo knot ;;
	nft) echo nftables ;;
	iptables-restore) echo iptables ;;
	musl-gcc) echo musl-tools ;;
	java) echo default-jre-headless ;;
	*/zkServer.sh) echo zookeeper ;;
	*) echo "$1" ;;
	esac
}

# resolved: systemd-resolved as it is packed. Installed, it would take the machine's /etc/resolv.conf.
unpack_resolved() {
	local to=$PWD/.tools/resolved new
	[ -e "$to" ] && return
	new=$(mktemp -d)
	(cd "$new" && apt-get download -qq systemd-resolved && dpkg-deb -x systemd-resolved_*.deb tree)
	mkdir -p .tools && mv "$new/tree" "$to" && rm -r "$new"
}

cd "$(dirname "$0")/.."
missing=()
for command in "${@:-dig}"; do
	[ "$command" = resolved ] && unpack_resolved && continue
	command -v "$command" >/dev/null || missing+=("$(package "$command")")
done
[ ${#missing[@]} -gt 0 ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
