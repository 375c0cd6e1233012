// SPDX-License-Identifier: Apache-2.0

package overlay_test

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"

	"weft/overlay"
)

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func prod() overlay.Network {
	return overlay.Network{Name: "prod", VNI: 7, Subnet4: prefix("9.0.0.0/16"), Subnet6: prefix("fd01:b::/64")}
}

// complains checks that err is of the kind wanted and says every one of the words; no words: no error.
func complains(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if len(words) == 0 {
		if err != nil {
			t.Errorf("got %v, want no error", err)
		}
		return
	}
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q, want it to say %q", err, w)
		}
	}
}

func TestNetworkValidateNamesFieldValueAndWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*overlay.Network)
		want   []string
	}{
		"whole":            {func(*overlay.Network) {}, nil},
		"IPv4 only":        {func(n *overlay.Network) { n.Subnet6 = netip.Prefix{} }, nil},
		"IPv6 only":        {func(n *overlay.Network) { n.Subnet4 = netip.Prefix{} }, nil},
		"small subnet":     {func(n *overlay.Network) { n.Subnet4 = prefix("9.0.0.0/26") }, nil},
		"63 characters":    {func(n *overlay.Network) { n.Name = strings.Repeat("a", 63) }, nil},
		"64 characters":    {func(n *overlay.Network) { n.Name = strings.Repeat("a", 64) }, []string{"name", "DNS label", "63"}},
		"name with dot":    {func(n *overlay.Network) { n.Name = "a.b" }, []string{`"a.b"`, "DNS label"}},
		"upper case":       {func(n *overlay.Network) { n.Name = "Prod" }, []string{`"Prod"`, "a-z"}},
		"no subnet":        {func(n *overlay.Network) { n.Subnet4, n.Subnet6 = prefix(""), prefix("") }, []string{"at least one"}},
		"host bits":        {func(n *overlay.Network) { n.Subnet4 = prefix("9.0.0.1/16") }, []string{"9.0.0.1/16", "write 9.0.0.0/16"}},
		"families crossed": {func(n *overlay.Network) { n.Subnet4 = prefix("fd01::/64") }, []string{"subnet4 fd01::/64 is not IPv4"}},
		"mapped":           {func(n *overlay.Network) { n.Subnet6 = prefix("::ffff:9.0.0.0/112") }, []string{"not IPv6"}},
		"tiny":             {func(n *overlay.Network) { n.Subnet4 = prefix("9.0.0.0/31") }, []string{"too small", "30"}},
		"block too short":  {func(n *overlay.Network) { n.Block4 = 15 }, []string{"block4 15", "16 to 30"}},
		"block too long":   {func(n *overlay.Network) { n.Block6 = 127 }, []string{"block6 127", "64 to 126"}},
		"block of none":    {func(n *overlay.Network) { n.Subnet6, n.Block6 = prefix(""), 112 }, []string{"block6 112 needs a subnet6"}},
		"vni":              {func(n *overlay.Network) { n.VNI = 1 << 24 }, []string{"vni 16777216", "16777215"}},
		"ungrouped":        {func(n *overlay.Network) { n.Ungrouped = "no" }, []string{`ungrouped "no"`, `"open"`}},
		"VIP range":        {func(n *overlay.Network) { n.Subnet4 = prefix("11.1.0.0/16") }, []string{"overlaps 11.0.0.0/8", "VIPs"}},
		"everything":       {func(n *overlay.Network) { n.Subnet4 = prefix("0.0.0.0/0") }, []string{"loopback", "multicast"}},
		"all at once":      {func(n *overlay.Network) { n.Name, n.Ungrouped = "", "x" }, []string{"name", "ungrouped"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := prod()
			row.change(&n)
			complains(t, n.Validate(), overlay.ErrInvalid, row.want...)
		})
	}
}

func TestNetworkNormalFillsDefaults(t *testing.T) {
	t.Parallel()
	n := prod().Normal()
	if n.Block4 != 24 || n.Block6 != 112 || n.Ungrouped != overlay.UngroupedOwn {
		t.Errorf("got block4 %d, block6 %d, ungrouped %q", n.Block4, n.Block6, n.Ungrouped)
	}
	if n != n.Normal() {
		t.Errorf("Normal changed what was normal")
	}
	small := overlay.Network{Name: "s", Subnet4: prefix("9.0.0.0/28")}.Normal()
	if small.Block4 != 28 || small.Block6 != 0 {
		t.Errorf("got block4 %d, block6 %d, want 28, 0", small.Block4, small.Block6)
	}
}

