// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/answers"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// The tables of question.h and answer.h, by way of from_host: one valid question, one field changed per row.

const (
	typeA, typeAAAA, typeSRV = 1, 28, 33
	next                     = 0xffffffff // TCX_NEXT
)

var (
	dnsServer4 = netip.MustParseAddr("198.51.100.1")
	dnsServer6 = netip.MustParseAddr("fd01:d::c633:6401")
)

// nameCache is the program from_host over maps of its own.
type nameCache struct {
	t       testing.TB
	prog    *ebpf.Program
	maps    map[string]*ebpf.Map
	answers *answers.Cache
}

func newNames(tb testing.TB) *nameCache {
	tb.Helper()
	return newNamesOf(tb, bpf.Config{DNS4: dnsServer4, DNS6: dnsServer6})
}

func newNamesOf(tb testing.TB, config bpf.Config) *nameCache {
	tb.Helper()
	requireRoot(tb)
	set := bpftest.Borrow(tb, config, func() (*bpftest.Set, error) {
		spec, err := bpftest.Spec("dns", config)
		if err != nil {
			return nil, err
		}
		return bpftest.LoadWhole(spec)
	})
	cache, err := bpftest.Answers(set.Maps)
	if err != nil {
		tb.Fatal(err)
	}
	return &nameCache{t: tb, prog: set.Programs["from_host"], maps: set.Maps, answers: cache}
}

// put makes the kernel know an answer for the host.
func (n *nameCache) put(name string, qtype uint16, a row.DNSLong) {
	n.t.Helper()
	n.putIn(0, name, qtype, a)
}

func (n *nameCache) putIn(vni uint32, name string, qtype uint16, a row.DNSLong) {
	n.t.Helper()
	err := n.answers.Put(vni, wire(name), qtype, a.Rcode, a.Ancount, a.Nscount, a.Arcount, a.Rotate, a.Data[:a.Len])
	if err != nil {
		n.t.Fatal(err)
	}
}

// run gives the program a frame and returns what became of it.
func (n *nameCache) run(frame []byte) (uint32, []byte) {
	n.t.Helper()
	out := make([]byte, 2048)
	o := ebpf.RunOptions{Data: frame, DataOut: out}
	code, err := n.prog.Run(&o)
	if err != nil {
		n.t.Fatalf("run %x: %v", frame, err)
	}
	return code, o.DataOut
}

// counted returns how often a reason was counted.
func (n *nameCache) counted(r row.Reason) uint64 {
	n.t.Helper()
	var cpus []row.Counter
	if err := n.maps["counters"].Lookup(uint32(r), &cpus); err != nil {
		n.t.Fatal(err)
	}
	var sum uint64
	for _, c := range cpus {
		sum += c.Packets
	}
	return sum
}

// wire turns a.b. into wire form, as it is written.
func wire(name string) []byte {
	var w []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label != "" {
			w = append(append(w, byte(len(label))), label...)
		}
	}
	return append(w, 0)
}

// question is a query with everything that a row may change.
type question struct {
	v6      bool
	id      uint16
	flags   uint16
	counts  [4]uint16 // questions, answers, authorities, additionals
	name    []byte    // wire form
	qtype   uint16
	class   uint16
	tail    []byte // behind the question
	sport   uint16
	dport   uint16
	noSum   bool
	src     netip.Addr
	dst     netip.Addr
	options []byte // of IPv4
}

func ask(name string, qtype uint16) question {
	return question{
		id: 0xbeef, flags: 0x0100, counts: [4]uint16{1}, name: wire(name), qtype: qtype, class: 1,
		sport: 40000, dport: 53, src: netip.MustParseAddr("10.0.0.9"), dst: dnsServer4,
	}
}

func ask6(name string, qtype uint16) question {
	q := ask(name, qtype)
	q.v6, q.src, q.dst = true, netip.MustParseAddr("fd00::9"), dnsServer6
	return q
}

// edns adds an OPT record.
func (q question) edns(size uint16, ttl uint32, options []byte) question {
	q.counts[3] = 1
	q.tail = binary.BigEndian.AppendUint16([]byte{0, 0, 41}, size)
	q.tail = binary.BigEndian.AppendUint32(q.tail, ttl)
	q.tail = append(binary.BigEndian.AppendUint16(q.tail, uint16(len(options))), options...)
	return q
}

