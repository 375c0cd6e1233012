// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
	"weft/overlay/explain"
)

// explained is the cluster that questions are asked about: web-1 is here, the others are elsewhere.
func explained() (compile.Facts, explain.World) {
	f := compiletest.Small()
	compiletest.GiveAddresses(f)
	f.Sets = append(f.Sets, overlay.GroupSet{Network: "prod", Groups: []string{"db"}, Identity: 18})
	f.Rules = []overlay.Rule{
		{ID: 7, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 5432, Last: 5433}}, Action: overlay.Allow},
		{ID: 8, Network: "prod", From: "web", To: "db", Protocol: "udp", Action: overlay.Deny},
		{ID: 9, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 5433, Last: 5433}}, Action: overlay.Deny, Audit: true},
	}
	far := func(id, at string, groups []string, identity overlay.Identity) overlay.Endpoint {
		t := compiletest.Task(id, f.Networks[0], 0, at, overlay.GroupSet{Groups: groups, Identity: identity})
		t.Node, t.Name = "n2", strings.TrimRight(id, "-0123456789")
		return t.Endpoint
	}
	guest := func(id string, node discovery.NodeID, at string) overlay.Endpoint {
		return overlay.Endpoint{
			Attachment: overlay.Attachment{ID: id, Task: id, Name: strings.TrimRight(id, "-0123456789"), Network: discovery.HostNetwork},
			Node:       node, Addr4: netip.MustParseAddr(at),
		}
	}
	f.InHost = []overlay.Endpoint{guest("host-1", f.Node, "10.0.0.1")}
	mapped := far("mapped-1", "9.0.1.7", []string{"db"}, 18)
	mapped.Ports = []overlay.PortMapping{{HostPort: 8080, Port: 80}}
	return f, explain.World{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Remote: []overlay.Endpoint{
			far("db-1", "9.0.1.1", []string{"db"}, 18), far("both-1", "9.0.1.2", []string{"db", "web"}, 17),
			far("bare-1", "9.0.1.3", nil, row.IdentityUngrouped), far("six-1", "fd01:b::1:1", []string{"web"}, 16),
			guest("far-host-1", "n2", "10.0.0.2"),
			far("open-1", "9.0.1.4", []string{"public"}, 19), far("x-1", "9.0.1.5", nil, 3), far("x-2", "9.0.1.6", []string{"db"}, 18),
			mapped,
		},
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for name, row := range map[string]struct {
		src, dst, service string
		reason            string
		text, suggestion  string
	}{
		"common group":       {"web-1", "both", "tcp/80", "delivered", "web-1 (9.0.0.1) and both (9.0.1.2) are both in group web", ""},
		"rule":               {"web-1", "db", "tcp/5432", "delivered", "rule 7 (allow web to db tcp/5432-5433) lets web-1 (9.0.0.1) reach db (9.0.1.1) on tcp/5432", ""},
		"audit":              {"web-1", "db", "tcp/5433", "audited", "rule 9 (deny web to db tcp/5433)", "weft rule list prod"},
		"deny":               {"web-1", "db", "udp/53", "denied", "rule 8 (deny web to db udp) denies", "weft rule remove prod 8"},
		"other port":         {"web-1", "db", "tcp/80", "no_common_group", "no rule lets web-1 reach db on tcp/80; rule 7 lets it on tcp/5432-5433 only", "weft rule add prod --from web --to db --port tcp/80"},
		"ping":               {"web-1", "db", "icmp/0", "no_common_group", "is in group web, db (9.0.1.1) in group db: they share none", "weft rule add prod --from web --to db --port icmp"},
		"back":               {"db", "web-1", "tcp/80", "no_common_group", "share none", "weft rule add prod --from db --to web --port tcp/80"},
		"no group":           {"bare", "db", "tcp/80", "no_common_group", "is in no group", "start the task that has none with --group"},
		"public":             {"web-1", "open", "tcp/80", "delivered", "in group public", ""},
		"by address":         {"9.0.0.1", "9.0.1.2", "tcp/80", "delivered", "both in group web", ""},
		"IPv6":               {"web-1", "six", "tcp/80", "delivered", "web-1 (fd01:b::1) and six (fd01:b::1:1)", ""},
		"no family":          {"db", "six", "tcp/80", "no_endpoint", "no address family in common", "ask for a task by an address of the family that both have"},
		"other network":      {"web-1", "9.1.5.1", "tcp/80", "other_network", "networks never meet", "run both in one network: weft run --network dev"},
		"nobody there":       {"web-1", "9.0.1.77", "tcp/80", "no_endpoint", "no task has 9.0.1.77; its block 9.0.1.0/24 is node n2's", "ask for the name again (weft name show NAME): the task has ended or has another address"},
		"no block":           {"web-1", "9.0.9.1", "tcp/80", "no_block", "no node holds the block of 9.0.9.1", "ask for the name again (weft name show NAME); weft network show NETWORK lists who holds which block"},
		"to the world":       {"web-1", "8.8.8.8", "tcp/80", "to_host", "leaves by its node", ""},
		"from the world":     {"world", "web-1", "tcp/80", "not_public", "is in group web, not in group public", "weft rule add prod --from world --to web --port tcp/80"},
		"by a node's port":   {"192.0.2.7", "mapped", "tcp/80", "delivered", "port 8080 of node n2 leads to mapped (9.0.1.7), so tcp/80 is open to the world there", ""},
		"node, to a mapped":  {"n1", "mapped", "tcp/80", "not_public", "no rule lets this node (44.128.0.1) reach it", "weft rule add prod --from 44.128.0.1/32 --to db --port tcp/80"},
		"own node":           {"10.0.0.1", "web-1", "tcp/80", "from_host", "always talk", ""},
		"to own node":        {"web-1", "10.0.0.1", "tcp/80", "to_host", "always talk", ""},
		"own node's own":     {"44.128.0.1", "web-1", "tcp/80", "from_host", "always talk", ""},
		"node to its own":    {"n2", "db", "tcp/80", "from_host", "always talk", ""},
		"node elsewhere":     {"n1", "bare", "tcp/80", "delivered", "bare (9.0.1.3) is in no group: processes of every node reach it", ""},
		"node to a group":    {"n2", "web-1", "tcp/80", "not_public", "no rule lets node n2 (44.128.0.2) reach it", "weft rule add prod --from 44.128.0.2/32 --to web --port tcp/80"},
		"node, the other":    {"n2", "six", "tcp/80", "from_host", "always talk", ""},
		"to another node":    {"web-1", "n2", "tcp/80", "encapsulated", "node n2 (44.128.0.2) takes what tasks send it", ""},
		"to a node by IPv6":  {"web-1", "fd01:a::2", "tcp/80", "encapsulated", "node n2 (fd01:a::2)", ""},
		"node to node":       {"n1", "n2", "tcp/80", "not_ours", "neither", ""},
		"to a host task":     {"web-1", "host", "tcp/80", "to_host", "a task and its own node may always talk", ""},
		"of a host task":     {"host-1", "web-1", "tcp/80", "from_host", "always talk", ""},
		"to one elsewhere":   {"web-1", "far-host", "tcp/80", "to_host", "web-1 (9.0.0.1) leaves by its node, with the node's address", ""},
		"of one elsewhere":   {"far-host", "web-1", "tcp/80", "not_public", "no rule lets far-host in its node's network (44.128.0.2) reach it", "weft rule add prod --from 44.128.0.2/32 --to web --port tcp/80"},
		"host task to group": {"host", "bare", "tcp/80", "delivered", "bare (9.0.1.3) is in no group: processes of every node reach it", ""},
		"host tasks":         {"host", "far-host", "tcp/80", "not_ours", "neither host in its node's network (44.128.0.1) nor far-host in its node's network (10.0.0.2) is a task of a network", ""},
		"strangers":          {"8.8.8.8", "10.0.0.1", "tcp/80", "not_ours", "neither", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := explain.Answer(f, w, question(row.src, row.dst, row.service))
			if err != nil {
				t.Fatal(err)
			}
			if v.Reason != row.reason || v.Suggestion != row.suggestion || !strings.Contains(v.Text, row.text) {
				t.Errorf("got %s: %s [%s]\nwant %s: %s [%s]", v.Reason, v.Text, v.Suggestion, row.reason, row.text, row.suggestion)
			}
		})
	}
}

