// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"weft/bpf/answers"
	"weft/bpf/row"
	"weft/bpf/table"
)

// objects lists the compiled sources of bpf/src.
func objects() []object {
	return []object{
		{"workload", loadWorkload},
		{"tunnel", loadTunnel},
		{"node", loadNode},
		{"dns", loadDns},
		{"socket", loadSocket},
		{"feedback", loadFeedback},
		{edgeObject, loadEdge},
	}
}

// edgeObject is loaded where Options.Edge asks for it.
const edgeObject = "edge"

type object struct {
	name string
	load func() (*ebpf.CollectionSpec, error)
}

// Specs returns every compiled source, as it was built, by name: for tests of single programs.
func Specs() (map[string]*ebpf.CollectionSpec, error) {
	specs := make(map[string]*ebpf.CollectionSpec)
	for _, o := range objects() {
		spec, err := o.load()
		if err != nil {
			return nil, fmt.Errorf("object %s: %w", o.name, err)
		}
		specs[o.name] = spec
	}
	return specs, nil
}

// Configure sets the constants of a source that it uses.
func Configure(spec *ebpf.CollectionSpec, c Config) error {
	for name, value := range c.constants() {
		v, ok := spec.Variables[name]
		if !ok {
			continue // lib/config.h: an object holds those it uses
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("constant %s: %w", name, err)
		}
	}
	return nil
}

// constants maps the names of lib/config.h to values.
func (c Config) constants() map[string]any {
	node, over6 := c.NodeAddr.Unmap(), c.NodeAddr.Unmap().Is6()
	return map[string]any{
		"node_addr4":        addr4(node),
		"node_addr6":        addr6(node),
		"underlay6":         over6,
		"underlay_ifindex":  c.Underlay,
		"underlay_mask":     addr4(mask(c.Neighbours, 32, !over6)),
		"underlay_mask6":    addr6(mask(c.Neighbours, 128, over6)),
		"tunnel_ifindex":    c.Tunnel,
		"tunnel_port":       c.TunnelPort,
		"tunnel_ifindex2":   c.Tunnel2,
		"tunnel_port2":      c.TunnelPort2,
		"dns_addr4":         row.AddrOf(c.DNS4),
		"dns_addr6":         row.AddrOf(c.DNS6),
		"dns_recursion":     !c.NoRecursion,
		"slow_encap":        c.SlowEncap,
		"slow_decap":        c.SlowDecap,
		"events_per_second": c.EventsPerSecond,

		"edge_seed":              c.EdgeSeed,
		"edge_learns_per_second": edgeLearns(),
	}
}

// addr4 is an IPv4 address as a __be32 lies in memory; of others zero.
func addr4(a netip.Addr) [4]byte {
	if !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}

// addr6 is an IPv6 address as a struct addr lies in memory; of others zero.
func addr6(a netip.Addr) row.Addr {
	if !a.Is6() {
		return row.Addr{}
	}
	return row.AddrOf(a)
}

// mask is the mask of a prefix length in a family of that many bits; not valid where it is not used.
func mask(ones, bits int, used bool) netip.Addr {
	if !used || ones == 0 {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(net.CIDRMask(ones, bits))
	return addr
}

// load makes or takes over the maps, then loads every program onto them.
func (p *Plane) load(c Config, edge bool) error {
	specs, err := Specs()
	if err != nil {
		return err
	}
	if !edge {
		delete(specs, edgeObject)
	}
	if err := p.openMaps(specs); err != nil {
		return err
	}
	types := btf.NewCache()
	p.programs = make(map[string]*program)
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		spec := specs[name]
		if err := Configure(spec, c); err != nil {
			return fmt.Errorf("object %s: %w", name, err)
		}
		if err := p.loadObject(spec, types); err != nil {
			return fmt.Errorf("load object %s: %w", name, err)
		}
	}
	return errors.Join(p.openTables(), p.openEdge(edge))
}

func (p *Plane) loadObject(spec *ebpf.CollectionSpec, types *btf.Cache) error {
	shared := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m, ok := p.maps[name]; ok {
			shared[name] = m
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared, Cache: types})
	if err != nil {
		return &RefusedError{Object: refused(err, spec), Err: err}
	}
	defer loaded.Close() // of programs, what is not detached into p; of maps, our handles stay
	for _, name := range []string{tracingSwitch, takingOverSwitch} {
		if v, ok := loaded.Variables[name]; ok {
			p.switches[name] = append(p.switches[name], v)
		}
	}
	for name, s := range spec.Programs {
		p.programs[name] = &program{Program: loaded.DetachProgram(name), attach: s.AttachType}
	}
	return nil
}