func (q question) message() []byte {
	m := binary.BigEndian.AppendUint16(nil, q.id)
	m = binary.BigEndian.AppendUint16(m, q.flags)
	for _, c := range q.counts {
		m = binary.BigEndian.AppendUint16(m, c)
	}
	m = append(m, q.name...)
	m = binary.BigEndian.AppendUint16(m, q.qtype)
	m = binary.BigEndian.AppendUint16(m, q.class)
	return append(m, q.tail...)
}

// frame is the question as it lies on the link.
func (q question) frame() []byte {
	udp := binary.BigEndian.AppendUint16(nil, q.sport)
	udp = binary.BigEndian.AppendUint16(udp, q.dport)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(q.message())))
	udp = append(append(udp, 0, 0), q.message()...)
	if !q.noSum {
		binary.BigEndian.PutUint16(udp[6:], udpSum(q.src, q.dst, udp))
	}
	f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	if q.v6 {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(udp)))
		f = append(append(append(f, 17, 64), q.src.AsSlice()...), q.dst.AsSlice()...)
		return append(f, udp...)
	}
	ip := []byte{0x45 + byte(len(q.options)/4), 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0}
	ip = append(append(append(ip, q.src.AsSlice()...), q.dst.AsSlice()...), q.options...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	binary.BigEndian.PutUint16(ip[10:], ^fold(ip, 0))
	return append(append(append(f, 8, 0), ip...), udp...)
}

// l4 is the offset of the UDP header of a plain frame.
func (q question) l4() int {
	if q.v6 {
		return 54
	}
	return 34
}

// fold adds 16-bit words, RFC 1071.
func fold(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// udpSum is the checksum of a datagram whose checksum field holds zero.
func udpSum(src, dst netip.Addr, udp []byte) uint16 {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 17)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(udp)))
	if sum := ^fold(udp, uint32(fold(pseudo, 0))); sum != 0 {
		return sum
	}
	return 0xffff
}

// check holds an answered frame against the question: everything but the message. It returns the
// message.
func (q question) check(out []byte) ([]byte, error) {
	was, l4 := q.frame(), q.l4()
	if len(out) < l4+20 {
		return nil, fmt.Errorf("%d bytes are no answer", len(out))
	}
	udp := out[l4:]
	want := slices.Clone(was[:l4+8])
	copy(want, was[6:12])
	copy(want[6:], was[:6])
	alen := q.src.BitLen() / 8
	addrs := l4 - 2*alen
	copy(want[addrs:], q.dst.AsSlice())
	copy(want[addrs+alen:], q.src.AsSlice())
	if q.v6 {
		binary.BigEndian.PutUint16(want[18:], uint16(len(udp)))
	} else {
		binary.BigEndian.PutUint16(want[16:], uint16(20+len(udp)))
		binary.BigEndian.PutUint16(want[24:], 0)
		binary.BigEndian.PutUint16(want[24:], ^fold(want[14:34], 0))
	}
	binary.BigEndian.PutUint16(want[l4:], q.dport)
	binary.BigEndian.PutUint16(want[l4+2:], q.sport)
	binary.BigEndian.PutUint16(want[l4+4:], uint16(len(udp)))
	binary.BigEndian.PutUint16(want[l4+6:], 0)
	if !q.noSum {
		bare := slices.Clone(udp)
		bare[6], bare[7] = 0, 0
		binary.BigEndian.PutUint16(want[l4+6:], udpSum(q.dst, q.src, bare))
	}
	if diff := cmp.Diff(out[:l4+8], want); diff != "" {
		return nil, fmt.Errorf("headers (-got +want):\n%s", diff)
	}
	return udp[8:], nil
}

// answered runs the question and returns the answer's message.
func (n *nameCache) answered(q question) []byte {
	n.t.Helper()
	code, out := n.run(q.frame())
	if code != next {
		n.t.Fatalf("action %d, want next", int32(code))
	}
	m, err := q.check(out)
	if err != nil {
		n.t.Fatalf("question %x: %v", q.message(), err)
	}
	return m
}

