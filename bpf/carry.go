// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"weft/bpf/convert"
)

// How maps come over from a build with another layout, newer or older:
//
//   - a map whose rows did not change is pinned here too: both builds' programs share it
//   - of another one the rows are carried over into a new map, field by field. The kernel knows the names of a
//     map's fields (BTF), so a build needs to know of no other
//   - what the old programs wrote meanwhile is carried over when the links were taken over (TakeOver), and once
//     more before the old folder goes (Sweep)
//
// So a field keeps its name as long as it has its meaning, and zero in a new one means what came before it.

// carried tells the kinds of maps whose rows go over. Storage of sockets and rings can't be read; what
// is kept per CPU counts the moment, counters excepted.
func carried(name string, t ebpf.MapType) bool {
	switch t {
	case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.Array:
		return true
	case ebpf.PerCPUArray:
		return name == "counters"
	default:
		return false
	}
}

// adopt brings the map called name over from another layout, pinned in this one's folder when adopt
// returns; where there is none it does nothing.
func (p *Plane) adopt(spec *ebpf.MapSpec) error {
	here := filepath.Join(p.pins.Layout(), spec.Name)
	if _, err := os.Lstat(here); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	others, err := p.pins.Others()
	if err != nil {
		return err
	}
	for _, dir := range others {
		old, err := ebpf.LoadPinnedMap(filepath.Join(dir, spec.Name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open map of %s: %w", dir, err)
		}
		return errors.Join(p.adoptFrom(spec, old, here), old.Close())
	}
	return nil
}

func (p *Plane) adoptFrom(spec *ebpf.MapSpec, old *ebpf.Map, here string) error {
	c, err := carryOf(spec, old)
	if err != nil {
		p.log.Warn("rows of another layout are not readable", "map", spec.Name, "error", err)
		return nil
	}
	if c.share {
		return pinTwin(old, here)
	}
	spec = spec.Copy()
	spec.Pinning = ebpf.PinNone
	made, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	// Pinned when it is complete: a start that is killed on the way is done again.
	n, err := c.rows(made, old, p.known(spec))
	if err != nil {
		p.log.Warn("not all rows of another layout were carried over", "map", spec.Name, "rows", n, "error", err)
	} else {
		p.log.Info("carried over", "map", spec.Name, "rows", n)
	}
	return errors.Join(made.Pin(here), made.Close())
}

// carry is what it takes to bring a map over.
type carry struct {
	name       string
	key, value convert.Conversion
	share      bool // the same shape in all
	skip       bool // its rows stay behind
}

func carryOf(spec *ebpf.MapSpec, old *ebpf.Map) (carry, error) {
	c := carry{name: spec.Name, skip: spec.Type != old.Type() || !carried(spec.Name, spec.Type)}
	if spec.Type == ebpf.RingBuf || spec.Type != old.Type() {
		return c, nil
	}
	info, err := old.Info()
	if err != nil {
		return c, err
	}
	id, ok := info.BTFID()
	if !ok {
		return c, fmt.Errorf("%w: the kernel does not know its fields", ErrUnsupported)
	}
	handle, err := btf.NewHandleFromID(id)
	if err != nil {
		return c, err
	}
	types, err := handle.Spec(nil)
	if err := errors.Join(err, handle.Close()); err != nil {
		return c, err
	}
	if c.key, err = convert.To(types, spec.Key, old.KeySize(), spec.KeySize); err != nil {
		return c, err
	}
	if c.value, err = convert.To(types, spec.Value, old.ValueSize(), spec.ValueSize); err != nil {
		return c, err
	}
	c.share = c.key.Same && c.value.Same && spec.MaxEntries == old.MaxEntries() && spec.Flags == old.Flags()
	return c, nil
}

// written tells the maps that programs write. What Go writes is carried over once, by adopt: an answer to a name that it
// deleted since is not to come back.
func written(spec *ebpf.MapSpec) bool {
	return spec.Type == ebpf.LRUHash && !strings.HasPrefix(spec.Name, "dns_")
}

// known remembers which rows that programs wrote were carried over: each goes once, so that what came last goes fast.
func (p *Plane) known(spec *ebpf.MapSpec) map[string]bool {
	if !written(spec) {
		return nil
	}
	if p.knows[spec.Name] == nil {
		p.knows[spec.Name] = make(map[string]bool)
	}
	return p.knows[spec.Name]
}

// rows carries over the rows of old that are neither known nor there; it returns how many, and goes on behind what
// is refused.
func (c carry) rows(made, old *ebpf.Map, known map[string]bool) (int, error) {
	if c.skip {
		return 0, nil
	}
	if old.Type() == ebpf.PerCPUArray {
		return c.perCPU(made, old)
	}
	n := 0
	var refused error
	key, value := make([]byte, c.key.Size), make([]byte, c.value.Size)
	flags := ebpf.UpdateNoExist
	if old.Type() == ebpf.Array {
		flags = ebpf.UpdateAny
	}
	err := eachRow(old, func(k, v []byte) {
		if known[string(k)] || c.key.Loses(k) {
			return
		}
		if known != nil {
			known[string(k)] = true
		}
		c.key.Row(key, k)
		c.value.Row(value, v)
		switch err := made.Update(key, value, flags); {
		case err == nil:
			n++
		case errors.Is(err, ebpf.ErrKeyExist): // this build's programs know better
		default:
			refused = err
		}
	})
	return n, errors.Join(err, refused)
}

// perCPU carries an array of values per CPU over, as far as both reach.
func (c carry) perCPU(made, old *ebpf.Map) (int, error) {
	for i := range min(old.MaxEntries(), made.MaxEntries()) {
		var was [][]byte
		if err := old.Lookup(i, &was); err != nil {
			return int(i), err
		}
		now := make([][]byte, len(was))
		for cpu := range was {
			now[cpu] = make([]byte, c.value.Size)
			c.value.Row(now[cpu], was[cpu])
		}
		if err := made.Put(i, now); err != nil {
			return int(i), err
		}
	}
	return int(min(old.MaxEntries(), made.MaxEntries())), nil
}

// readAtOnce is how many rows a call of the kernel returns at first.
const readAtOnce = 1024

// eachRow hands every row of a map to f, as bytes that are valid during the call.
func eachRow(m *ebpf.Map, f func(key, value []byte)) error {
	limit := int(m.MaxEntries())
	size := min(readAtOnce, limit)
	var cursor ebpf.MapBatchCursor
	for {
		keys, values := rowsOf(m.KeySize(), size), rowsOf(m.ValueSize(), size)
		n, err := m.BatchLookup(&cursor, keys.Interface(), values.Interface(), nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if errors.Is(err, unix.ENOSPC) && size < limit { // a bucket must fit as a whole
			size = min(2*size, limit)
			continue
		}
		if err != nil && !last {
			return err
		}
		for i := range n {
			f(keys.Index(i).Bytes(), values.Index(i).Bytes())
		}
		if last {
			return nil
		}
	}
}

// rowsOf makes room for n rows of a size that only the map knows.
func rowsOf(size uint32, n int) reflect.Value {
	return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
}

// merge carries over what programs of the layout in dir wrote and this one's do not know: of the maps that
// programs write and that the two do not share.
func (p *Plane) merge(dir string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.specs)) {
		if written(p.specs[name]) {
			errs = append(errs, p.mergeMap(dir, name))
		}
	}
	return errors.Join(errs...)
}

func (p *Plane) mergeMap(dir, name string) error {
	old, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open map %s of %s: %w", name, dir, err)
	}
	same, err := isSame(old, p.maps[name])
	if err == nil && !same {
		var c carry
		if c, err = carryOf(p.specs[name], old); err == nil {
			_, err = c.rows(p.maps[name], old, p.known(p.specs[name]))
		}
	}
	if err != nil {
		p.log.Warn("not all rows of another layout were carried over", "map", name, "folder", dir, "error", err)
	}
	return old.Close()
}

func isSame(a, b *ebpf.Map) (bool, error) {
	x, err := a.Info()
	if err != nil {
		return false, err
	}
	y, err := b.Info()
	if err != nil {
		return false, err
	}
	i, _ := x.ID()
	k, _ := y.ID()
	return i == k, nil
}
