#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes every generated file anew. The output does not depend on the folder it runs in.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.tools/bin:$PATH
go generate ./bpf/...
for proto in $(git ls-files '*.proto'); do
	gateway=()
	[ -e "${proto%.proto}.yaml" ] && gateway=(--grpc-gateway_out=. --grpc-gateway_opt=paths=source_relative
		--grpc-gateway_opt=grpc_api_configuration="${proto%.proto}.yaml")
	protoc --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative "${gateway[@]}" "$proto"
done
go run ./overlay/explain/gen docs/troubleshooting.md
