// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
)

// Action is what a program says of a packet.
type Action int32

// Values of Action.
const (
	Next     Action = -1
	Drop     Action = 2
	Redirect Action = 7
)

// String names the action.
func (a Action) String() string {
	switch a {
	case Next:
		return "next"
	case Drop:
		return "drop"
	case Redirect:
		return "redirect"
	}
	return fmt.Sprintf("action_%d", int32(a))
}

// Meta is what the kernel knows of a packet beside its bytes.
type Meta struct {
	Ifindex uint32 // where the program runs; 0: the loopback, 1
	// Ingress is where a packet that is forwarded came in; 0: made on this host.
	Ingress uint32
	GSOSize uint32      // bytes of payload per segment; 0: none pending
	Tunnel  *TunnelMeta // of a program of GiveTunnelKey
}

// context is struct __sk_buff as a test run takes it: fields that may not be given are zero.
func (m Meta) context() []byte {
	b := make([]byte, 192)
	ne := binary.NativeEndian
	ne.PutUint32(b[36:], m.Ingress)
	ne.PutUint32(b[40:], max(m.Ifindex, 1))
	if m.Tunnel != nil {
		for i, word := range m.Tunnel.controlBlock() {
			ne.PutUint32(b[cbOffset+4*i:], word)
		}
	}
	if m.GSOSize != 0 {
		ne.PutUint32(b[164:], 2) // segments; the kernel asks for a sensible number
		ne.PutUint32(b[176:], m.GSOSize)
	}
	return b
}

// ErrRefused means that the kernel does not run programs on such a packet: it wants a whole Ethernet
// and IP header.
var ErrRefused = errors.New("refused by the test run")

// Result is what came of a packet.
type Result struct {
	Action Action
	Reason row.Reason // that was counted
	Out    []byte     // the frame as the program left it
}

// Set is a loaded object with maps of its own, that no other set sees.
type Set struct {
	Programs map[string]*ebpf.Program
	Maps     map[string]*ebpf.Map
	// Variables of the object that may be set while it runs.
	Variables map[string]*ebpf.Variable
	counted   map[row.Reason]uint64
}

// parsed is what all objects are before a test configures them: to parse them takes an emulated machine seconds.
var parsed = sync.OnceValues(bpf.Specs)

// Spec returns an object of package bpf, by name, with these constants.
func Spec(object string, c bpf.Config) (*ebpf.CollectionSpec, error) {
	specs, err := parsed()
	if err != nil {
		return nil, err
	}
	spec := specs[object].Copy()
	if spec == nil {
		return nil, fmt.Errorf("no object %s", object)
	}
	return spec, bpf.Configure(spec, c)
}

// Load loads an object, unpinned. Large maps are made small.
func Load(spec *ebpf.CollectionSpec) (*Set, error) {
	for _, m := range spec.Maps {
		if m.Type != ebpf.RingBuf && m.Type != ebpf.PerCPUArray {
			m.MaxEntries = min(m.MaxEntries, 4096)
		}
	}
	return LoadWhole(spec)
}

// LoadWhole is Load with maps as large as a node has them.
func LoadWhole(spec *ebpf.CollectionSpec) (*Set, error) {
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return &Set{
		Programs: collection.Programs, Maps: collection.Maps, Variables: collection.Variables, counted: make(map[row.Reason]uint64),
	}, nil
}