// left runs a frame that must stay as it is.
func (n *nameCache) left(frame []byte) {
	n.t.Helper()
	code, out := n.run(frame)
	if code != next || !bytes.Equal(out, frame) {
		n.t.Errorf("frame %x\nbecame %x, action %d; want it untouched", frame, out, int32(code))
	}
}

// records makes an answer of count records of type A or AAAA, whose last byte is their number.
func records(qtype uint16, count int) row.DNSLong {
	size := 4
	if qtype == typeAAAA {
		size = 16
	}
	a := row.DNSLong{Ancount: uint16(count), Rotate: uint8(12 + size)}
	var data []byte
	for i := range count {
		data = append(data, 0xc0, 12, 0, byte(qtype), 0, 1, 0, 0, 0, 30, 0, byte(size))
		data = append(data, make([]byte, size-1)...)
		data = append(data, byte(i+1))
	}
	a.Len = uint16(copy(a.Data[:], data))
	return a
}

// shortOf is an answer as a row of dns_answers.
func shortOf(a row.DNSLong) row.DNSAnswer {
	return row.DNSAnswer{
		Len: a.Len, Rcode: a.Rcode, Rotate: a.Rotate, Ancount: a.Ancount, Nscount: a.Nscount, Arcount: a.Arcount,
		Mark: a.Mark, Data: [row.DNSData]uint8(a.Data[:]), Stamp: a.Stamp,
	}
}

// reply is the message that answers q with data.
func (q question) reply(flags uint16, counts [3]uint16, data []byte) []byte {
	m := q.message()[:12+len(q.name)+4]
	binary.BigEndian.PutUint16(m[2:], flags)
	for i, c := range counts {
		binary.BigEndian.PutUint16(m[6+2*i:], c)
	}
	return append(m, data...)
}

// opt is the server's OPT record.
func opt(do byte) []byte { return []byte{0, 0, 41, 1232 >> 8, 1232 & 0xff, 0, 0, do, 0, 0, 0} }

const (
	flagsAnswer = 0x8580 // QR AA RD RA
	flagsCut    = 0x8780
)

func TestKernelAnswersNames(t *testing.T) {
	n := newNames(t)
	one := records(typeA, 1)
	n.put("web.weft.mesos.", typeA, one)
	n.put("web.weft.mesos.", typeAAAA, records(typeAAAA, 1))
	soa := row.DNSLong{Rcode: 3, Nscount: 1, Len: 30}
	n.put("gone.weft.mesos.", typeA, soa)
	n.put("web.weft.mesos.", 16, row.DNSLong{Nscount: 1, Len: 30})
	srv := row.DNSLong{Ancount: 2, Arcount: 2, Len: 77}
	for i := range srv.Len {
		srv.Data[i] = byte(i)
	}
	n.put("_web._tcp.weft.mesos.", typeSRV, srv)
	n.put(".", typeA, one)

	a := ask("web.weft.mesos.", typeA)
	tests := map[string]struct {
		q    question
		want []byte
	}{
		"A":            {a, a.reply(flagsAnswer, [3]uint16{1}, one.Data[:16])},
		"case kept":    {ask("wEb.WEFT.mesos.", typeA), ask("wEb.WEFT.mesos.", typeA).reply(flagsAnswer, [3]uint16{1}, one.Data[:16])},
		"the root":     {ask(".", typeA), ask(".", typeA).reply(flagsAnswer, [3]uint16{1}, one.Data[:16])},
		"SRV":          {ask("_web._tcp.weft.mesos.", typeSRV), ask("_web._tcp.weft.mesos.", typeSRV).reply(flagsAnswer, [3]uint16{2, 0, 2}, srv.Data[:77])},
		"no such name": {ask("gone.weft.mesos.", typeA), ask("gone.weft.mesos.", typeA).reply(flagsAnswer|3, [3]uint16{0, 1}, make([]byte, 30))},
		"no such type": {ask("web.weft.mesos.", 16), ask("web.weft.mesos.", 16).reply(flagsAnswer, [3]uint16{0, 1}, make([]byte, 30))},
	}
	with := func(name string, change func(*question), flags uint16, additional []byte) {
		q := ask("web.weft.mesos.", typeA)
		change(&q)
		tests[name] = struct {
			q    question
			want []byte
		}{q, q.reply(flags, [3]uint16{1, 0, uint16(min(len(additional), 1))}, append(slices.Clone(one.Data[:16]), additional...))}
	}
	with("no recursion wished", func(q *question) { q.flags = 0 }, 0x8480, nil)
	with("checking disabled", func(q *question) { q.flags = 0x0110 }, 0x8590, nil)
	with("authentic data wished", func(q *question) { q.flags = 0x0120 }, flagsAnswer, nil)
	with("no UDP sum", func(q *question) { q.noSum = true }, flagsAnswer, nil)
	with("EDNS", func(q *question) { *q = q.edns(1232, 0, nil) }, flagsAnswer, opt(0))
	with("EDNS with DO", func(q *question) { *q = q.edns(1232, 0x8000, nil) }, flagsAnswer, opt(0x80))
	with("EDNS with a cookie", func(q *question) { *q = q.edns(1232, 0, []byte{0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}) }, flagsAnswer, opt(0))
	with("EDNS of no size", func(q *question) { *q = q.edns(0, 0, nil) }, flagsAnswer, opt(0))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n.t = t
			if diff := cmp.Diff(n.answered(tt.q), tt.want); diff != "" {
				t.Errorf("message (-got +want):\n%s", diff)
			}
			q := tt.q
			q.v6, q.src, q.dst = true, netip.MustParseAddr("fd00::9"), dnsServer6
			if q.noSum {
				n.left(q.frame()) // RFC 8200 8.1 wants one
				return
			}
			if diff := cmp.Diff(n.answered(q), tt.want); diff != "" {
				t.Errorf("message over IPv6 (-got +want):\n%s", diff)
			}
		})
	}
	n.t = t
	if got := n.counted(row.ReasonAnsweredDNS); got != uint64(2*len(tests)-1) {
		t.Errorf("answered counter is %d, want %d", got, 2*len(tests)-1)
	}
}

