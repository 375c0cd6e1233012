// SPDX-License-Identifier: Apache-2.0

// Package dnsname makes labels and names of DNS from texts: by Weft's rule, and to the letter by those of Mesos-DNS; and from
// addresses, the reverse names.
package dnsname

import (
	"crypto/sha1"
	"strings"
)

// Limits of RFC 1035, 2.3.4: a label, and a name in presentation form with its final dot.
const (
	MaxLabel = 63
	MaxName  = 254
)

// Label makes a DNS label (RFC 1123) of any text, as Mesos-DNS does: lower case; '-', '.' and '_'
// become '-'; other characters than a-z, 0-9 are dropped; no '-' at the ends. A text that is too long
// is cut, see Cut. Text without a usable character gives "".
func Label(text string) string { return Cut(Clean(text), MaxLabel) }

// Domain makes the labels of a framework's name: each part between dots is a Label of its own, parts
// without a usable character are left out.
func Domain(text string) string {
	parts := strings.Split(text, ".")
	labels := parts[:0]
	for _, p := range parts {
		if l := Label(p); l != "" {
			labels = append(labels, l)
		}
	}
	return strings.Join(labels, ".")
}

// Clean drops what no label has, of any length.
func Clean(text string) string { return strings.Trim(Mangle(text), "-") }

// Mangle puts each character in its form for a label, or drops it.
func Mangle(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteByte(c)
		case c >= 'A' && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		case c == '-', c == '.', c == '_':
			b.WriteByte('-')
		}
	}
	return b.String()
}

// Rule is a rule for labels.
type Rule struct {
	limit int    // characters
	left  string // what no label begins with
}

// The rules between which Mesos-DNS is switched.
var (
	RFC1123 = Rule{MaxLabel, "-"}
	RFC952  = Rule{24, "-0123456789"}
)

// Label makes a label as Mesos-DNS does to the letter. It differs from the function in what comes after the
// limit: once the dashes there are dropped, the room is filled with what follows, dashes too, so that
// the label may end with one.
func (s Rule) Label(text string) string {
	all := strings.TrimLeft(Mangle(text), s.left)
	size := min(len(all), s.limit)
	head := strings.TrimRight(all[:size], "-")
	if len(head) == size {
		return head
	}
	tail := strings.TrimLeft(all[size:], "-")
	return head + tail[:min(len(tail), size-len(head))]
}

// Domain makes labels of the parts of text between dots; empty ones are left out.
func (s Rule) Domain(text string) string {
	var labels []string
	for part := range strings.SplitSeq(text, ".") {
		if l := s.Label(part); l != "" {
			labels = append(labels, l)
		}
	}
	return strings.Join(labels, ".")
}

// Cut shortens a clean label to at most limit characters. Dashes at the cut are dropped and the room
// that they leave is filled with the letters and digits that follow.
func Cut(label string, limit int) string {
	if len(label) <= limit {
		return label
	}
	head, tail := strings.TrimRight(label[:limit], "-"), label[limit:]
	if len(head) == limit {
		return head
	}
	b := []byte(head)
	for i := 0; i < len(tail) && len(b) < limit; i++ {
		if tail[i] != '-' {
			b = append(b, tail[i])
		}
	}
	return string(b)
}

// canonicalTail is how much of a node's id a Canonical name holds at most, so that half of the label
// is left for the task's own name.
const canonicalTail = 24

// Canonical is the label that names one task and no other: label-hash-tail, where hash is of the task
// id and tail is what follows the last '-' of the node's id. Mesos-DNS lets it grow past 63
// characters, after which no answer that holds it can be packed; ours shortens the label.
func Canonical(label, task, node string) string {
	tail := strings.ToLower(node[strings.LastIndexByte(node, '-')+1:])
	suffix := "-" + Hash(task)
	if tail = Cut(Clean(tail), canonicalTail); tail != "" {
		suffix += "-" + tail
	}
	return strings.TrimRight(Cut(label, MaxLabel-len(suffix)), "-") + suffix
}

// OfCanonical returns the label that a canonical one (label-hash-tail, label-hash) begins with, which is empty if it is none.
func OfCanonical(canonical string) string {
	parts := strings.Split(canonical, "-")
	for tail := 1; tail <= 2 && tail < len(parts); tail++ {
		if len(parts[len(parts)-tail]) == hashed {
			return strings.TrimRight(strings.Join(parts[:len(parts)-tail], "-"), "-")
		}
	}
	return ""
}

// hashed is how long a Hash is.
const hashed = 5

// Hash is the first five characters of the z-base-32 form of text's SHA-1.
func Hash(text string) string {
	const alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	sum := sha1.Sum([]byte(text))
	bits := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
	var b [hashed]byte
	for i := range b {
		b[i] = alphabet[bits>>27]
		bits <<= 5
	}
	return string(b[:])
}

// Join makes a fully qualified name of labels or names without dots at their ends; it is "" when the
// result is no name that can be asked for.
func Join(parts ...string) string {
	name := strings.Join(parts, ".") + "."
	if !Askable(name) {
		return ""
	}
	return name
}

// Askable tells whether a name can be asked for: its labels have 1 to 63 characters (RFC 1035, 2.3.4).
func Askable(name string) bool {
	if len(name) > MaxName || !strings.HasSuffix(name, ".") {
		return false
	}
	for label := range strings.SplitSeq(name[:len(name)-1], ".") {
		if label == "" || len(label) > MaxLabel {
			return false
		}
	}
	return true
}