func TestCheckOverlap(t *testing.T) {
	t.Parallel()
	other := overlay.Network{Name: "dev", VNI: 8, Subnet4: prefix("9.0.128.0/17"), Subnet6: prefix("fd02::/64")}
	complains(t, overlay.CheckOverlap(prod(), []overlay.Network{other, prod()}, nil), overlay.ErrConflict,
		`network "prod"`, "9.0.0.0/16 overlaps 9.0.128.0/17", `network "dev"`)
	other.Subnet4 = prefix("9.1.0.0/16")
	complains(t, overlay.CheckOverlap(prod(), []overlay.Network{other}, nil), nil)
	complains(t, overlay.CheckOverlap(prod(), nil, map[netip.Prefix]string{prefix("9.0.3.1/32"): "node n1"}),
		overlay.ErrConflict, `network "prod": subnet 9.0.0.0/16 overlaps 9.0.3.1/32 of node n1 in the underlay`)
	other.VNI = 7
	complains(t, overlay.CheckOverlap(prod(), []overlay.Network{other}, nil), overlay.ErrConflict, "vni 7", `"dev"`)
}

func TestGroupValidate(t *testing.T) {
	t.Parallel()
	complains(t, overlay.Group{Network: "prod", Name: "web"}.Validate(), nil)
	complains(t, overlay.Group{Network: "prod", Name: "we b"}.Validate(), overlay.ErrInvalid, `"we b"`, "DNS label")
	complains(t, overlay.Group{Network: "prod", Name: "public"}.Validate(), overlay.ErrInvalid, "reserved")
	complains(t, overlay.Group{Network: "prod", Name: "world"}.Validate(), overlay.ErrInvalid, "reserved")
}

func TestRuleValidate(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*overlay.Rule)
		want   []string
	}{
		"whole":          {func(*overlay.Rule) {}, nil},
		"world":          {func(r *overlay.Rule) { r.From = "world" }, nil},
		"all ports":      {func(r *overlay.Rule) { r.Ports = []overlay.PortRange{{First: 1, Last: 65535}} }, nil},
		"icmp":           {func(r *overlay.Rule) { r.Protocol, r.Ports = "icmp", nil }, nil},
		"audit of deny":  {func(r *overlay.Rule) { r.Action, r.Audit = overlay.Deny, true }, nil},
		"audit of allow": {func(r *overlay.Rule) { r.Audit = true }, []string{"audit", `"deny"`}},
		"to the world":   {func(r *overlay.Rule) { r.To = "world" }, []string{`to "world"`}},
		"addresses":      {func(r *overlay.Rule) { r.From = "10.0.0.0/8" }, nil},
		"IPv6 addresses": {func(r *overlay.Rule) { r.From = "2001:db8::/32" }, nil},
		"host bits":      {func(r *overlay.Rule) { r.From = "10.1.0.0/8" }, []string{"10.1.0.0/8", "10.0.0.0/8"}},
		"no length":      {func(r *overlay.Rule) { r.From = "10.1.0.1" }, []string{`"10.1.0.1"`, "192.0.2.0/24"}},
		"mapped":         {func(r *overlay.Rule) { r.From = "::ffff:10.0.0.0/104" }, []string{"10.0.0.0"}},
		"to addresses":   {func(r *overlay.Rule) { r.To = "10.0.0.0/8" }, []string{"to", "10.0.0.0/8"}},
		"action":         {func(r *overlay.Rule) { r.Action = "" }, []string{`action ""`, `"allow"`}},
		"protocol":       {func(r *overlay.Rule) { r.Protocol = "sctp" }, []string{`"sctp"`, "tcp, udp, icmp"}},
		"ports of all":   {func(r *overlay.Rule) { r.Protocol = "" }, []string{"ports need protocol"}},
		"port zero":      {func(r *overlay.Rule) { r.Ports[0].First = 0 }, []string{"0-5432", "1 to 65535"}},
		"port order":     {func(r *overlay.Rule) { r.Ports[0].First = 9000 }, []string{"9000-5432"}},
		"many ports":     {func(r *overlay.Rule) { r.Ports = make([]overlay.PortRange, 501) }, []string{"501 ranges", "500"}},
		"a wide range":   {func(r *overlay.Rule) { r.Ports[0] = overlay.PortRange{First: 2, Last: 65535} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := overlay.Rule{
				Network: "prod", From: "web", To: "db", Protocol: "tcp", Action: overlay.Allow,
				Ports: []overlay.PortRange{{First: 5432, Last: 5432}},
			}
			row.change(&r)
			complains(t, r.Validate(), overlay.ErrInvalid, row.want...)
		})
	}
}

