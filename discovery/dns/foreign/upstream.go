// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

const (
	answerWithin = 5 * time.Second // one resolver
	// atOnce is how many resolvers are asked at a time; the first good answer is taken. One that gives none is followed
	// by the next.
	atOnce = 2
	// retrial is one in how many questions goes to another than the two best, so that a resolver that
	// recovered is found.
	retrial = 16
	// forgiven is how long a failure counts.
	forgiven = 30 * time.Second
)

// upstream is a resolver.
type upstream struct {
	addr   netip.AddrPort
	within time.Duration // an answer has to come
	log    *slog.Logger
	asked  atomic.Uint64
	failed atomic.Uint64
	streak atomic.Int64 // failures since its last answer
	late   atomic.Int64 // when the last of them was, Unix time
}

// failures since its last answer; long ones ago don't count.
func (u *upstream) failures(now time.Time) int64 {
	if now.Unix()-u.late.Load() > int64(forgiven/time.Second) {
		return 0
	}
	return u.streak.Load()
}

// Stats counts what one resolver was asked since New.
type Stats struct {
	Addr   netip.AddrPort
	Asked  uint64
	Failed uint64 // no answer in time, or a broken one
}

var errRefused = errors.New("it refuses to answer this node")

// hopByHop are EDNS options that no answer depends on.
var hopByHop = []uint16{wire.EDNS0COOKIE, wire.EDNS0PADDING, wire.EDNS0TCPKEEPALIVE}

type result struct {
	Reply
	err error
}

// choose returns the resolvers in the order in which they are asked: those first that failed least of late, equal
// ones by lot.
func choose(all []*upstream) []*upstream {
	order := slices.Clone(all)
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	now := time.Now()
	slices.SortStableFunc(order, func(a, b *upstream) int { return cmp.Compare(a.failures(now), b.failures(now)) })
	if len(order) > atOnce && rand.IntN(retrial) == 0 {
		other := atOnce - 1 + rand.IntN(len(order)-atOnce+1)
		order[atOnce-1], order[other] = order[other], order[atOnce-1]
	}
	return order
}

// exchange asks over a transport, and counts.
func (u *upstream) exchange(ctx context.Context, ask *wire.Msg, tcp bool) (Reply, error) {
	u.asked.Add(1)
	r, err := u.try(ctx, ask, tcp)
	failure := err
	if err == nil && r.Msg.Rcode == wire.RcodeRefused {
		failure = errRefused
	}
	switch {
	case failure == nil:
		u.streak.Store(0)
	case errors.Is(ctx.Err(), context.Canceled): // another one was faster
	default:
		u.failed.Add(1)
		u.late.Store(time.Now().Unix())
		if u.streak.Add(1) == 1 {
			u.log.Info("resolver does not answer", "address", u.addr, "error", failure)
		}
	}
	return r, err
}

// try sends the question from a socket of its own, connected, with an id of its own: whoever wants to
// forge the answer has to guess the port and the id.
func (u *upstream) try(ctx context.Context, ask *wire.Msg, tcp bool) (Reply, error) {
	ask.Id = wire.Id()
	packed, err := ask.Pack()
	if err != nil {
		return Reply{}, fmt.Errorf("resolver %s: %w", u.addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, u.within)
	defer cancel()
	network := "udp"
	if tcp {
		network = "tcp"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, u.addr.String())
	if err != nil {
		return Reply{}, fmt.Errorf("resolver: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends a read at once
	defer func() {
		stop()
		_ = conn.Close()
	}()
	r, err := transfer(conn, packed, ask, tcp)
	if err != nil {
		return Reply{}, fmt.Errorf("resolver %s: %w", u.addr, err)
	}
	return r, nil
}

// ours is a question as this node asks it: for an answer over UDP that is not fragmented, and without the options that are
// between an asker and this node alone (RFC 7873, 7828, 7830).
func ours(m *wire.Msg) *wire.Msg {
	ask := m.Copy()
	if opt := ask.IsEdns0(); opt != nil {
		opt.SetUDPSize(min(max(opt.UDPSize(), wire.MinMsgSize), udpSize))
		opt.Option = slices.DeleteFunc(opt.Option, func(o wire.EDNS0) bool { return slices.Contains(hopByHop, o.Option()) })
	}
	return ask
}

// transfer writes the question and reads until its answer comes; what else comes is not believed.
func transfer(conn net.Conn, packed []byte, ask *wire.Msg, tcp bool) (Reply, error) {
	if tcp {
		packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
	}
	if _, err := conn.Write(packed); err != nil {
		return Reply{}, err
	}
	size := wire.DefaultMsgSize
	if opt := ask.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	for {
		raw, err := receive(conn, tcp, size)
		if err != nil {
			return Reply{}, err
		}
		m := new(wire.Msg)
		switch err := m.Unpack(raw); {
		case !tcp && len(raw) > size && m.Id == ask.Id: // a part of it, and nothing else will come
			return Reply{}, errLong
		case err == nil && answers(m, ask):
			return Reply{Raw: raw, Msg: m}, nil
		case tcp:
			return Reply{}, errors.Join(errors.New("the answer is to another question"), err)
		}
	}
}

// receive reads one message, over UDP size bytes of it and, if it is longer, one more.
func receive(conn net.Conn, tcp bool, size int) ([]byte, error) {
	if !tcp {
		buf := make([]byte, size+1)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, buf)
	return buf, err
}

// answers tells whether m is an answer to what was asked. One who could not read a question may not repeat it.
func answers(m, ask *wire.Msg) bool {
	if !m.Response || m.Id != ask.Id || m.Opcode != ask.Opcode {
		return false
	}
	if len(m.Question) != 1 {
		return len(m.Question) == 0 && (m.Rcode == wire.RcodeFormatError || m.Rcode == wire.RcodeNotImplemented)
	}
	got, want := m.Question[0], ask.Question[0]
	return got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}

// SystemResolvers reads the resolvers of a host from a file in the form of resolv.conf(5).
func SystemResolvers(path string) ([]netip.AddrPort, error) {
	c, err := wire.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("resolvers of the host: %w", err)
	}
	var addrs []netip.AddrPort
	for _, server := range c.Servers {
		if a, err := netip.ParseAddr(server); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	return addrs, nil
}
