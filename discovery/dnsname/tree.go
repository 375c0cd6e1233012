// SPDX-License-Identifier: Apache-2.0

package dnsname

import "strings"

// Within reports whether name is domain or below it. An escaped dot (RFC 1035, 5.1) parts no labels.
func Within(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain+".")
	if !ok || rest == "" {
		return ok
	}
	if rest, ok = strings.CutSuffix(rest, "."); !ok {
		return false
	}
	return (len(rest)-len(strings.TrimRight(rest, `\`)))%2 == 0
}

// Ancestry is the name and all names above it but the root.
func Ancestry(name string) []string {
	var names []string
	for name != "" {
		names = append(names, name)
		_, name, _ = strings.Cut(name, ".")
	}
	return names
}

// Key orders names from the root down: its labels in that order, each with a dot.
func Key(name string) []byte {
	name = strings.TrimSuffix(name, ".")
	k := make([]byte, 0, len(name)+1)
	if name == "" {
		return k // the root
	}
	for end := len(name); end >= 0; { // labels may be empty: Mesos-DNS makes such names
		start := strings.LastIndexByte(name[:end], '.') + 1
		k = append(k, name[start:end]...)
		k = append(k, '.')
		end = start - 1
	}
	return k
}
