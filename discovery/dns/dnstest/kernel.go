// SPDX-License-Identifier: Apache-2.0

// Package dnstest has what tests of names need: the kernel's cache of answers in memory, resolvers that say what a test wants, and
// facts of a small cluster.
package dnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/zone"
)

// Kernel is a cache as bpf's is: it knows questions by their bytes only.
type Kernel struct {
	mu      sync.Mutex
	answers map[string]Stored
	deaf    bool   // refuses changes
	changed func() // called before each change
}

// Stored is an answer in it.
type Stored struct {
	Rotate         uint8  // size of a record, 0: none is turned
	Count          uint16 // of answers
	rcode          uint8
	ns, ar         uint16
	qname, records []byte
	vni            uint32
	qtype          uint16
}

var errDeaf = errors.New("deaf")

// NewKernel returns one that knows nothing.
func NewKernel() *Kernel { return &Kernel{answers: map[string]Stored{}} }

func kernelKey(vni uint32, qname []byte, qtype uint16) string {
	return fmt.Sprint(vni, qtype, string(qname))
}

// Put implements resident.Cache.
//
//nolint:revive // argument-limit: as resident.Cache has it
func (k *Kernel) Put(vni uint32, qname []byte, qtype uint16, rcode uint8, an, ns, ar uint16, rotate uint8, data []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		k.changed()
	}
	if k.deaf {
		return errDeaf
	}
	k.answers[kernelKey(vni, qname, qtype)] = Stored{
		rotate, an, rcode, ns, ar, append([]byte{}, qname...), append([]byte{}, data...), vni, qtype,
	}
	return nil
}

// Delete implements resident.Cache.
func (k *Kernel) Delete(vni uint32, qname []byte, qtype uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		k.changed()
	}
	if k.deaf {
		return errDeaf
	}
	delete(k.answers, kernelKey(vni, qname, qtype))
	return nil
}

// Clear implements resident.Cache.
func (k *Kernel) Clear() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deaf {
		return errDeaf
	}
	clear(k.answers)
	return nil
}

// Len is how many answers there are.
func (k *Kernel) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.answers)
}

// Get returns one.
func (k *Kernel) Get(vni uint32, name string, qtype uint16) (Stored, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	qname, _ := pack(name)
	a, ok := k.answers[kernelKey(vni, qname, qtype)]
	return a, ok
}

// Observe has f called before each change.
func (k *Kernel) Observe(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

// Hear says whether changes are taken; if not they are refused.
func (k *Kernel) Hear(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = !yes
}

// message is what the kernel would send for an answer.
func (a Stored) message() (*wire.Msg, error) {
	b := make([]byte, 12, 512)
	binary.BigEndian.PutUint16(b[2:], 0x8400|uint16(a.rcode)) // QR, AA
	for i, n := range []uint16{1, a.Count, a.ns, a.ar} {
		binary.BigEndian.PutUint16(b[4+2*i:], n)
	}
	b = append(b, a.qname...)
	b = binary.BigEndian.AppendUint16(b, a.qtype)
	b = binary.BigEndian.AppendUint16(b, wire.ClassINET)
	m := new(wire.Msg)
	return m, m.Unpack(append(b, a.records...))
}

// Same compares what is in the kernel with what a zone answers; each answer has to be equal.
func (k *Kernel) Same(z *zone.Zone, networks map[uint32]string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.answers {
		m, err := a.message()
		if err != nil {
			return fmt.Errorf("%q: %w", a.qname, err)
		}
		name := m.Question[0].Name
		apex, own := z.Apex(name)
		if !own {
			return fmt.Errorf("%s is in the kernel and is foreign", name)
		}
		want := answer.Compose(z, networks[a.vni], apex, name, a.qtype)
		if d := cmp.Diff(
			[]any{m.Rcode, Values(m.Answer), Values(m.Ns), Values(m.Extra)},
			[]any{want.Rcode, Values(slices.Concat(want.Chain, want.Records)), Values(want.Authority), Values(want.Extra)},
		); d != "" {
			return fmt.Errorf("%d %s %s (kernel -, zone +):\n%s", a.vni, name, wire.Type(a.qtype), d)
		}
		if size := int(a.Rotate); size > 0 && size*int(a.Count) != len(a.records) {
			return fmt.Errorf("%s rotates %d bytes of %d records in %d", name, size, a.Count, len(a.records))
		}
	}
	return nil
}

// Views are the networks of Facts, by their numbers.
func Views() map[uint32]string { return map[uint32]string{0: "", 100: "prod", 101: "dev"} }

func pack(name string) ([]byte, error) {
	var buf [256]byte
	n, err := wire.PackDomainName(name, buf[:], 0, nil, false)
	return buf[:n], err
}