// refused finds the name of the program or map that err is about: the library says it in words.
func refused(err error, spec *ebpf.CollectionSpec) string {
	text := err.Error()
	for name := range spec.Programs {
		if strings.HasPrefix(text, "program "+name+":") {
			return "program " + name
		}
	}
	for name := range spec.Maps {
		if strings.HasPrefix(text, "map "+name+":") || strings.Contains(text, "map "+name+":") {
			return "map " + name
		}
	}
	return "object"
}

// openMaps opens the maps that sources share: those declared to be pinned by name.
func (p *Plane) openMaps(specs map[string]*ebpf.CollectionSpec) error {
	p.maps, p.specs = make(map[string]*ebpf.Map), make(map[string]*ebpf.MapSpec)
	for _, spec := range specs {
		for name, m := range spec.Maps {
			if m.Pinning != ebpf.PinByName || p.maps[name] != nil {
				continue
			}
			opened, err := p.openMap(m.Copy())
			if err != nil {
				return &RefusedError{Object: "map " + name, Err: err}
			}
			p.maps[name], p.specs[name] = opened, m
		}
	}
	return nil
}

func (p *Plane) openMap(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	if !p.pins.On() {
		spec.Pinning = ebpf.PinNone
	} else if err := p.adopt(spec); err != nil {
		return nil, err
	}
	m, err := ebpf.NewMapWithOptions(spec, ebpf.MapOptions{PinPath: p.pins.Layout()})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("%w: what is pinned in %s was made by another build of layout v%d; "+
			"stop it and remove the folder", err, p.pins.Layout(), row.LayoutVersion)
	}
	return m, err
}

// Tables are the maps that Go writes, and flows, which Go reads and expires.
type Tables struct {
	Workloads table.Table[uint32, row.Workload]
	Endpoints table.Table[row.EndpointKey, row.Endpoint]
	Blocks    table.Table[row.BlockKey, row.Block]
	Prefixes  table.Table[row.PrefixKey, row.Prefix]
	VTEPs     table.Table[row.Addr, row.VTEP]
	Verdicts  table.Table[row.VerdictKey, row.Verdict]
	Clauses   table.Table[row.ClausesKey, row.Clauses]
	Sources   table.Table[row.SourceKey, row.Source]
	VIPs      table.Table[row.VIPKey, row.VIP]
	Backends  table.Table[row.BackendKey, row.Backend]
	Maglevs   table.Table[uint32, row.Maglev] // by id of a VIP
	Spaces    table.Table[uint64, row.Space]
	Flows     table.Table[row.FlowKey, row.Flow]
	Openings  table.Table[row.OpeningKey, row.Opening]
	Traces    table.Table[row.TraceKey, row.Trace]           // see Plane.SetTracing
	Served    table.Table[row.EdgeServedKey, row.EdgeServed] // what tasks of this node serve behind VIPs of the edge
	Relays    table.Table[row.EndpointKey, uint32]           // from where an edge node takes answers back
	// ClientAnswers is what programs remember of clients of the edge: to be read, and changed where its edge node is gone.
	ClientAnswers table.Table[row.FlowKey, row.Translation]
	Edge          *EdgeTables // nil where Options.Edge is off
}

func (p *Plane) openTables() error {
	t := &p.tables
	var short table.Table[row.DNSKey, row.DNSAnswer]
	var long table.Table[row.DNSKey, row.DNSLong]
	err := errors.Join(
		openTable(p, "workloads", &t.Workloads),
		openTable(p, "endpoints", &t.Endpoints),
		openTable(p, "blocks", &t.Blocks),
		openTable(p, "prefixes", &t.Prefixes),
		openTable(p, "vteps", &t.VTEPs),
		openTable(p, "verdicts", &t.Verdicts),
		openTable(p, "clauses", &t.Clauses),
		openTable(p, "sources", &t.Sources),
		openTable(p, "vips", &t.VIPs),
		openTable(p, "backends", &t.Backends),
		openTable(p, "maglevs", &t.Maglevs),
		openTable(p, "spaces", &t.Spaces),
		openTable(p, "flows", &t.Flows),
		openTable(p, "openings", &t.Openings),
		openTable(p, "traces", &t.Traces),
		openTable(p, "served", &t.Served),
		openTable(p, "relays", &t.Relays),
		openTable(p, "client_answers", &t.ClientAnswers),
		openTable(p, "dns_answers", &short),
		openTable(p, "dns_long", &long),
	)
	p.answers = answers.New(short, long)
	return err
}

func openTable[K comparable, V comparable](p *Plane, name string, to *table.Table[K, V]) error {
	m, ok := p.maps[name]
	if !ok {
		return fmt.Errorf("map %s: %w: in none of the objects", name, ErrInvalid)
	}
	k, err := table.NewKernel[K, V](m, name)
	if err != nil {
		return err
	}
	*to = k
	return nil
}