func question(src, dst, service string) overlay.Question {
	proto, port, _ := strings.Cut(service, "/")
	n := 0
	for _, c := range port {
		n = n*10 + int(c-'0')
	}
	return overlay.Question{Source: src, Destination: dst, Protocol: proto, Port: uint16(n)}
}

func TestBadQuestionsAreRefused(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for name, row := range map[string]struct {
		q    overlay.Question
		kind error
		text string
	}{
		"protocol":  {question("web-1", "db", "sctp/1"), overlay.ErrInvalid, "tcp, udp and icmp"},
		"port zero": {question("web-1", "db", "tcp/0"), overlay.ErrInvalid, "1 to 65535"},
		"nobody":    {question("web-1", "dbb", "tcp/1"), overlay.ErrNotFound, `destination: task "dbb" of network prod`},
		"a VIP":     {question("web-1", "11.1.2.3", "tcp/80"), overlay.ErrInvalid, "weft vip list"},
		"ambiguous": {question("web-1", "x", "tcp/1"), overlay.ErrConflict, "x-1 or x-2"},
	} {
		if _, err := explain.Answer(f, w, row.q); !errors.Is(err, row.kind) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: got %v, want %v: %s", name, err, row.kind, row.text)
		}
	}
}

func TestWhyKnowsPlainNodes(t *testing.T) {
	t.Parallel()
	f := compiletest.WithPlain()
	f.Rules = []overlay.Rule{{ID: 4, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 80, Last: 80}}, Action: overlay.Allow}}
	for _, tt := range []struct{ src, dst, reason, says string }{
		{"web-1", "old", "delivered", "rule 4 (allow web to db tcp/80) lets web-1 (9.0.0.1) reach old (9.0.9.1)"},
		{"web-1", "9.0.9.77", "delivered", "reach old (9.0.9.77)"},
		{"9.0.9.77", "web-1", "no_common_group", "old (9.0.9.77) is in group db, web-1 (9.0.0.1) in group web"},
	} {
		v, err := explain.Answer(f, explain.World{}, overlay.Question{Source: tt.src, Destination: tt.dst, Protocol: "tcp", Port: 80})
		if err != nil || v.Reason != tt.reason || !strings.Contains(v.Text, tt.says) {
			t.Errorf("%s to %s: got %s: %s (%v), want %s: %s", tt.src, tt.dst, v.Reason, v.Text, err, tt.reason, tt.says)
		}
	}
}

