// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// The world of the packet tables. Programs run on the loopback, link 1, which is web's.
const (
	netA, netB = 0x101, 0x202

	webLink, dbLink, peerLink, openLink, nodeLink = 1, 7, 8, 9, 10

	// identities: web and peer have a group in common, db is named by rules, open is public.
	web, db, public, stranger = 16, 17, 18, 19
	outside                   = 20 // of the plain node

	peerPort = 80 // that the world reaches by the node

	ruleAllow, ruleAudit, ruleDeny, rulePublic, ruleNode = 7, 8, 9, 10, 11
)

var (
	node      = netip.MustParseAddr("192.0.2.1")
	otherNode = netip.MustParseAddr("192.0.2.2")
	plainNode = netip.MustParseAddr("192.0.2.3")
	noNode    = netip.MustParseAddr("192.0.2.9")
	dns4      = netip.MustParseAddr("198.51.100.1")
	dns6      = netip.MustParseAddr("fd01:d::c633:6401")
	world4    = netip.MustParseAddr("203.0.113.5")
	world6    = netip.MustParseAddr("2001:db8:5::5")
)

// addrs are the addresses of one family.
type addrs struct {
	web, db, peer, open       netip.Addr
	none, remote, unheld      netip.Addr // in web's block but no task; on otherNode; in no block
	plain                     netip.Addr // on plainNode
	foreign, world, multicast netip.Addr // of netB; outside; never carried
	dns                       netip.Addr
	own, other, lost          netip.Addr // of processes of node, of otherNode, of no node
	vip, vip2                 netip.Addr // of VIPs, where a test has some
}