func TestAttachmentValidate(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*overlay.Attachment)
		want   []string
	}{
		"whole":     {func(*overlay.Attachment) {}, nil},
		"no id":     {func(a *overlay.Attachment) { a.ID = "" }, []string{"id", "255"}},
		"id":        {func(a *overlay.Attachment) { a.ID = "a b" }, []string{`"a b"`}},
		"netns":     {func(a *overlay.Attachment) { a.NetNS = "ns" }, []string{`netns "ns"`, "absolute"}},
		"interface": {func(a *overlay.Attachment) { a.Interface = "a-link-name-of-18" }, []string{"interface", "15"}},
		"lo":        {func(a *overlay.Attachment) { a.Interface = "lo" }, []string{"not lo"}},
		"group":     {func(a *overlay.Attachment) { a.Groups = []string{"Web"} }, []string{`groups "Web"`}},
		"owner":     {func(a *overlay.Attachment) { a.OwnerPID = -1 }, []string{"owner_pid -1"}},
		"cgroup":    {func(a *overlay.Attachment) { a.Cgroup = "x" }, []string{`cgroup "x"`}},
		"port":      {func(a *overlay.Attachment) { a.Ports = []overlay.PortMapping{{HostPort: 80}} }, []string{"port is 0"}},
		"ports": {func(a *overlay.Attachment) {
			a.Ports = []overlay.PortMapping{{HostPort: 80, Port: 80}, {HostPort: 80, Port: 81}}
		}, []string{"80:80/tcp and 80:81/tcp take the same port"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := overlay.Attachment{ID: "web-1", Task: "web-1", Network: "prod", NetNS: "/proc/1/ns/net"}
			row.change(&a)
			complains(t, a.Validate(), overlay.ErrInvalid, row.want...)
		})
	}
}

func TestAttachmentSameKnowsDefaultsAndOrder(t *testing.T) {
	t.Parallel()
	a := overlay.Attachment{ID: "a", Task: "t", Network: "prod", Groups: []string{"web", "db", "web"}, NetNS: "/n"}
	b := overlay.Attachment{
		ID: "a", Task: "t", Name: "t", Network: "prod", Groups: []string{"db", "web"}, NetNS: "/n", Interface: "eth0",
	}
	if !a.Same(b) {
		t.Error("got different, want the same")
	}
	a.Ports = []overlay.PortMapping{{HostPort: 81, Port: 1}, {HostPort: 80, Port: 1}}
	b.Ports = []overlay.PortMapping{{HostPort: 80, Port: 1, Protocol: "tcp"}, {HostPort: 81, Port: 1}}
	if !a.Same(b) {
		t.Error("ports: got different, want the same")
	}
	b.OwnerPID = 3
	if a.Same(b) {
		t.Error("got the same, want different")
	}
}

func TestUsableSkipsTheFirstAndForIPv4TheLast(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]int{
		"9.0.0.0/24": 254, "9.0.0.0/30": 2, "9.0.0.0/31": 0, "9.0.0.0/32": 0,
		"fd01:b::/112": 65535, "fd01:b::/126": 3, "fd01:b::/128": 0, "fd01:b::/64": math.MaxInt,
	} {
		if got := overlay.Usable(prefix(block)); got != want {
			t.Errorf("%s: got %d, want %d", block, got, want)
		}
	}
}

func TestNodeAddressesAreOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := make(map[netip.Prefix]bool)
	subnet4, subnet6 := overlay.NodeSubnets()
	for n := uint32(1); n <= 5000; n++ {
		four, six := overlay.NodeAddrs(n)
		if four.IsValid() != (n <= 4094) {
			t.Fatalf("node %d has %s", n, four)
		}
		if seen[six] || seen[four] || six.Masked() != subnet6 || four.IsValid() && four.Masked() != subnet4 {
			t.Fatalf("node %d has %s and %s", n, four, six)
		}
		seen[six], seen[four] = true, four.IsValid()
	}
	if four, six := overlay.NodeAddrs(1); four.String() != "44.128.0.1/20" || six.String() != "fd01:a::1/64" {
		t.Errorf("the first has %s and %s", four, six)
	}
}

func TestARuleSaysItsService(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]overlay.Rule{
		"": {}, "icmp": {Protocol: "icmp"}, "tcp": {Protocol: "tcp"}, "tcp/80": {Protocol: "tcp", Ports: []overlay.PortRange{{First: 80, Last: 80}}},
		"udp/53,5000-5010": {Protocol: "udp", Ports: []overlay.PortRange{{First: 53, Last: 53}, {First: 5000, Last: 5010}}},
	} {
		if got := r.Service(); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}