// TestKernelHasNoRecursionWithoutResolvers: as the server says of itself.
func TestKernelHasNoRecursionWithoutResolvers(t *testing.T) {
	n := newNamesOf(t, bpf.Config{DNS4: dnsServer4, DNS6: dnsServer6, NoRecursion: true})
	one := records(typeA, 1)
	n.put("web.weft.mesos.", typeA, one)
	q := ask("web.weft.mesos.", typeA)
	if diff := cmp.Diff(n.answered(q), q.reply(flagsAnswer&^0x80, [3]uint16{1}, one.Data[:16])); diff != "" {
		t.Errorf("message (-got +want):\n%s", diff)
	}
}

func TestKernelLeavesToTheServer(t *testing.T) {
	n := newNames(t)
	one := records(typeA, 1)
	long := strings.Repeat(strings.Repeat("x", 63)+".", 4)
	n.put("web.weft.mesos.", typeA, one)
	n.putIn(7, "other.weft.mesos.", typeA, one)
	// A row in either map; of the long one the true answer is there too, behind the spoilt one.
	spoil := func(name string, change func(a *row.DNSLong, room uint16)) {
		key := row.DNSKeyOf(0, wire(name), typeA)
		short, whole := one, records(typeA, 3)
		short.Seal(key, 7)
		change(&short, row.DNSData)
		whole.Seal(key, 8)
		must(t, n.maps["dns_answers"].Put(key, shortOf(short)), n.maps["dns_long"].Put(key, whole))
		key = row.DNSKeyOf(0, wire("long."+name), typeA)
		whole.Seal(key, 8)
		change(&whole, row.DNSLongData)
		must(t, n.maps["dns_long"].Put(key, whole))
	}
	spoil("mark.", func(a *row.DNSLong, _ uint16) { a.Mark++ })
	spoil("stamp.", func(a *row.DNSLong, _ uint16) { a.Stamp++ })
	spoil("len.", func(a *row.DNSLong, room uint16) { a.Len = room + 1 })
	spoil("block.", func(a *row.DNSLong, _ uint16) { a.Ancount++ })

	tests := map[string]func(*question){
		"another port":          func(q *question) { q.dport = 54 },
		"another server":        func(q *question) { q.dst = q.dst.Next() },
		"an answer":             func(q *question) { q.flags |= 0x8000 },
		"an update":             func(q *question) { q.flags |= 5 << 11 },
		"a status":              func(q *question) { q.flags |= 2 << 11 },
		"a cut question":        func(q *question) { q.flags |= 0x0200 },
		"no question":           func(q *question) { q.counts[0] = 0 },
		"two questions":         func(q *question) { q.counts[0] = 2 },
		"256 and one questions": func(q *question) { q.counts[0] = 0x0101 },
		"an answer record":      func(q *question) { q.counts[1] = 1 },
		"an authority record":   func(q *question) { q.counts[2] = 1 },
		"two additionals":       func(q *question) { *q = q.edns(512, 0, nil); q.counts[3] = 2 },
		"no OPT where one is":   func(q *question) { *q = q.edns(512, 0, nil); q.counts[3] = 0 },
		"OPT that is not there": func(q *question) { q.counts[3] = 1 },
		"half an OPT":           func(q *question) { *q = q.edns(512, 0, nil); q.tail = q.tail[:10] },
		"OPT of a name":         func(q *question) { *q = q.edns(512, 0, nil); q.tail[0] = 1 },
		"TSIG":                  func(q *question) { *q = q.edns(512, 0, nil); q.tail[2] = 250 },
		"EDNS version 1":        func(q *question) { *q = q.edns(512, 1<<16, nil) },
		"OPT beyond the end":    func(q *question) { *q = q.edns(512, 0, nil); q.tail[10] = 1 },
		"bytes behind OPT":      func(q *question) { *q = q.edns(512, 0, nil); q.tail = append(q.tail, 0) },
		"bytes behind":          func(q *question) { q.tail = []byte{0} },
		"a long message":        func(q *question) { *q = q.edns(512, 0, make([]byte, 512)) },
		"class CH":              func(q *question) { q.class = 3 },
		"class ANY":             func(q *question) { q.class = 255 },
		"class 257":             func(q *question) { q.class = 0x0101 },
		"a pointer":             func(q *question) { q.name = []byte{0xc0, 12} },
		"an old label type":     func(q *question) { q.name = append([]byte{0x41}, make([]byte, 64)...) },
		"a name without end":    func(q *question) { q.name = q.name[:len(q.name)-1]; q.qtype = 0x3f3f },
		"a name of 256 bytes":   func(q *question) { q.name = wire(long[:len(long)-2] + "." + "x.") },
		"a name of 257 bytes":   func(q *question) { q.name = wire(long) },
		"another name":          func(q *question) { q.name = wire("web.weft.meso.") },
		"another type":          func(q *question) { q.qtype = typeAAAA },
		"type 257":              func(q *question) { q.qtype = 0x0101 },
		"a network's name":      func(q *question) { q.name = wire("other.weft.mesos.") },
		"a reused row, front":   func(q *question) { q.name = wire("mark.") },
		"a reused row, back":    func(q *question) { q.name = wire("stamp.") },
		"a row too long":        func(q *question) { q.name = wire("len.") },
		"a row of less records": func(q *question) { q.name = wire("block.") },

		"a reused long row, front":   func(q *question) { q.name = wire("long.mark.") },
		"a reused long row, back":    func(q *question) { q.name = wire("long.stamp.") },
		"a long row too long":        func(q *question) { q.name = wire("long.len.") },
		"a long row of less records": func(q *question) { q.name = wire("long.block.") },
	}
	reasons := map[string]row.Reason{
		"another port": row.ReasonNone, "another server": row.ReasonNone, // no questions to this one
		"another name": row.ReasonDNSMiss, "another type": row.ReasonDNSMiss, "type 257": row.ReasonDNSMiss, "a network's name": row.ReasonDNSMiss,
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			n.t = t
			want, ok := reasons[name]
			switch {
			case strings.Contains(name, " row"):
				want = row.ReasonDNSChanged
			case !ok:
				want = row.ReasonDNSUnread
			}
			for _, q := range []question{ask("web.weft.mesos.", typeA), ask6("web.weft.mesos.", typeA)} {
				change(&q)
				n.leftFor(want, q.frame())
			}
		})
	}
}

