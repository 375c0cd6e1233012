// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"cmp"
	"slices"
	"strings"

	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// Listed is a framework and those of its tasks that have names.
type Listed struct {
	Name  string
	Tasks []ListedTask
}

// ListedTask is a task and the source of its records.
type ListedTask struct {
	ID, Name string
	Source   Source
}

// Listing returns the tasks of this cluster by framework, ordered by framework, name and id. Those of a
// Mesos cluster are listed by discovery/mesos, in the order of their master.
func (z *Zone) Listing() []Listed {
	var all []Listed
	index := map[string]int{}
	for s := range z.Facts {
		t, ok := s.Fact.(Task)
		if !ok {
			continue
		}
		framework := cmp.Or(t.Framework, "weft")
		i, ok := index[framework]
		if !ok {
			i = len(all)
			index[framework] = i
			all = append(all, Listed{Name: framework})
		}
		all[i].Tasks = append(all[i].Tasks, ListedTask{t.Task, t.Label, s.Source})
	}
	for _, f := range all {
		slices.SortFunc(f.Tasks, func(a, b ListedTask) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
		})
	}
	slices.SortFunc(all, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// MesosRecords calls yield for each A, AAAA and SRV record of Options.Domain once, whatever number of
// facts give it: all that Mesos-DNS would have.
func (z *Zone) MesosRecords(yield func(record.Record) bool) {
	domain := z.options.Domain
	if z.options.MesosOnly {
		domain = "" // its server may be outside of it
	}
	z.names.Within(domain, func(records []record.Record) bool {
		for _, t := range [...]record.Type{record.A, record.AAAA, record.SRV} {
			for _, r := range (Answer{Records: records}).Of(t) {
				if !yield(r) {
					return false
				}
			}
		}
		return true
	})
}

// IsMesos tells whether a record is one of MesosRecords.
func (z *Zone) IsMesos(r record.Record) bool {
	own := z.options.MesosOnly || dnsname.Within(r.Name, z.options.Domain)
	return own && (r.Type == record.A || r.Type == record.AAAA || r.Type == record.SRV)
}
