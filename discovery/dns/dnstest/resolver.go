// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	wire "github.com/miekg/dns"
)

// Resolver is one under test's control, over UDP and TCP on one port.
type Resolver struct {
	Addr  netip.AddrPort
	Asked atomic.Int64 // questions
}

// NewResolver starts one that handles questions so, until the test ends.
func NewResolver(t *testing.T, handle func(w wire.ResponseWriter, m *wire.Msg)) *Resolver {
	t.Helper()
	r := &Resolver{}
	udp, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	r.Addr = netip.MustParseAddrPort(udp.LocalAddr().String())
	h := wire.HandlerFunc(func(w wire.ResponseWriter, m *wire.Msg) {
		r.Asked.Add(1)
		handle(w, m)
	})
	for _, srv := range []*wire.Server{{PacketConn: udp, Handler: h, UDPSize: 4096}, {Listener: tcp, Handler: h}} {
		started, done := make(chan struct{}), make(chan error, 1)
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { done <- srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = srv.Shutdown()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return r
}

// Records reads records; what is none panics.
func Records(text ...string) []wire.RR {
	var rrs []wire.RR
	for _, s := range text {
		rr, err := wire.NewRR(s)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// Answering answers every question with these records.
func Answering(text ...string) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, m *wire.Msg) {
		r := new(wire.Msg).SetReply(m)
		r.RecursionAvailable = true
		r.Answer = Records(text...)
		if opt := m.IsEdns0(); opt != nil {
			r.SetEdns0(1232, opt.Do())
		}
		_ = w.WriteMsg(r)
	}
}

// Failing answers every question with a code.
func Failing(rcode int) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, m *wire.Msg) { _ = w.WriteMsg(new(wire.Msg).SetRcode(m, rcode)) }
}

// Silent answers nothing.
func Silent(wire.ResponseWriter, *wire.Msg) {}

// Closed is an address where nobody listens.
func Closed(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}