// leftFor runs a frame that must stay as it is, and is counted by that reason alone; none: not at all.
func (n *nameCache) leftFor(want row.Reason, frame []byte) {
	n.t.Helper()
	all := []row.Reason{row.ReasonAnsweredDNS, row.ReasonDNSMiss, row.ReasonDNSUnread, row.ReasonDNSChanged}
	was := make(map[row.Reason]uint64)
	for _, r := range all {
		was[r] = n.counted(r)
		if r == want {
			was[r]++
		}
	}
	n.left(frame)
	for _, r := range all {
		if got := n.counted(r); got != was[r] {
			n.t.Errorf("%x: %s is counted %d times, want %d", frame, r, got, was[r])
		}
	}
}

// What is wrong with the headers below the message.
func TestKernelLeavesOddDatagrams(t *testing.T) {
	n := newNames(t)
	n.put("web.weft.mesos.", typeA, records(typeA, 1))
	tests := map[string]struct {
		q      question
		change func([]byte) []byte
	}{
		"TCP":                {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[23] = 6; return f }},
		"a first fragment":   {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[20] |= 0x20; return f }},
		"a later fragment":   {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[21] = 1; return f }},
		"UDP of 7 bytes":     {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[38], f[39] = 0, 7; return f }},
		"UDP of 20 bytes":    {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[38], f[39] = 0, 20; return f }},
		"UDP beyond the end": {ask("web.weft.mesos.", typeA), func(f []byte) []byte { f[39]++; return f }},
		"no IPv6 sum":        {ask6("web.weft.mesos.", typeA), func(f []byte) []byte { f[60], f[61] = 0, 0; return f }},
		"hop-by-hop header": {ask6("web.weft.mesos.", typeA), func(f []byte) []byte {
			f[20] = 0
			f = slices.Insert(f, 54, 17, 0, 1, 4, 0, 0, 0, 0)
			binary.BigEndian.PutUint16(f[18:], binary.BigEndian.Uint16(f[18:])+8)
			return f
		}},
		"IPv4 option": {func() question {
			q := ask("web.weft.mesos.", typeA)
			q.options = []byte{1, 1, 1, 0}
			return q
		}(), func(f []byte) []byte { return f }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n.t = t
			want := row.ReasonDNSUnread
			if name == "TCP" || name == "a later fragment" { // no questions
				want = row.ReasonNone
			}
			n.leftFor(want, tt.change(tt.q.frame()))
		})
	}
}

