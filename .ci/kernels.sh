#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches Debian's kernels for tests/kernels into .tools/kernels/SERIES/{vmlinuz,modules,version} and
# installs the emulator. The mirror is the one this machine's apt already uses; its lists stay as they
# are, for the suites of other releases are read into a private folder. Does nothing when all is there.
#
#	.ci/kernels.sh 6.1 6.12 7.3
set -euo pipefail
cd "$(dirname "$0")/.."
store=$PWD/.tools/kernels
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$store"

need=()
command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
command -v xz >/dev/null || need+=(xz-utils)
command -v zstd >/dev/null || need+=(zstd)
command -v lz4 >/dev/null || need+=(lz4)
if [ ${#need[@]} -gt 0 ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

missing=()
for series; do
	[ -e "$store/$series/version" ] || missing+=("$series")
done
[ ${#missing[@]} -eq 0 ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache/archives,deb}/partial
mirror() { # the archive that this machine's own apt lists come from
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}
uri=$(mirror)
[ -n "$uri" ] || { apt-get update -qq && uri=$(mirror); }
[ -n "$uri" ] || { echo "kernels: apt of this machine names no Debian archive" >&2; exit 1; }
for suite in bookworm bookworm-backports trixie-backports; do
	echo "deb [signed-by=$keyring] $uri $suite main"
done >"$work/sources.list"
apt=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
	-o "Dir::Cache=$work/cache" -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update

for series in "${missing[@]}"; do
	# From 7.1 on the image package is empty and needs its two halves.
	version=$(apt-cache "${apt[@]}" pkgnames linux-image-"$series". |
		sed -n 's/^linux-image-\(.*-cloud-amd64\)$/\1/p' | sort -V | tail -1)
	[ -n "$version" ] || { echo "kernels: the archive holds no cloud kernel $series" >&2; exit 1; }
	packages=(linux-image-"$version")
	[ -n "$(apt-cache "${apt[@]}" pkgnames linux-binary-"$version")" ] &&
		packages=(linux-binary-"$version" linux-modules-"$version")
	echo "kernels: fetching $version"
	(cd "$work/deb" && apt-get "${apt[@]}" download "${packages[@]}")
	tree=$work/$series
	for package in "$work"/deb/*.deb; do
		dpkg-deb -x "$package" "$tree"
		rm "$package"
	done
	rm -rf "${store:?}/$series"
	mkdir -p "$store/$series"
	mv "$(find "$tree" -name "vmlinuz*" -type f)" "$store/$series/vmlinuz"
	mv "$(find "$tree" -path "*/lib/modules/*" -name kernel -prune)" "$store/$series/modules"
	rm -rf "$tree"
	echo "$version" >"$store/$series/version"
done
