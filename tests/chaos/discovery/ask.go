// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	mdns "github.com/miekg/dns"

	"weft/overlay/apply"
	"weft/tests/lab"
)

const (
	underWay = 32              // questions of one socket at a time
	lostFor  = 2 * time.Second // without an answer
)

// tally is what became of questions.
type tally struct {
	asked, lost, wrong int
	longest            time.Duration
	first              string // of those that went wrong
}

func (t *tally) add(o tally) {
	t.asked, t.lost, t.wrong = t.asked+o.asked, t.lost+o.lost, t.wrong+o.wrong
	t.longest = max(t.longest, o.longest)
	if t.first == "" {
		t.first = o.first
	}
}

func (t *tally) String() string {
	text := fmt.Sprintf("%9d asked, %d lost, %d wrong, longest %s", t.asked, t.lost, t.wrong, t.longest.Round(10*time.Microsecond))
	if t.first != "" {
		text += "; first: " + t.first
	}
	return text
}

// asker is a socket of a host.
type asker struct {
	host  string
	conn  net.Conn
	names []*name
	texts [][]byte // the question for each name, without its id
	next  uint16
}

func openAsker(ctx context.Context, h *lab.Host, names []*name) (a *asker, err error) {
	a = &asker{host: h.Name, names: names}
	for _, n := range names {
		text, err := new(mdns.Msg).SetQuestion(n.fqdn, mdns.TypeA).Pack()
		if err != nil {
			return nil, err
		}
		a.texts = append(a.texts, text)
	}
	return a, h.In(func() error {
		a.conn, err = new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(apply.NameServer4, "53"))
		return err
	})
}

// asked is one question under way.
type asked struct {
	which int
	at    time.Time
}

// run asks until ctx ends, as fast as answers come.
func (a *asker) run(ctx context.Context) (sum tally, err error) {
	for ctx.Err() == nil {
		t, err := a.round()
		if sum.add(t); err != nil {
			return sum, fmt.Errorf("ask on %s: %w", a.host, err)
		}
	}
	return sum, nil
}

// round asks as many questions as may be under way, and waits for their answers.
func (a *asker) round() (t tally, err error) {
	waiting := make(map[uint16]asked, underWay)
	for range underWay {
		which := rand.N(len(a.names))
		a.next++
		question := append([]byte(nil), a.texts[which]...)
		binary.BigEndian.PutUint16(question, a.next)
		waiting[a.next] = asked{which, time.Now()}
		if _, err := a.conn.Write(question); err != nil {
			return t, err
		}
	}
	t.asked = underWay
	if err := a.conn.SetReadDeadline(time.Now().Add(lostFor)); err != nil {
		return t, err
	}
	buf := make([]byte, 2048)
	for len(waiting) > 0 {
		n, err := a.conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			for _, q := range waiting {
				t.lost++
				t.note("%s had no answer for %s", a.host, a.names[q.which].fqdn)
			}
			return t, nil
		case err != nil:
			return t, err
		}
		id := binary.BigEndian.Uint16(buf)
		if q, ours := waiting[id]; ours { // else it was given up
			delete(waiting, id)
			a.judge(&t, q, buf[:n])
		}
	}
	return t, nil
}

// judge holds an answer to what was true.
func (a *asker) judge(t *tally, q asked, answer []byte) {
	now := time.Now()
	t.longest = max(t.longest, now.Sub(q.at))
	n := a.names[q.which]
	addr, err := addrOf(answer, n.fqdn)
	if err == nil && !n.allows(a.host, addr, q.at, now) {
		err = fmt.Errorf("%s, which was not true then", addr)
	}
	if err != nil {
		t.wrong++
		t.note("%s answered for %s: %v", a.host, n.fqdn, err)
	}
}

func (t *tally) note(format string, args ...any) {
	if t.first == "" {
		t.first = fmt.Sprintf(format, args...)
	}
}

// addrOf returns the one address of a whole answer.
func addrOf(answer []byte, fqdn string) (netip.Addr, error) {
	var m mdns.Msg
	if err := m.Unpack(answer); err != nil {
		return netip.Addr{}, fmt.Errorf("torn: %w", err)
	}
	if m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 1 || len(m.Question) != 1 || m.Question[0].Name != fqdn {
		return netip.Addr{}, fmt.Errorf("%s with %d records", mdns.RcodeToString[m.Rcode], len(m.Answer))
	}
	record, ok := m.Answer[0].(*mdns.A)
	if !ok || record.Hdr.Name != fqdn {
		return netip.Addr{}, fmt.Errorf("%v", m.Answer[0])
	}
	addr, _ := netip.AddrFromSlice(record.A.To4())
	return addr, nil
}
