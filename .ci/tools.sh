#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what generating and linting need: clang and protoc from Debian, Go tools into .tools/bin.
# Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/.tools/bin
mkdir -p "$tools"
pin() { sed -n "s/^$1 *:= *//p" Makefile; }

if ! clang-19 --version 2>/dev/null | grep -q "$(pin CLANG_VERSION)" ||
	! command -v clang-format-19 >/dev/null || ! command -v llvm-strip-19 >/dev/null || ! command -v protoc >/dev/null ||
	! command -v nfcapd >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends clang-19 clang-format-19 llvm-19 protobuf-compiler nfdump >/dev/null
fi
clang-19 --version | grep -q "$(pin CLANG_VERSION)" || {
	echo "tools: clang-19 is not $(pin CLANG_VERSION), which the committed objects were built with" >&2
	exit 1
}
for tool in PROTOC_GEN_GO PROTOC_GEN_GO_GRPC PROTOC_GEN_GATEWAY GOLANGCI_LINT; do
	module=$(pin $tool)
	name=$(basename "${module%@*}")
	stamp=$tools/.$name-${module##*@}
	[ -e "$stamp" ] && continue
	GOBIN=$tools GOFLAGS=-mod=mod go install "$module"
	touch "$stamp"
done