// Add loads another object onto the maps of the set that both have.
func (s *Set) Add(spec *ebpf.CollectionSpec) error {
	shared := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if have, ok := s.Maps[name]; ok && !strings.HasPrefix(name, ".") {
			shared[name], m.MaxEntries = have, have.MaxEntries()
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	maps.Copy(s.Programs, collection.Programs)
	for name, m := range collection.Maps {
		if shared[name] != nil {
			_ = m.Close() // another handle of what the set has
		} else if !strings.HasPrefix(name, ".") {
			s.Maps[name] = m
		}
	}
	return nil
}

// Close unloads it.
func (s *Set) Close() {
	for _, p := range s.Programs {
		_ = p.Close() // nothing is lost with a handle of a test
	}
	for _, m := range s.Maps {
		_ = m.Close()
	}
}

// Run runs a program on a frame and finds the one counter that moved. A program that counts not
// exactly one packet of the frame's size is an error.
func (s *Set) Run(program string, frame []byte, m Meta) (Result, error) {
	r, err := s.run(program, frame, m)
	if err != nil {
		return r, err
	}
	moved, err := s.Moved()
	if err != nil {
		return r, err
	}
	for reason, packets := range moved {
		if len(moved) == 1 && packets == 1 {
			r.Reason = reason
			return r, nil
		}
	}
	return r, fmt.Errorf("%s counted %v, want one packet of one reason", program, moved)
}

// RunExpecting is Run for millions of packets: it looks at the counter of one reason alone. The
// result's reason is that one, or ReasonNone when another was counted.
func (s *Set) RunExpecting(program string, frame []byte, m Meta, want row.Reason) (Result, error) {
	return s.RunAsked(program, frame, m, func() row.Reason { return want })
}

// RunAsked is RunExpecting where the reason is asked for once the program has run, and only then.
func (s *Set) RunAsked(program string, frame []byte, m Meta, ask func() row.Reason) (Result, error) {
	r, err := s.run(program, frame, m)
	if err != nil {
		return r, err
	}
	want := ask()
	c, err := s.Counter(want)
	if err != nil {
		return r, err
	}
	if c.Packets == s.counted[want]+1 {
		r.Reason = want
	}
	s.counted[want] = c.Packets
	return r, nil
}

func (s *Set) run(program string, frame []byte, m Meta) (Result, error) {
	p, ok := s.Programs[program]
	if !ok {
		return Result{}, fmt.Errorf("no program %s", program)
	}
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: m.context()}
	action, err := p.Run(opts)
	if errors.Is(err, unix.EINVAL) {
		return Result{}, ErrRefused
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Action: Action(int32(action)), Out: opts.DataOut}, nil
}

// Counter sums the counter of a reason over all CPUs.
func (s *Set) Counter(reason row.Reason) (row.Counter, error) {
	var perCPU []row.Counter
	if err := s.Maps["counters"].Lookup(uint32(reason), &perCPU); err != nil {
		return row.Counter{}, fmt.Errorf("read counter %s: %w", reason, err)
	}
	var sum row.Counter
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
	}
	return sum, nil
}

// packets returns what all counters say, over all CPUs, by one call: a hundred of them take a guest longer than the
// program that counted.
func (s *Set) packets() ([row.ReasonMax]uint64, error) {
	var sum [row.ReasonMax]uint64
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return sum, err
	}
	keys, perCPU := make([]uint32, len(sum)), make([]row.Counter, len(sum)*cpus)
	var cursor ebpf.MapBatchCursor
	read, err := s.Maps["counters"].BatchLookup(&cursor, keys, perCPU, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || read != len(sum) {
		return sum, fmt.Errorf("read %d of %d counters: %w", read, len(sum), err)
	}
	for i, c := range perCPU {
		sum[keys[i/cpus]] += c.Packets
	}
	return sum, nil
}

// Rows returns every row of a map of a set.
func Rows[K comparable, V any](s *Set, name string) (map[K]V, error) {
	rows := make(map[K]V)
	var key K
	var value V
	entries := s.Maps[name].Iterate()
	for entries.Next(&key, &value) {
		rows[key] = value
	}
	return rows, entries.Err()
}

// fill makes a map hold rows, and nothing else.
func fill[K comparable, V any](s *Set, name string, rows map[K]V) error {
	m := s.Maps[name]
	have, err := Rows[K, V](s, name)
	if err != nil {
		return err
	}
	for key := range have {
		if _, ok := rows[key]; !ok {
			if err := m.Delete(key); err != nil {
				return fmt.Errorf("delete from %s: %w", name, err)
			}
		}
	}
	for key, value := range rows {
		if err := m.Put(key, value); err != nil {
			return fmt.Errorf("put into %s: %w", name, err)
		}
	}
	return nil
}