var (
	v4 = addrs{
		web: addr("10.1.1.10"), db: addr("10.1.1.20"), peer: addr("10.1.1.30"), open: addr("10.1.1.40"),
		none: addr("10.1.1.99"), remote: addr("10.1.2.10"), unheld: addr("10.1.9.9"), plain: addr("10.1.3.10"),
		foreign: addr("10.2.1.10"), world: world4, multicast: addr("224.0.0.251"), dns: dns4,
		own: addr("44.128.0.1"), other: addr("44.128.0.2"), lost: addr("44.128.0.9"),
		vip: addr("11.0.0.1"), vip2: addr("11.0.0.2"),
	}
	v6 = addrs{
		web: addr("fd01:1::1:a"), db: addr("fd01:1::1:14"), peer: addr("fd01:1::1:1e"), open: addr("fd01:1::1:28"),
		none: addr("fd01:1::1:63"), remote: addr("fd01:1::2:a"), unheld: addr("fd01:1::9:9"), plain: addr("fd01:1::3:a"),
		foreign: addr("fd01:2::1:a"), world: world6, multicast: addr("ff02::fb"), dns: dns6,
		own: addr("fd01:a::1"), other: addr("fd01:a::2"), lost: addr("fd01:a::9"),
		vip: addr("fd01:c::1"), vip2: addr("fd01:c::2"),
	}
	families = map[string]addrs{"ipv4": v4, "ipv6": v6}

	plainMAC, ownMAC = bpftest.MAC{0x0a, 0x58, 192, 0, 2, 3}, bpftest.MAC{0x0a, 0x58, 192, 0, 2, 1}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func (a addrs) icmp() uint8 {
	if a.web.Is4() {
		return bpftest.ICMP
	}
	return bpftest.ICMPv6
}

// echo returns request or reply.
func (a addrs) echo(request bool) uint8 {
	switch {
	case a.web.Is4() && request:
		return 8
	case a.web.Is4():
		return 0
	case request:
		return 128
	}
	return 129
}

func (a addrs) head() int {
	if a.web.Is4() {
		return 20
	}
	return 40
}

func mac(link uint32) bpftest.MAC { return bpftest.MAC{0x0a, 0x58, 0, 0, 0, byte(link)} }

// newTables returns the tables of the world. mtu is of the way to otherNode, bytes.
func newTables(mtu uint16) *bpftest.Tables {
	t := &bpftest.Tables{
		Workloads: make(map[uint32]row.Workload),
		Endpoints: make(map[row.EndpointKey]row.Endpoint),
		Blocks:    make(map[row.BlockKey]row.Block),
		Prefixes: map[row.PrefixKey]row.Prefix{
			row.PrefixKeyOf(netip.MustParsePrefix("10.1.0.0/16")):   {VNI: netA, Block: 120},
			row.PrefixKeyOf(netip.MustParsePrefix("fd01:1::/64")):   {VNI: netA, Block: 112},
			row.PrefixKeyOf(netip.MustParsePrefix("10.2.0.0/16")):   {VNI: netB, Block: 120},
			row.PrefixKeyOf(netip.MustParsePrefix("fd01:2::/64")):   {VNI: netB, Block: 112},
			row.PrefixKeyOf(netip.MustParsePrefix("44.128.0.0/20")): {VNI: row.VNINodes, Block: 128},
			row.PrefixKeyOf(netip.MustParsePrefix("fd01:a::/64")):   {VNI: row.VNINodes, Block: 128},
		},
		VTEPs: map[row.Addr]row.VTEP{row.AddrOf(otherNode): {}, row.AddrOf(plainNode): {
			Flags: row.VTEPPlain | row.VTEPDirected, VNI: netA, As: row.Endpoint{Identity: outside, MAC: plainMAC}, OwnMAC: ownMAC,
			Block4: 24, Block6: 112,
		}},
		Verdicts: make(map[row.VerdictKey]row.Verdict),
		Openings: make(map[row.OpeningKey]row.Opening),
		Clauses:  make(map[row.ClausesKey]row.Clauses),
		Sources: map[row.SourceKey]row.Source{
			row.SourceKeyOf(netA, netip.MustParsePrefix("203.0.113.0/24")): {Src: row.VerdictPrefix | ruleAllow},
			row.SourceKeyOf(netA, netip.MustParsePrefix("2001:db8::/32")):  {Src: row.VerdictPrefix | ruleAllow},
			row.SourceKeyOf(netA, netip.MustParsePrefix("44.128.0.2/32")):  {Src: row.VerdictPrefix | ruleNode},
			row.SourceKeyOf(netA, netip.MustParsePrefix("fd01:a::2/128")):  {Src: row.VerdictPrefix | ruleNode},
		},
		Attempts: make(map[row.FlowKey]row.Flow), Flows: make(map[row.FlowKey]row.Flow), Datagrams: make(map[row.FlowKey]row.Flow),
		VIPs: bpftest.NewVIPs(),
	}
	for _, task := range []struct {
		link            uint32
		identity, flags uint16
		addr4, addr6    netip.Addr
	}{
		{webLink, web, 0, v4.web, v6.web},
		{dbLink, db, row.EndpointPrefixed, v4.db, v6.db},
		{peerLink, web, 0, v4.peer, v6.peer},
		{openLink, public, 0, v4.open, v6.open},
	} {
		t.Workloads[task.link] = row.Workload{
			VNI: netA, Identity: task.identity, MTU: 1450, MAC: mac(task.link), Block4: 24, Block6: 112,
			Addr4: row.AddrOf(task.addr4), Addr6: row.AddrOf(task.addr6),
		}
		for _, a := range []netip.Addr{task.addr4, task.addr6} {
			t.Endpoints[row.EndpointKey{VNI: netA, Addr: row.AddrOf(a)}] = row.Endpoint{
				Ifindex: task.link, Identity: task.identity, Flags: task.flags, MAC: mac(task.link),
			}
		}
	}
	for _, a := range []addrs{v4, v6} {
		t.Blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(a.own)}] = row.Block{VTEP: row.AddrOf(node), MTU: mtu, Flags: row.BlockLocal}
		t.Blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(a.other)}] = row.Block{VTEP: row.AddrOf(otherNode), MTU: mtu}
		t.Endpoints[row.EndpointKey{VNI: row.VNINodes, Addr: row.AddrOf(a.own)}] = row.Endpoint{
			Ifindex: nodeLink, Identity: row.IdentityNode, MAC: mac(nodeLink),
		}
	}
	// A port of the node leads to one of peer's.
	for _, a := range []netip.Addr{v4.peer, v6.peer} {
		for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
			key := row.OpeningKey{VNI: netA, Addr: row.AddrOf(a), Port: row.Port(peerPort), Proto: proto}
			t.Openings[key] = row.Opening{HostPort: 8080}
		}
	}
	block := func(prefix string, b row.Block) {
		t.Blocks[row.BlockKey{VNI: netA, Addr: row.AddrOf(netip.MustParsePrefix(prefix).Addr())}] = b
	}
	for _, prefix := range []string{"10.1.1.0/24", "fd01:1::1:0/112"} {
		block(prefix, row.Block{VTEP: row.AddrOf(node), MTU: mtu, Flags: row.BlockLocal})
	}
	for _, prefix := range []string{"10.1.2.0/24", "fd01:1::2:0/112"} {
		block(prefix, row.Block{VTEP: row.AddrOf(otherNode), MTU: mtu})
	}
	for _, prefix := range []string{"10.1.3.0/24", "fd01:1::3:0/112"} {
		block(prefix, row.Block{VTEP: row.AddrOf(plainNode), MTU: mtu, Flags: row.BlockPlain})
	}
	set := func(src, dst uint32, clauses ...row.Clause) {
		t.Set(row.VerdictKey{VNI: netA, Src: src, Dst: dst}, clauses...)
	}
	none := func(proto uint8, port uint16) row.Clause { return row.ClauseOf(proto, port, row.VerdictNone, 0) }
	set(web, web, row.ClauseOf(0, 0, row.VerdictAllow, 0))
	set(web, db,
		none(0, 0),
		row.ClauseOf(bpftest.ICMP, 0, row.VerdictAllow, ruleAllow),
		none(bpftest.ICMP+1, 0),
		row.ClauseOf(bpftest.TCP, 22, row.VerdictDeny, ruleDeny),
		none(bpftest.TCP, 23),
		row.ClauseOf(bpftest.TCP, 5432, row.VerdictAllow, ruleAllow),
		none(bpftest.TCP, 5433),
		row.ClauseOf(bpftest.UDP, 0, row.VerdictAudit, ruleAudit),
		none(bpftest.UDP+1, 0))
	set(db, web, none(0, 0), row.ClauseOf(bpftest.UDP, 0, row.VerdictDeny, ruleDeny), none(bpftest.UDP+1, 0))
	set(outside, web, none(0, 0), row.ClauseOf(bpftest.TCP, 80, row.VerdictAllow, ruleAllow), none(bpftest.TCP, 81))
	set(web, outside,
		none(0, 0), row.ClauseOf(bpftest.TCP, 5432, row.VerdictAllow, ruleAllow), none(bpftest.TCP, 5433),
		row.ClauseOf(bpftest.UDP, 0, row.VerdictAudit, ruleAudit), none(bpftest.UDP+1, 0))
	set(web, public,
		row.ClauseOf(0, 0, row.VerdictAllow, 0),
		row.ClauseOf(bpftest.TCP, 22, row.VerdictDeny, ruleDeny),
		row.ClauseOf(bpftest.TCP, 23, row.VerdictAllow, 0))
	set(row.IdentityWorld, public, row.ClauseOf(0, 0, row.VerdictAllow, rulePublic))
	set(row.IdentityOtherNode, public, row.ClauseOf(0, 0, row.VerdictAllow, rulePublic))
	set(row.VerdictPrefix|ruleNode, db, none(0, 0), row.ClauseOf(bpftest.TCP, 5432, row.VerdictAllow, ruleNode), none(bpftest.TCP, 5433))
	set(row.VerdictPrefix|ruleAllow, db, manyPorts()...)
	return t
}

