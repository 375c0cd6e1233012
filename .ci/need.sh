#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs programs that tests, stories and benchmarks run, as Debian has them. Does nothing for those
# that are there. Without arguments: dig, which the demo and the stories use as a stock resolver.
set -euo pipefail

# package COMMAND: the package that has it.
package() {
	case $1 in
	dig) echo bind9-dnsutils ;;
	ip) echo iproute2 ;;
	busybox) echo busybox-static ;; # a root file system by itself
	knotd) echo knot ;;
	nft) echo nftables ;;
	iptables-restore) echo iptables ;;
	java) echo default-jre-headless ;;
	*/zkServer.sh) echo zookeeper ;;
	*) echo "$1" ;;
	esac
}

missing=()
for command in "${@:-dig}"; do
	command -v "$command" >/dev/null || missing+=("$(package "$command")")
done
[ ${#missing[@]} -gt 0 ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
