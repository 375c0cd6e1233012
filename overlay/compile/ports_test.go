// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"slices"
	"testing"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

func TestPortsAreOfTheFamiliesThatTheTaskHas(t *testing.T) {
	t.Parallel()
	f := compiletest.Small()
	web := &f.Tasks[0]
	web.Ports = []overlay.PortMapping{
		{HostPort: 8080, Port: 80},
		{HostPort: 80, Port: 80},
		{HostIP: netip.MustParseAddr("10.0.0.1"), HostPort: 53, Port: 5353, Protocol: "udp"},
	}
	f.Tasks[1].Ports = []overlay.PortMapping{{HostPort: 9090, Port: 90}} // IPv4 only
	at := netip.MustParseAddrPort
	want := []compile.Port{
		{Proto: compile.TCP, Host: at("0.0.0.0:80"), Task: at("9.0.0.1:80")},
		{Proto: compile.TCP, Host: at("0.0.0.0:8080"), Task: at("9.0.0.1:80")},
		{Proto: compile.TCP, Host: at("0.0.0.0:9090"), Task: at("9.1.5.1:90")},
		{Proto: compile.TCP, Host: at("[::]:80"), Task: at("[fd01:b::1]:80")},
		{Proto: compile.TCP, Host: at("[::]:8080"), Task: at("[fd01:b::1]:80")},
		{Proto: compile.UDP, Host: at("10.0.0.1:53"), Task: at("9.0.0.1:5353")},
	}
	if got := compile.Ports(f.Tasks); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	equal(t, compile.Compile(f).Openings, map[row.OpeningKey]row.Opening{
		{VNI: 7, Addr: addr("9.0.0.1"), Port: row.Port(80), Proto: compile.TCP}:   {HostPort: 80},
		{VNI: 7, Addr: addr("fd01:b::1"), Port: row.Port(80), Proto: compile.TCP}: {HostPort: 80},
		{VNI: 7, Addr: addr("9.0.0.1"), Port: row.Port(5353), Proto: compile.UDP}: {HostPort: 53},
		{VNI: 8, Addr: addr("9.1.5.1"), Port: row.Port(90), Proto: compile.TCP}:   {HostPort: 9090},
	})
}
