// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

func TestOneTaskCannotTakeWhatIsOfOthers(t *testing.T) {
	t.Parallel()
	l := newLimits(100)
	now := time.Unix(1000, 0)
	greedy, other := netip.MustParseAddr("9.0.0.1"), netip.MustParseAddr("9.0.0.2")
	taken := 0
	for range 1000 {
		if l.ask(greedy, now) {
			taken++
		}
	}
	if taken != 100 || !l.ask(other, now) {
		t.Errorf("%d of 1000 at once, want 100; the other must not notice", taken)
	}
	now = now.Add(500 * time.Millisecond)
	for taken = 0; l.ask(greedy, now); {
		taken++
	}
	if taken != 50 {
		t.Errorf("%d half a second later, want 50", taken)
	}
	for range maxOpen {
		if _, ok := l.open(greedy, now); !ok {
			t.Fatal("refused before the limit of open questions")
		}
	}
	if _, ok := l.open(greedy, now); ok {
		t.Error("more open questions than the limit")
	}
	done, ok := l.open(other, now)
	if !ok {
		t.Fatal("the other is refused")
	}
	done()
	if l.askers[other].open != 0 {
		t.Error("a place is not given back")
	}
}

func TestManyAskersTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	l := newLimits(0)
	now := time.Unix(1000, 0)
	for i := range 3 * maxAskers {
		now = now.Add(time.Millisecond)
		l.ask(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(l.askers) > maxAskers+1 {
		t.Errorf("%d askers are told apart, want at most %d", len(l.askers), maxAskers)
	}
}

// The host is not limited: what asks there is more than one task.
func TestTooManyQuestionsAreRefused(t *testing.T) {
	f := start(t, Options{Rate: 3}, sample())
	q := new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA)
	var got [wire.RcodeRefused + 1]int
	for i := range 10 {
		transport := "udp"
		if i%5 == 4 {
			transport = "tcp"
		}
		got[f.ask(q, transport, "127.1.0.9").Rcode]++
		f.ask(q, transport, "127.3.0.1")
	}
	if got[wire.RcodeSuccess] < 3 || got[wire.RcodeRefused] == 0 || f.Stats().Limited != uint64(got[wire.RcodeRefused]) {
		t.Errorf("%d answered, %d refused, %d counted", got[0], got[wire.RcodeRefused], f.Stats().Limited)
	}
}