// manyPorts allows every other port of TCP from 5000 to 5999: more clauses than a row has.
func manyPorts() []row.Clause {
	list := []row.Clause{row.ClauseOf(0, 0, row.VerdictNone, 0)}
	for port := uint16(5000); port < 6000; port += 2 {
		list = append(list, row.ClauseOf(bpftest.TCP, port, row.VerdictAllow, ruleAllow), row.ClauseOf(bpftest.TCP, port+1, row.VerdictNone, 0))
	}
	return append(list, row.ClauseOf(bpftest.TCP+1, 0, row.VerdictNone, 0))
}

// bench is a loaded object, the model of it, and the reasons that its programs were seen to give.
type bench struct {
	*bpftest.Set
	bpftest.Model
	seen map[row.Reason]bool
}

// change is what a test wants different in the world.
type change struct {
	config func(*bpf.Config)
	tables func(*bpftest.Tables)
}

// newBench loads an object of package bpf over the world's tables.
func newBench(tb testing.TB, object string, c change) *bench {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("loading programs needs root")
	}
	config := bpf.Config{
		NodeAddr: node, Underlay: 1, Tunnel: 1, TunnelPort: 4789, DNS4: dns4, DNS6: dns6, EventsPerSecond: 100,
	}
	if c.config != nil {
		c.config(&config)
	}
	type loaded struct {
		object string
		config bpf.Config
	}
	set := bpftest.Borrow(tb, loaded{object, config}, func() (*bpftest.Set, error) { return loadBench(object, config) })
	tables := newTables(1450)
	if c.tables != nil {
		c.tables(tables)
	}
	if err := tables.Fill(set); err != nil {
		tb.Fatal(err)
	}
	b := &bench{
		Set: set, seen: make(map[row.Reason]bool),
		Model: bpftest.Model{Tables: tables, Node: bpftest.Node{
			Addr: config.NodeAddr, TunnelPort: config.TunnelPort, TunnelPort2: config.TunnelPort2, DNS4: config.DNS4, DNS6: config.DNS6,
			Device: config.Tunnel != 0, SlowEncap: config.SlowEncap, SlowDecap: config.SlowDecap,
			OldDecap: oldDecap(tb),
		}},
	}
	b.Chosen = func(flow row.FlowKey, allowed []row.Peer) row.Peer { return b.chosen(tb, flow, allowed) }
	return b
}