// A valid question cut short at every length, the IP and UDP lengths as they were and set to what is left.
func TestKernelLeavesTruncatedQuestions(t *testing.T) {
	n := newNames(t)
	n.put("web.weft.mesos.", typeA, records(typeA, 1))
	for _, q := range []question{ask("web.weft.mesos.", typeA).edns(1232, 0, nil), ask6("web.weft.mesos.", typeA).edns(1232, 0, nil)} {
		whole := q.frame()
		n.answered(q)
		for size := q.l4(); size < len(whole); size++ {
			n.left(whole[:size])
			short := slices.Clone(whole[:size])
			if q.v6 {
				binary.BigEndian.PutUint16(short[18:], uint16(size-54))
			} else {
				binary.BigEndian.PutUint16(short[16:], uint16(size-14))
			}
			if size >= q.l4()+8 {
				binary.BigEndian.PutUint16(short[q.l4()+4:], uint16(size-q.l4()))
			}
			n.left(short)
		}
	}
}

// What the link adds behind the datagram is no part of it.
func TestKernelIgnoresPadding(t *testing.T) {
	n := newNames(t)
	n.put("a.", typeA, records(typeA, 1))
	q := ask("a.", typeA)
	_, out := n.run(append(q.frame(), make([]byte, 9)...))
	if _, err := q.check(out); err != nil {
		t.Error(err)
	}
}

