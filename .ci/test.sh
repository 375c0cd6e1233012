#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs go test with the given arguments, prints what it prints (of passing tests only their names),
# and ends with what the failed ones said themselves and `N passed, N failed`. Counts are of tests,
# without subtests; a package that does not build counts as one failure.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log" "$log.failures"' EXIT
go test -v "$@" 2>&1 | tee "$log" | awk '
	/^=== (RUN|PAUSE|CONT|NAME)/ { next }
	/^ +--- PASS/ { next }
	{ print; fflush() }'
status=${PIPESTATUS[0]}
passed=$(grep -c '^--- PASS' "$log")
failed=$(grep -cE '^--- FAIL|^FAIL.*\[(build|setup) failed\]|^panic: ' "$log")
[ "$status" -ne 0 ] && [ "$failed" -eq 0 ] && failed=1
# What a test logged in its own words, without its labs' logs: 20 lines of 400 characters each.
awk '
	/^=== (RUN|CONT|NAME)/ { test = $3; sub("/.*", "", test); next }
	/^ +([A-Za-z0-9_]+\.go:[0-9]+|FAIL): / && lines[test]++ < 20 { said[test] = said[test] substr($0, 1, 400) "\n" }
	/^--- FAIL/ { print $3 " failed:"; printf "%s", said[$3] }
	/^FAIL.*\[(build|setup) failed\]|^panic: |^WARNING: DATA RACE/' "$log" >"$log.failures"
cat "$log.failures"
[ -n "${COUNTS:-}" ] && cat "$log.failures" >>"$COUNTS.failures"
[ -n "${COUNTS:-}" ] && echo "$passed $failed" >>"$COUNTS"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