// Answer and the packet path read the same rows: they can't disagree.
func TestAnswersSayWhatTheRowsSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := compiletest.DrawPolicy(t)
		f := p.Facts()
		rows := compile.Compile(f)
		w := explain.World{
			Verdict: func(k row.VerdictKey) (row.Verdict, bool) { v, ok := rows.Verdicts[k]; return v, ok },
			Clauses: func(k row.ClausesKey) (row.Clauses, bool) { c, ok := rows.Clauses[k]; return c, ok },
		}
		src := rapid.SampledFrom(f.Tasks).Draw(t, "src")
		dst := rapid.SampledFrom(f.Tasks).Draw(t, "dst")
		port := rapid.SampledFrom([]uint16{79, 80, 82, 84, 85}).Draw(t, "port")
		q := overlay.Question{Source: src.ID, Destination: dst.ID, Protocol: "tcp", Port: port}
		here, err := explain.Answer(f, w, q)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := compiletest.Look(rows, overlay.GroupSet{Identity: src.Identity}, netip.Addr{}, dst.Identity, compile.Service{Proto: compile.TCP, Port: port})
		if pass := ok && v.Action() != row.VerdictDeny; here.Allowed != pass || here.Rule != overlay.RuleID(v.Rule) {
			t.Fatalf("got %+v, the table says %v %v", here, v, ok)
		}
		if !here.Allowed && here.Reason == "no_common_group" && here.Suggestion == "" && len(src.Groups) > 0 && len(dst.Groups) > 0 {
			t.Fatalf("got no suggestion: %+v", here)
		}
		// Asked on another node, it compiles what this one has in its table.
		f.Tasks, w.Remote, f.Node = nil, nil, "n2"
		for _, task := range p.Facts().Tasks {
			w.Remote = append(w.Remote, task.Endpoint)
		}
		there, err := explain.Answer(f, w, q)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(here, there, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatalf("the other node answers otherwise (-here +there)\n%s", diff)
		}
	})
}

// FuzzAnswer takes what other nodes and masters may have written: an answer has words, and nothing panics.
func FuzzAnswer(f *testing.F) {
	facts, world := explained()
	data, err := json.Marshal(facts)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, "web-1", "9.0.1.1", "tcp", uint16(80))
	f.Fuzz(func(t *testing.T, data []byte, src, dst, proto string, port uint16) {
		var facts compile.Facts
		if json.Unmarshal(data, &facts) != nil {
			return
		}
		v, err := explain.Answer(facts, world, overlay.Question{Source: src, Destination: dst, Protocol: proto, Port: port})
		if err == nil && (v.Text == "" || v.Reason == "") {
			t.Errorf("an answer without words: %+v", v)
		}
	})
}