func TestKernelCutsWhatDoesNotFit(t *testing.T) {
	n := newNames(t)
	long := strings.Repeat(strings.Repeat("x", 62)+".", 4) // 253 bytes in wire form
	plain := ask(long, typeA)
	asked := len(plain.message())
	for _, over := range []int{0, 1} {
		a := row.DNSLong{Ancount: 1, Nscount: 2, Arcount: 3, Len: uint16(512 - asked + over)}
		for i := range a.Len {
			a.Data[i] = byte(i)
		}
		n.put(long, typeA, a)
		whole := plain.reply(flagsAnswer, [3]uint16{1, 2, 3}, a.Data[:a.Len])
		cut := plain.reply(flagsCut, [3]uint16{}, nil)
		withOpt := plain.reply(flagsAnswer, [3]uint16{1, 2, 4}, append(slices.Clone(a.Data[:a.Len]), opt(0)...))
		cutOpt := plain.reply(flagsCut, [3]uint16{0, 0, 1}, opt(0))
		fits := [][]byte{whole, cut}[over]
		size := uint16(len(withOpt))
		for _, tt := range []struct {
			name string
			q    question
			want []byte
		}{
			{"plain", plain, fits},
			{"EDNS below 512", plain.edns(100, 0, nil), cutOpt},
			{"EDNS one less", plain.edns(size-1, 0, nil), cutOpt},
			{"EDNS just right", plain.edns(size, 0, nil), withOpt},
			{"EDNS above the cap", plain.edns(65535, 0, nil), withOpt},
		} {
			if diff := cmp.Diff(n.answered(tt.q), tt.want); diff != "" {
				t.Errorf("%s, %d over (-got +want):\n%s", tt.name, over, diff)
			}
		}
	}
}

// The largest answers of either map: sums over more than 512 bytes.
func TestKernelGivesFullRows(t *testing.T) {
	n := newNames(t)
	name := strings.Repeat(strings.Repeat("y", 63)+".", 3) + strings.Repeat("z", 61) + "." // 255 bytes
	for _, size := range []int{row.DNSData - 1, row.DNSData, row.DNSData + 1, 440, 447, row.DNSLongData} {
		a := row.DNSLong{Ancount: 1, Len: uint16(size)}
		for i := range a.Len {
			a.Data[i] = byte(i*7 + 1)
		}
		n.put(name, typeA, a)
		for _, q := range []question{ask(name, typeA).edns(1232, 0, nil), ask6(name, typeA).edns(1232, 0, nil)} {
			want := q.reply(flagsAnswer, [3]uint16{1, 0, 1}, append(slices.Clone(a.Data[:a.Len]), opt(0)...))
			if diff := cmp.Diff(n.answered(q), want); diff != "" {
				t.Errorf("%d bytes (-got +want):\n%s", size, diff)
			}
		}
	}
}

func TestKernelRotatesAnswers(t *testing.T) {
	anyKernel(t)
	n := newNames(t)
	for _, tt := range []struct {
		qtype uint16
		count int
	}{{typeA, 2}, {typeA, 3}, {typeA, 28}, {typeAAAA, 3}, {typeAAAA, 16}} {
		a := records(tt.qtype, tt.count)
		size := int(a.Rotate)
		if int(a.Len)+9 <= row.DNSLongData { // what follows the answers stays where it is
			a.Len += uint16(copy(a.Data[a.Len:], "behind it"))
			a.Arcount = 1
		}
		n.put("many.", tt.qtype, a)
		q := ask("many.", tt.qtype).edns(1232, 0, nil)
		seen := make(map[byte]bool)
		for range 400 {
			m := n.answered(q)
			got := m[len(q.message())-11 : len(m)-11]
			first := got[size-1] - 1
			seen[first] = true
			block := a.Data[:size*tt.count]
			want := slices.Concat(block[int(first)*size:], block[:int(first)*size], a.Data[len(block):a.Len])
			if diff := cmp.Diff(got, want); diff != "" {
				t.Fatalf("type %d x %d from %d (-got +want):\n%s", tt.qtype, tt.count, first, diff)
			}
		}
		if len(seen) != tt.count {
			t.Errorf("type %d: %d of %d records came first in 400 answers", tt.qtype, len(seen), tt.count)
		}
	}
}