func loadBench(object string, config bpf.Config) (*bpftest.Set, error) {
	spec, err := bpftest.Spec(object, config)
	if err != nil {
		return nil, err
	}
	if object == "tunnel" {
		if err := bpftest.GiveTunnelKey(spec.Programs["from_tunnel"]); err != nil {
			return nil, err
		}
	}
	return bpftest.Load(spec)
}

// chosen reads which backend the programs gave a flow.
func (b *bench) chosen(tb testing.TB, flow row.FlowKey, allowed []row.Peer) row.Peer {
	tb.Helper()
	var got row.Translation
	if err := b.Maps["translations"].Lookup(flow, &got); err != nil {
		tb.Fatalf("a flow %+v to a VIP has no backend, want one of %v: %v", flow, allowed, err)
	}
	if !slices.Contains(allowed, got.To) {
		tb.Fatalf("a flow %+v to a VIP has got %v, want one of %v", flow, got.To, allowed)
	}
	return got.To
}

// oldDecap tells whether this kernel is below 6.3.
func oldDecap(tb testing.TB) bool {
	tb.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		tb.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		tb.Fatalf("kernel release %q: %v", name.Release, err)
	}
	return major < 6 || major == 6 && minor < 3
}

// opened is the reason by which from_underlay lets a frame in that it would deliver.
func (b *bench) opened(a addrs, want row.Reason) row.Reason {
	if b.OldDecap && a.web.Is6() && (want == row.ReasonDelivered || want == row.ReasonAudited || want == row.ReasonToHost) {
		return row.ReasonSlowPath
	}
	return want
}

// anyKernel skips in the emulated guests of `make test-kernels` what they take long for and no kernel changes.
func anyKernel(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the same on every kernel")
	}
}

