// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"time"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// The documents have the fields of Mesos-DNS, in its order.
type (
	// Transfer is the answer of /v1/axfr: the whole zone.
	Transfer struct {
		TTL            int32
		Serial         uint32
		RefreshSeconds int
		Mname          string
		Rname          string
		Domain         string
		Records        TransferRecords
	}
	// TransferRecords are values by name: addresses, or host:port.
	TransferRecords struct {
		As    map[string][]string
		AAAAs map[string][]string
		SRVs  map[string][]string
	}

	// Enumeration is the answer of /v1/enumerate: which task has which records.
	Enumeration struct {
		Frameworks []EnumeratedFramework `json:"frameworks"`
	}
	// EnumeratedFramework is a framework with its tasks.
	EnumeratedFramework struct {
		Tasks []EnumeratedTask `json:"tasks"`
		Name  string           `json:"name"`
	}
	// EnumeratedTask is a task with its records.
	EnumeratedTask struct {
		Name    string             `json:"name"`
		ID      string             `json:"id"`
		Records []EnumeratedRecord `json:"records"`
	}
	// EnumeratedRecord is one record.
	EnumeratedRecord struct {
		Name string `json:"name"`
		Host string `json:"host"`
		Type string `json:"rtype"`
	}

	hostRecord struct {
		Host string `json:"host"`
		IP   string `json:"ip"`
	}
	serviceRecord struct {
		Service string `json:"service"`
		Host    string `json:"host"`
		IP      string `json:"ip"`
		Port    string `json:"port"`
	}
	versionRecord struct {
		Service string
		URL     string
		Version string
	}
)

// NewTransfer makes the document of a zone, which is read again every refresh.
func NewTransfer(z *zone.Zone, refresh time.Duration) Transfer {
	o := z.Options()
	t := Transfer{
		TTL: int32(o.TTL / time.Second), Serial: o.Start.Serial, RefreshSeconds: int(refresh / time.Second),
		Mname: o.Start.Server, Rname: o.Start.Mailbox, Domain: o.Domain,
		Records: TransferRecords{As: map[string][]string{}, AAAAs: map[string][]string{}, SRVs: map[string][]string{}},
	}
	for r := range z.MesosRecords {
		values := t.Records.As
		switch r.Type {
		case record.AAAA:
			values = t.Records.AAAAs
		case record.SRV:
			values = t.Records.SRVs
		default:
		}
		values[r.Name] = append(values[r.Name], r.Value())
	}
	return t
}

// NewEnumeration makes the document of a listing. A record that several tasks have is with the first of
// them; what is a master's, an agent's or a framework's is with no task.
func NewEnumeration(z *zone.Zone, listing []zone.Listed) Enumeration {
	type value struct {
		name, value string
		kind        record.Type
	}
	seen := map[value]bool{}
	fresh := func(r record.Record) bool {
		v := value{r.Name, r.Value(), r.Type}
		known := seen[v]
		seen[v] = true
		return !known && z.IsMesos(r)
	}
	for s := range z.Facts {
		switch s.Fact.(type) {
		case zone.Task, zone.MesosTask:
		default:
			for _, r := range z.From(s.Source) {
				fresh(r)
			}
		}
	}
	var e Enumeration
	for _, f := range listing {
		framework := EnumeratedFramework{Tasks: []EnumeratedTask{}, Name: f.Name}
		for _, t := range f.Tasks {
			task := EnumeratedTask{Name: t.Name, ID: t.ID}
			for _, r := range z.From(t.Source) {
				if fresh(r) {
					task.Records = append(task.Records, EnumeratedRecord{r.Name, r.Value(), r.Type.String()})
				}
			}
			framework.Tasks = append(framework.Tasks, task)
		}
		e.Frameworks = append(e.Frameworks, framework)
	}
	return e
}
