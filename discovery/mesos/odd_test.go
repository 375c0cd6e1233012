// SPDX-License-Identifier: Apache-2.0

package mesos

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// odd draws documents that a master could send, and some that none would: few ids, so that they meet, names of all kinds, and
// here and there a value of a wrong type.
type odd struct {
	*rapid.T
	wrong int // values of a wrong type
}

func (o *odd) of(label string, values ...any) any {
	return rapid.SampledFrom(values).Draw(o.T, label)
}

// text is mostly one of the values.
func (o *odd) text(label string, values ...any) any {
	if rapid.IntRange(0, 150).Draw(o.T, label+" is wrong") == 0 {
		o.wrong++
		return o.of("wrong", 7, true, []any{}, map[string]any{})
	}
	return o.of(label, values...)
}

func (o *odd) name(label string) any {
	return o.text(label, "web", "Web.App", "a_b", "slave", "master", "-", "", "..", "é", "a b", "x:1", "[y]", `a\.b`, "42", nil,
		"a-very-long-name-that-is-longer-than-a-label-may-be-if-there-is-a-hash-behind-it")
}

func (o *odd) addr(label string) any {
	return o.text(label, "10.1.0.1", "10.1.0.2", "fd01::1", "FD01::01", "::ffff:10.1.0.3", "fe80::1%lo", "10.1.0.1/24", "", nil)
}

func (o *odd) list(label string, most int, element func() any) []any {
	list := []any{}
	for range rapid.IntRange(0, most).Draw(o.T, label) {
		list = append(list, element())
	}
	return list
}

func (o *odd) pid() any {
	return o.of("pid", "slave(1)@10.0.0.1:5051", "@10.0.0.2:0", "a@[fd01::1]:1", "a@host:80", "a@:1", "a@10.0.0.3:", "a@10.0.0.4:http", "a@10.0.0.5:080")
}

func (o *odd) status() any {
	network := map[string]any{"ip_address": o.addr("old address"), "ip_addresses": o.list("addresses", 2, func() any {
		return map[string]any{"ip_address": o.addr("address")}
	})}
	return map[string]any{
		"state": o.text("status", running, "TASK_KILLING"), "timestamp": o.of("timestamp", 1, 2.5, -1, 1e300),
		"labels":           []any{map[string]any{"key": o.text("key", mesosLabel, dockerLabel, "x"), "value": o.addr("value")}},
		"container_status": map[string]any{"network_infos": []any{network}},
	}
}

func (o *odd) task() any {
	t := map[string]any{
		"id": o.text("id", "t1", "t2", ""), "name": o.name("task"), "slave_id": o.text("agent", "S-S0", "S-S1", "", "x_y"),
		"state": o.text("state", running, running, "TASK_STAGING"), "statuses": o.list("statuses", 2, o.status),
		"resources": map[string]any{"ports": o.text("ports", "[1-2]", "[1-1,0-0, 70000-70000]", "[]", "", "[x-1]", "1-2")},
	}
	if rapid.Bool().Draw(o.T, "discovery") {
		t["discovery"] = map[string]any{"name": o.name("discovery"), "ports": map[string]any{"ports": o.list("ports", 2, func() any {
			return map[string]any{"name": o.name("port"), "protocol": o.text("protocol", "tcp", "UDP", "", "-", nil), "number": o.of("number", 0, 80, 70000)}
		})}}
	}
	return t
}

func (o *odd) document() []byte {
	text, err := json.Marshal(map[string]any{
		"leader": "master@10.0.0.9:5050",
		"slaves": o.list("agents", 3, func() any {
			return map[string]any{"id": o.text("agent", "S-S0", "S-S1", ""), "hostname": o.text("hostname", "host", ""), "pid": o.pid()}
		}),
		"frameworks": o.list("frameworks", 3, func() any {
			f := map[string]any{"id": o.of("id", "F", "G", nil), "name": o.name("framework"), "hostname": o.text("hostname", "host", "10.0.0.8", "")}
			if rapid.Bool().Draw(o.T, "has a pid") {
				f["pid"] = o.pid()
			}
			f["tasks"] = o.list("tasks", 3, o.task)
			return f
		}),
	})
	if err != nil {
		o.Fatal(err)
	}
	return text
}

// Whatever a document has: strict it is refused for what is wrong in it, and only then; else it is read. From one such state to
// another by changes is the same as the other from nothing. Without Strict each record can be asked for and be answered.
func TestOddDocuments(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		for _, strict := range []bool{true, false} {
			o := zone.Options{MesosOnly: true, Strict: strict, RFC952: rapid.Bool().Draw(t, "rfc952")}
			walked := zone.New(o)
			var before *Facts
			for range 2 {
				draw := odd{T: t}
				text := draw.document()
				s, err := Parse(text, strict)
				if refused := errors.As(err, new(*json.UnmarshalTypeError)); err != nil && !refused || refused != (strict && draw.wrong > 0) {
					t.Fatalf("strict %t, %d wrong values: %v\n%s", strict, draw.wrong, err, text)
				}
				if err != nil {
					continue
				}
				f := s.Facts(Options{
					Masters: []string{"10.0.0.1:5050", "10.0.0.9:5050", "10.0.0.1:1"}, Resolved: map[string][]netip.Addr{"host": {netip.MustParseAddr("10.2.0.1")}},
				})
				walked, _ = walked.With(f.Changes(before))
				before = f
				fresh, _ := zone.New(o).With(f.Changes(nil))
				if w, f := slices.Collect(walked.MesosRecords), slices.Collect(fresh.MesosRecords); !reflect.DeepEqual(w, f) {
					t.Fatalf("strict %t: %d records on the way, %d from nothing\n%s", strict, len(w), len(f), text)
				}
			}
			for r := range walked.MesosRecords {
				if !strict && (!r.Answerable() || r.Text != "" || r.Type == record.SRV && r.Port == 0) {
					t.Fatalf("record %v", r)
				}
			}
		}
	})
}
