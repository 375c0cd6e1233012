// SPDX-License-Identifier: Apache-2.0

package mesos

import (
	"bytes"
	"encoding/json"
	"slices"
)

// lax is a part of a document that Mesos-DNS does not read: a wrong type in it is no error.
type lax[T any] struct{ is T }

// UnmarshalJSON implements json.Unmarshaler.
func (l *lax[T]) UnmarshalJSON(text []byte) error {
	_ = json.Unmarshal(text, &l.is) // what could be read is there
	return nil
}

// wirePID is a PID as it stands in the document, without quotation marks and spaces. Mesos-DNS takes no escape in it for
// a character.
type wirePID struct {
	text  string
	there bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *wirePID) UnmarshalJSON(text []byte) error {
	p.text, p.there = string(bytes.Trim(text, `" `)), true
	return nil
}

// wireTexts are read for their types alone: Mesos-DNS refuses a document that has others.
type wireTexts struct {
	Visibility  string `json:"visibility"`
	Version     string `json:"version"`
	Location    string `json:"location"`
	Environment string `json:"environment"`
	Labels      struct {
		Labels []wireLabel `json:"labels"`
	} `json:"labels"`
}

// The parts of a state document that are read. Numbers that a framework sets are not checked by the
// master.
type (
	wireState struct {
		Leader     string          `json:"leader"`
		Frameworks []wireFramework `json:"frameworks"`
		Agents     []wireAgent     `json:"slaves"`
	}
	wireAgent struct {
		ID       string  `json:"id"`
		Hostname string  `json:"hostname"`
		PID      wirePID `json:"pid"`
	}
	wireFramework struct {
		ID       lax[string] `json:"id"`
		Name     string      `json:"name"`
		Hostname string      `json:"hostname"`
		PID      wirePID     `json:"pid"`
		Tasks    []wireTask  `json:"tasks"`
	}
	wireTask struct {
		Framework string         `json:"framework_id"` // for its type
		ID        string         `json:"id"`
		Name      string         `json:"name"`
		Agent     string         `json:"slave_id"`
		State     string         `json:"state"`
		Statuses  []wireStatus   `json:"statuses"`
		Check     lax[*struct{}] `json:"health_check"` // nil: there is none
		Resources struct {
			Ports string `json:"ports"`
		} `json:"resources"`
		Discovery struct {
			Name  string `json:"name"`
			Ports struct {
				Ports []wirePort `json:"ports"`
			} `json:"ports"`
			wireTexts
		} `json:"discovery"`
		Container lax[wireContainer] `json:"container"`
	}
	wireContainer struct {
		Docker struct {
			PortMappings []wireMapping `json:"port_mappings"`
		} `json:"docker"`
		Networks []wireNetwork `json:"network_infos"`
	}
	wireStatus struct {
		State     string      `json:"state"`
		Timestamp float64     `json:"timestamp"`
		Healthy   lax[*bool]  `json:"healthy"` // nil: no check has said anything
		Labels    []wireLabel `json:"labels"`
		Container struct {
			Networks []wireNetwork `json:"network_infos"`
		} `json:"container_status"`
	}
	wireLabel struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	wireNetwork struct {
		Addrs []struct {
			Addr string `json:"ip_address"`
		} `json:"ip_addresses"`
		Addr         string             `json:"ip_address"` // before Mesos 0.26
		PortMappings lax[[]wireMapping] `json:"port_mappings"`
	}
	wirePort struct {
		Name     string `json:"name"`
		Protocol string `json:"protocol"`
		Number   int    `json:"number"`
	}
	wireMapping struct {
		HostPort int `json:"host_port"`
	}
)

// running is the state of a task that has names.
const running = "TASK_RUNNING"

// Labels of a status that hold an address.
const (
	dockerLabel = "Docker.NetworkSettings.IPAddress"
	mesosLabel  = "MesosContainerizer.NetworkSettings.IPAddress"
)

// last returns the latest status that says that the task runs: they are in no order.
func (t *wireTask) last() *wireStatus {
	var last *wireStatus
	at := -1.0
	for i := range t.Statuses {
		if s := &t.Statuses[i]; s.State == running && s.Timestamp > at {
			last, at = s, s.Timestamp
		}
	}
	return last
}

// unwell tells whether the task's check fails, or has not said anything yet. Checks of schedulers are not here.
func (t *wireTask) unwell() bool {
	if last := t.last(); last != nil && last.Healthy.is != nil {
		return !*last.Healthy.is
	}
	return t.Check.is != nil
}

// netinfo returns the addresses of a status' networks, as they are written.
func (s *wireStatus) netinfo() []string {
	var texts []string
	if s == nil {
		return nil
	}
	for _, n := range s.Container.Networks {
		for _, a := range n.Addrs {
			texts = append(texts, a.Addr)
		}
		if len(n.Addrs) == 0 {
			texts = append(texts, n.Addr)
		}
	}
	return texts
}

// labelled returns the values of a status' labels of a key.
func (s *wireStatus) labelled(key string) []string {
	var texts []string
	if s == nil {
		return nil
	}
	for _, l := range s.Labels {
		if l.Key == key {
			texts = append(texts, l.Value)
		}
	}
	return texts
}

// mapped tells whether a port of the agent leads to the task.
func (t *wireTask) mapped() bool {
	lists := [][]wireMapping{t.Container.is.Docker.PortMappings}
	networks := t.Container.is.Networks
	if s := t.last(); s != nil {
		networks = append(slices.Clip(networks), s.Container.Networks...)
	}
	for _, n := range networks {
		lists = append(lists, n.PortMappings.is)
	}
	for _, l := range lists {
		for _, m := range l {
			if m.HostPort > 0 {
				return true
			}
		}
	}
	return false
}