// expect runs a program, wants the reason, wants the model to agree, and wants the flows that the
// model remembers. It returns the frame as the program left it.
func (b *bench) expect(t *testing.T, program string, frame []byte, meta bpftest.Meta, want row.Reason) []byte {
	t.Helper()
	before, err := b.Counter(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Run(program, frame, meta)
	if err != nil {
		t.Fatal(err)
	}
	b.seen[got.Reason] = true
	model := b.model(program, frame, meta)
	if got.Reason != want || got.Action != model.Action() {
		t.Fatalf("%s: got %s (%s), want %s (%s)", program, got.Reason, got.Action, want, model.Action())
	}
	if model.Reason != want {
		t.Fatalf("model: got %s, want %s", model.Reason, want)
	}
	after, err := b.Counter(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := after.Bytes - before.Bytes; diff != uint64(len(frame)) {
		t.Errorf("counted %d bytes of a frame of %d", diff, len(frame))
	}
	b.sameFlows(t)
	return got.Out
}

func (b *bench) model(program string, frame []byte, meta bpftest.Meta) bpftest.Outcome {
	switch program {
	case "from_workload":
		return b.FromWorkload(frame, meta)
	case "to_workload":
		return b.ToWorkload(frame, meta)
	case "from_node":
		return b.FromNode(frame, meta)
	case "from_underlay":
		return b.FromUnderlay(frame, meta)
	}
	return b.FromTunnel(frame, meta)
}

// sameFlows compares what the programs remember with what the model does.
func (b *bench) sameFlows(t *testing.T) {
	t.Helper()
	translations, err := bpftest.Rows[row.FlowKey, row.Translation](b.Set, "translations")
	if err != nil {
		t.Fatal(err)
	}
	ignored := cmpopts.IgnoreFields(row.Translation{}, "Since", "Slot")
	if diff := cmp.Diff(b.Translations, translations, cmpopts.EquateEmpty(), ignored); diff != "" {
		t.Errorf("translations (-want +got):\n%s", diff)
	}
	affinities, err := bpftest.Rows[row.AffinityKey, row.Affinity](b.Set, "affinities")
	if err != nil {
		t.Fatal(err)
	}
	clients := make(map[row.AffinityKey]row.Peer)
	for key, known := range affinities {
		clients[key] = known.Backend.To
	}
	if diff := cmp.Diff(b.Affinities, clients, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("affinities (-want +got):\n%s", diff)
	}
	for name, model := range b.remembered() {
		flows, err := bpftest.Rows[row.FlowKey, row.Flow](b.Set, name)
		if err != nil {
			t.Fatal(err)
		}
		for key, f := range flows {
			f.Seen = 0
			flows[key] = f
		}
		if diff := cmp.Diff(model, flows); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// remembered returns the maps that the programs write.
func (b *bench) remembered() map[string]map[row.FlowKey]row.Flow {
	return map[string]map[row.FlowKey]row.Flow{"attempts": b.Attempts, "flows": b.Flows, "datagrams": b.Datagrams}
}

// reset forgets all flows.
func (b *bench) reset(t *testing.T) {
	t.Helper()
	for _, model := range b.remembered() {
		clear(model)
	}
	clear(b.Translations)
	clear(b.Affinities)
	if err := b.Fill(b.Set); err != nil {
		t.Fatal(err)
	}
}

// tcp, udp and ping return a valid packet of web to dst, as every row begins with.
func tcp(src, dst netip.Addr) bpftest.Packet {
	return bpftest.Packet{
		SrcMAC: mac(webLink), Src: src, Dst: dst, Frag: bpftest.DontFragment,
		Proto: bpftest.TCP, SPort: 40000, DPort: 80, Payload: []byte("hello"),
	}
}

func udp(src, dst netip.Addr) bpftest.Packet {
	p := tcp(src, dst)
	p.Proto = bpftest.UDP
	return p
}

func (a addrs) ping(src, dst netip.Addr, request bool) bpftest.Packet {
	p := tcp(src, dst)
	p.Proto, p.ICMPType, p.ICMPRest = a.icmp(), a.echo(request), [4]byte{0x12, 0x34, 0, 1}
	return p
}
