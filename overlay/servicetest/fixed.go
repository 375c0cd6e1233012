// SPDX-License-Identifier: Apache-2.0

package servicetest

import (
	"net/netip"

	"weft/overlay"
)

// fixed is a task that asks for addresses.
func fixed(id, network string, addrs ...string) overlay.Attachment {
	a := task(id, network)
	for _, addr := range addrs {
		a.Fixed = append(a.Fixed, netip.MustParseAddr(addr))
	}
	return a
}

func (s subject) attachFixed() {
	for _, want := range []struct{ id, fixed, addr4, addr6 string }{
		{"near", "9.0.0.7", "9.0.0.7", "fd01:b::1"},
		{"far", "9.0.200.9", "9.0.200.9", "fd01:b::2"}, // in a block that nobody has
		{"six", "fd01:b::77", "9.0.0.1", "fd01:b::77"},
	} {
		e := s.attach(fixed(want.id, "prod", want.fixed))
		if e.Addr4.String() != want.addr4 || e.Addr6.String() != want.addr6 {
			s.t.Errorf("%s: got %s %s, want %+v", want.id, e.Addr4, e.Addr6, want)
		}
		if again := s.attach(fixed(want.id, "prod", want.fixed)); again.Addr4 != e.Addr4 || again.Addr6 != e.Addr6 {
			s.t.Errorf("%s: again it has %v, had %v", want.id, again.Addrs(), e.Addrs())
		}
	}
	for _, bad := range []struct {
		fixed []string
		kind  error
		words []string
	}{
		{[]string{"9.0.0.7"}, overlay.ErrConflict, []string{"9.0.0.7"}},
		{[]string{"9.9.0.7"}, overlay.ErrInvalid, []string{"9.9.0.7", "not part of network prod", "9.0.0.0/16"}},
		{[]string{"9.0.3.0"}, overlay.ErrInvalid, []string{"9.0.3.0", "first address of a block (9.0.3.0/24)"}},
		{[]string{"9.0.3.255"}, overlay.ErrInvalid, []string{"9.0.3.255", "last"}},
		{[]string{"9.0.3.4", "9.0.3.5"}, overlay.ErrInvalid, []string{"9.0.3.4 and 9.0.3.5", "one of a family"}},
		{[]string{"::ffff:9.0.3.4"}, overlay.ErrInvalid, []string{"::ffff:9.0.3.4"}},
	} {
		_, err := s.Attach(s.context(), fixed("bad", "prod", bad.fixed...))
		s.refused(err, bad.kind, bad.words...)
	}
	_, err := s.Attach(s.context(), fixed("bad", "six", "9.0.3.4"))
	s.refused(err, overlay.ErrInvalid, "9.0.3.4", "not part of network six")
	// A refused task has taken nothing: the address after the fixed one is the lowest that is free.
	if e := s.attach(task("next", "prod")); e.Addr4.String() != "9.0.0.2" || e.Addr6.String() != "fd01:b::3" {
		s.t.Errorf("got %v, want the lowest that are free", e.Addrs())
	}
}
