// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"

	"weft/control"
)

// maxBody bounds what is read of a request, bytes: a list of 1,000 agents is a third of it.
const maxBody = 1 << 16

// MasterHandler answers /overlay-master/state and /overlay-master/agents/delete, which asks for the cluster's secret,
// if there is one (RFC 6750 section 2.1), and /overlay-agent/overlay with the agent that is at self as well.
func MasterHandler(p Plan, s control.Service, secret string, self netip.Addr) http.Handler {
	read := func(ctx context.Context) (networks []control.Network, nodes []control.Node, err error) {
		if networks, err = s.Networks(ctx, ""); err == nil {
			nodes, err = s.Nodes(ctx)
		}
		return networks, nodes, err
	}
	state := func(w http.ResponseWriter, r *http.Request) {
		networks, nodes, err := read(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, r, StateOf(p, networks, nodes))
	}
	mux := http.NewServeMux()
	handleAgent(mux, func(ctx context.Context) (Agent, error) {
		networks, nodes, err := read(ctx)
		if err != nil {
			return Agent{}, err
		}
		i := slices.IndexFunc(nodes, func(n control.Node) bool {
			return n.Plain == nil && (n.VTEP == self || n.VTEP.IsValid() && slices.Contains(n.Addrs, self))
		})
		if i < 0 {
			return Agent{}, fmt.Errorf("%w: no node is at %s, this master's address", control.ErrNotFound, self)
		}
		return AgentOf(p, networks, nodes[i]), nil
	})
	mux.HandleFunc("GET /overlay-master/state", state)
	mux.HandleFunc("POST /overlay-master/agents/delete", func(w http.ResponseWriter, r *http.Request) {
		given := []byte(r.Header.Get("Authorization"))
		if secret != "" && subtle.ConstantTimeCompare(given, []byte("Bearer "+secret)) != 1 {
			fail(w, fmt.Errorf("%w: the cluster's secret is missing or wrong", control.ErrDenied))
			return
		}
		addrs, err := agentsOf(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			err = remove(r.Context(), s, addrs)
		}
		if err != nil {
			fail(w, err)
			return
		}
		state(w, r)
	})
	return cleaned(mux)
}

// AgentHandler answers /overlay-agent/overlay with what agent returns.
func AgentHandler(agent func(context.Context) (Agent, error)) http.Handler {
	mux := http.NewServeMux()
	handleAgent(mux, agent)
	return cleaned(mux)
}

// cleaned takes a path for what it means, with slashes too many as well: libprocess sends nobody elsewhere.
func cleaned(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.URL.RawPath = path.Clean("/"+r.URL.Path), ""
		h.ServeHTTP(w, r)
	})
}

func handleAgent(mux *http.ServeMux, agent func(context.Context) (Agent, error)) {
	mux.HandleFunc("GET /overlay-agent/overlay", func(w http.ResponseWriter, r *http.Request) {
		a, err := agent(r.Context())
		if err != nil {
			fail(w, err)
			return
		}
		first := 1
		a.Attempts = &first
		const protobuf = "application/x-protobuf"
		if !accepts(r, "application/json") && accepts(r, protobuf) {
			w.Header().Set("Content-Type", protobuf)
			_, _ = w.Write(a.protobuf()) // who asked has gone
			return
		}
		answer(w, r, a)
	})
}

// accepts tells whether who asks takes a media type of application (RFC 9110, 12.5.1).
func accepts(r *http.Request, media string) bool {
	all := strings.Join(r.Header.Values("Accept"), ",")
	for item := range strings.SplitSeq(all, ",") {
		item, _, _ = strings.Cut(item, ";")
		if slices.Contains([]string{media, "application/*", "*/*"}, strings.ToLower(strings.TrimSpace(item))) {
			return true
		}
	}
	return all == ""
}

// agentsOf reads {"agents": ["10.0.0.5"]}.
func agentsOf(body interface{ Read([]byte) (int, error) }) ([]netip.Addr, error) {
	var asked struct {
		Agents []string `json:"agents"`
	}
	if err := json.NewDecoder(body).Decode(&asked); err != nil {
		return nil, fmt.Errorf(`%w: the body is no JSON of the form {"agents": ["10.0.0.5"]}: %w`, control.ErrInvalid, err)
	}
	var addrs []netip.Addr
	for _, text := range asked.Agents {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%w: agents: %q is no IP address", control.ErrInvalid, text)
		}
		addrs = append(addrs, a.Unmap())
	}
	return addrs, nil
}

// remove frees what the agents have; one that is not known has nothing.
func remove(ctx context.Context, s control.Service, addrs []netip.Addr) error {
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !slices.Contains(addrs, n.VTEP) {
			continue
		}
		if err := s.RemoveNode(ctx, n.ID, false); err != nil && !errors.Is(err, control.ErrNotFound) {
			return err
		}
	}
	return nil
}

// answer writes JSON, or with ?jsonp=f a call of f.
func answer(w http.ResponseWriter, r *http.Request, document any) {
	body, err := json.Marshal(document)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if call := r.URL.Query().Get("jsonp"); call != "" {
		w.Header().Set("Content-Type", "text/javascript")
		body = fmt.Appendf(nil, "%s(%s);", call, body)
	}
	_, _ = w.Write(body) // who asked has gone
}

// fail answers with the status that the modules of DC/OS have for it.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, control.ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, control.ErrDenied):
		status = http.StatusUnauthorized
	case errors.Is(err, control.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, control.ErrInUse):
		status = http.StatusConflict
	case errors.Is(err, control.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), status)
}
