#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs go test with the given arguments, prints what it prints (of passing tests only their names),
# and ends with `N passed, N failed`. Counts are of tests, without subtests; a package that does not
# build counts as one failure.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
go test -v "$@" 2>&1 | tee "$log" | awk '
	/^=== (RUN|PAUSE|CONT|NAME)/ { next }
	/^ +--- PASS/ { next }
	{ print; fflush() }'
status=${PIPESTATUS[0]}
passed=$(grep -c '^--- PASS' "$log")
failed=$(grep -cE '^--- FAIL|^FAIL.*\[(build|setup) failed\]|^panic: ' "$log")
[ "$status" -ne 0 ] && [ "$failed" -eq 0 ] && failed=1
[ -n "${COUNTS:-}" ] && echo "$passed $failed" >>"$COUNTS"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
