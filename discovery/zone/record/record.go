// SPDX-License-Identifier: Apache-2.0

// Package record holds what zones consist of: a record, and the index of all records by name, which also knows the
// names above them (RFC 8020). It is pure; which records there are is package zone's to know.
package record

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/discovery"
)

// Type is a DNS record type (RFC 1035, 3.2.2).
type Type uint16

// Types of records that zones hold. Any stands for all of a name's types in a Diff.
const (
	A     Type = 1
	NS    Type = 2
	CNAME Type = 5
	SOA   Type = 6
	PTR   Type = 12
	AAAA  Type = 28
	SRV   Type = 33
	Any   Type = 255
)

// held are those of records.
var held = [...]Type{A, NS, CNAME, SOA, PTR, AAAA, SRV}

// Types returns the types of records.
func Types() [len(held)]Type { return held }

// Held tells whether zones hold records of the type: of another one every name has none.
func (t Type) Held() bool {
	return slices.Contains(held[:], t)
}

// String is the type's mnemonic.
func (t Type) String() string {
	switch t {
	case A:
		return "A"
	case NS:
		return "NS"
	case CNAME:
		return "CNAME"
	case SOA:
		return "SOA"
	case PTR:
		return "PTR"
	case AAAA:
		return "AAAA"
	case SRV:
		return "SRV"
	case Any:
		return "ANY"
	}
	return fmt.Sprintf("TYPE%d", uint16(t)) // RFC 3597, section 5
}

// Record is one record and where it is from. It is comparable: two equal records are one.
type Record struct {
	Name   string // lower case, with the final dot
	Type   Type
	TTL    uint32     // seconds
	Addr   netip.Addr // A, AAAA
	Target string     // CNAME, NS, PTR, SRV: a name; SOA: the primary server
	Port   uint16     // SRV
	// Network is the only network that sees the record; empty: all do. The hosts see every record.
	Network string
	// Home is the network of the task that the record tells of, Unwell that it is not fit to be used.
	Home   string
	Unwell bool
	// Text is what Mesos-DNS calls the value where the wire can't say the same: a port that no port can
	// be, a host that is no address. Empty otherwise.
	Text   string
	From   string // kind/key of the row
	Writer string // of the row
}

// Answerable tells whether an answer can hold the record: one without an address or a target is only
// shown.
func (r Record) Answerable() bool {
	switch r.Type {
	case A, AAAA:
		return r.Addr.IsValid()
	default:
		return r.Target != ""
	}
}

// Value is the record as Mesos-DNS's HTTP API shows it: an address, or a target and a port.
func (r Record) Value() string {
	switch {
	case r.Text != "":
		return r.Text
	case r.Type == SRV:
		return r.Target + ":" + strconv.Itoa(int(r.Port))
	default:
		return r.Data()
	}
}

// SRV numbers: every target is as good as the other (weight 1 as Mesos-DNS has it).
const (
	Priority = 0
	Weight   = 1
)

// Times of the SOA records, seconds (RFC 1035, 3.3.13). Nobody transfers these zones, so the serial
// number stays what it is and a change touches no negative answer but its own.
const (
	Serial  = 1
	Refresh = 60
	Retry   = 600
	Expire  = 86400
	// Minimum is how long a missing name may be remembered, and the TTL of the SOA record (RFC 2308): dcos-net's.
	Minimum = uint32(1)
)

// dcos-net's SOA records.
const (
	// DCOSServer is the primary server of its zones.
	DCOSServer  = "ns.spartan."
	dcosMailbox = "support.mesosphere.com."
	dcosRefresh = 60
	dcosRetry   = 180
)

// Start is the rest of a SOA record (RFC 1035, 3.3.13).
type Start struct {
	Server  string // primary, a name with the final dot
	Mailbox string // of who is responsible, as a name
	Serial  uint32
	// Seconds.
	Refresh, Retry, Expire, Minimum uint32
}

// StartOf is the SOA record's value when target is its primary server. Zones that dcos-net serves have
// its times and its mailbox.
func StartOf(target string) Start {
	if target == DCOSServer {
		return Start{target, dcosMailbox, Serial, dcosRefresh, dcosRetry, Expire, Minimum}
	}
	return Start{target, "root." + target, Serial, Refresh, Retry, Expire, Minimum}
}

// Data is the record's value in presentation form.
func (r Record) Data() string {
	switch r.Type {
	case A, AAAA:
		if r.Addr.IsValid() {
			return r.Addr.String()
		}
		return r.Text
	case SRV:
		return fmt.Sprintf("%d %d %d %s", Priority, Weight, r.Port, r.Target)
	case SOA:
		s := StartOf(r.Target)
		return fmt.Sprintf("%s %s %d %d %d %d %d", s.Server, s.Mailbox, s.Serial, s.Refresh, s.Retry, s.Expire, s.Minimum)
	default:
		return r.Target
	}
}

// Export is the record as clients of a node see it.
func (r Record) Export() discovery.Record {
	return discovery.Record{
		Name: r.Name, Type: r.Type.String(), TTL: time.Duration(r.TTL) * time.Second, Data: r.Data(),
		From: r.From, Writer: r.Writer,
	}
}

// Bare is the record without where it is from: what a resolver sees.
func (r Record) Bare() Record {
	r.From, r.Writer, r.Network, r.Home, r.Unwell = "", "", "", "", false
	return r
}

// SeenBy tells whether a network sees the record; the empty one is the hosts, who see all.
func (r Record) SeenBy(network string) bool {
	return network == "" || r.Network == "" || r.Network == network
}

// Compare orders the records of one name: by type, then value, then view, then source.
func Compare(a, b Record) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type), a.Addr.Compare(b.Addr), strings.Compare(a.Target, b.Target),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.TTL, b.TTL), strings.Compare(a.Network, b.Network), strings.Compare(a.Text, b.Text),
		strings.Compare(a.Home, b.Home), strings.Compare(a.From, b.From), strings.Compare(a.Writer, b.Writer),
	)
}