// The two forms of the hash agree on names of every length and byte, whatever their case.
func TestKernelHashesAsGo(t *testing.T) {
	n := newNames(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for length := 1; length <= 255; length++ {
		var name []byte
		for left := length - 1; left > 0; {
			label := min(1+rng.IntN(63), left-1)
			if left-1-label == 1 { // no room for a label of one more
				label--
			}
			if label < 1 {
				break
			}
			name = append(name, byte(label))
			for range label {
				name = append(name, byte(rng.Uint32()))
			}
			left -= label + 1
		}
		name = append(name, 0)
		one := records(typeA, 1)
		if err := n.answers.Put(0, name, typeA, 0, 1, 0, 0, one.Rotate, one.Data[:16]); err != nil {
			t.Fatal(err)
		}
		q := ask("", typeA)
		q.name = name
		n.answered(q)
	}
}

// Whatever comes, a frame either stays as it is or becomes a well-formed answer.
func TestKernelAnswersWellOrNotAtAll(t *testing.T) {
	n := newNames(t)
	rng := rand.New(rand.NewPCG(3, 4))
	n.put("web.weft.mesos.", typeA, records(typeA, 2))
	n.put("web.weft.mesos.", typeAAAA, records(typeAAAA, 2)) // long
	rounds, changed := bpftest.Packets(t), 0
	bases := []question{
		ask("web.weft.mesos.", typeA), ask6("web.weft.mesos.", typeA),
		ask("web.weft.mesos.", typeAAAA).edns(1232, 0, nil), ask6("WEB.weft.mesos.", typeAAAA).edns(512, 0x8000, nil),
	}
	for range rounds {
		q := bases[rng.IntN(len(bases))]
		frame := q.frame()
		for range rng.IntN(3) {
			frame[14+rng.IntN(len(frame)-14)] ^= 1 << rng.IntN(8)
		}
		if v := frame[14] >> 4; v != 4 && v != 6 || (v == 6) != q.v6 || frame[14]&0xf < 5 && v == 4 {
			continue // the kernel refuses to run on it
		}
		code, out := n.run(frame)
		if code != next {
			t.Fatalf("frame %x: action %d", frame, int32(code))
		}
		if bytes.Equal(out, frame) {
			continue
		}
		changed++
		l4 := q.l4()
		m, was := out[l4+8:], frame[l4+8:]
		end := len(q.message()) - len(q.tail)
		switch {
		case !bytes.Equal(m[:2], was[:2]), !bytes.Equal(m[12:end], was[12:end]), m[2]&0x80 == 0:
			t.Fatalf("frame %x\nbecame %x: not its answer", frame, out)
		case int(binary.BigEndian.Uint16(out[l4+4:])) != len(out)-l4:
			t.Fatalf("frame %x\nbecame %x: UDP length is wrong", frame, out)
		}
	}
	if changed < rounds/4 {
		t.Errorf("%d of %d frames were answered: the test tests little", changed, rounds)
	}
}

func BenchmarkKernelAnswer(b *testing.B) {
	n := newNames(b)
	n.put("web.weft.mesos.", typeA, records(typeA, 1))
	n.put("web.weft.mesos.", typeAAAA, records(typeAAAA, 3))
	for name, q := range map[string]question{
		"A": ask("web.weft.mesos.", typeA), "AAAAx3": ask6("web.weft.mesos.", typeAAAA).edns(1232, 0, nil),
		"miss": ask("none.weft.mesos.", typeA),
	} {
		b.Run(name, func(b *testing.B) {
			// One run per call: a repeated run would meet its own answer. The program's own time is
			// what the kernel's statistics say, of the best 200 in a row: others use the machine too.
			stats, err := ebpf.EnableStats(0)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = stats.Close() })
			frame, best := q.frame(), 0.0
			for b.Loop() {
				before, err1 := n.prog.Stats()
				for range 200 {
					n.run(frame)
				}
				after, err2 := n.prog.Stats()
				if err := errors.Join(err1, err2); err != nil {
					b.Fatal(err)
				}
				if ns := float64(after.Runtime-before.Runtime) / float64(after.RunCount-before.RunCount); best == 0 || ns < best {
					best = ns
				}
			}
			b.ReportMetric(best, "ns/packet")
		})
	}
}

func requireRoot(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("loading programs needs root")
	}
}
