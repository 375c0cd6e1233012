// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// Zone is where the names of VIPs live: web.weft is web.weft.l4lb.thisdcos.directory.
	Zone = "l4lb.thisdcos.directory"
	// DefaultFramework is the framework of tasks that no scheduler runs.
	DefaultFramework = "weft"

	maxLabel = 63                       // RFC 1035 2.3.4
	maxName  = 253 - len("."+Zone)      // of label.framework, so that the whole name fits
	alphanum = "a-z, A-Z, 0-9, - . _ /" // for messages
)

// DNSName returns the fully qualified name of a VIP name, without the final dot.
func DNSName(name string) string { return name + "." + Zone }

// Mangle makes the name of a VIP (web.weft) from a VIP label (/web) and a framework, by DC/OS's
// rules: each part between dots becomes a DNS label, '/' vanishes, '_' becomes '-'. So /abc and abc
// are one VIP.
func Mangle(label, framework string) (string, error) {
	l, err := fragment(label)
	if err != nil {
		return "", fmt.Errorf("VIP name %q: %w", label, err)
	}
	f, err := fragment(framework)
	if err != nil {
		return "", fmt.Errorf("framework %q: %w", framework, err)
	}
	name := l + "." + f
	if len(name) > maxName {
		return "", fmt.Errorf("VIP name %q: %d characters with its framework, at most %d fit into a DNS name", name, len(name), maxName)
	}
	return name, nil
}

// fragment mangles each part between dots. Parts that are empty are dropped; a part that becomes
// empty would make a name that nobody can ask for.
func fragment(s string) (string, error) {
	var parts []string
	for part := range strings.SplitSeq(s, ".") {
		if part == "" {
			continue
		}
		m := mangleLabel(part)
		if m == "" {
			if strings.Trim(part, "/") == "" {
				continue
			}
			return "", fmt.Errorf("%q has none of the characters that a name keeps (%s)", part, alphanum)
		}
		parts = append(parts, m)
	}
	if len(parts) == 0 {
		return "", errors.New("empty; write letters, digits or '-'")
	}
	return strings.Join(parts, "."), nil
}

// mangleLabel makes a DNS label (RFC 1123): lower case, '-' and '_' are '-', everything else but
// letters and digits vanishes, no '-' at either end. What is too long loses the dashes at the cut,
// and what follows fills the room, without its dashes.
func mangleLabel(s string) string {
	out := make([]byte, 0, maxLabel)
	full := false
	for i := 0; i < len(s) && len(out) < maxLabel; i++ {
		c := s[i]
		switch {
		case c >= 'A' && c <= 'Z':
			out = append(out, c-'A'+'a')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			out = append(out, c)
		case (c == '-' || c == '_') && len(out) > 0 && !full:
			out = append(out, '-')
		}
		if len(out) == maxLabel && out[maxLabel-1] == '-' {
			full = true
			out = []byte(strings.TrimRight(string(out), "-"))
		}
	}
	return strings.TrimRight(string(out), "-")
}
