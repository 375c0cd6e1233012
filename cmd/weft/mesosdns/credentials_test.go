// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

// asking is a source with credentials, names of hosts as they are given, and a log.
func asking(t *testing.T, c Config, names map[string][]string) (*source, *bytes.Buffer) {
	t.Helper()
	if c.MesosAuthentication == "" {
		c.MesosAuthentication, c.MesosCredentials = "basic", Credentials{"p", "s"}
	}
	c.Strict = false // Mesos-DNS asks the leader once more after a redirection
	var log bytes.Buffer
	s, err := newSource(c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s.lookUp = func(_ context.Context, host string) ([]netip.Addr, error) {
		var addrs []netip.Addr
		for _, a := range names[host] {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if addrs == nil {
			return nil, errors.New("no such host")
		}
		return addrs, nil
	}
	return s, &log
}

// open makes a master answer whoever comes; it counts who came with credentials and who without.
func (m *master) open(document []byte) (with, without *atomic.Int64) {
	with, without = &atomic.Int64{}, &atomic.Int64{}
	m.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			without.Add(1)
		} else {
			with.Add(1)
		}
		_, _ = w.Write(document)
	})
	return with, without
}

// send makes a master send who asks elsewhere, as one does that does not lead.
func (m *master) send(to string) {
	m.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to+r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
}

// Credentials go where masters are, however they are called, and nowhere else that one of them sends who asks.
func TestCredentialsGoToMastersAlone(t *testing.T) {
	names := map[string][]string{"leader.example": {"127.0.0.3"}, "masters.example": {"192.0.2.1", "127.0.0.3"}, "localhost": {"127.0.0.1"}}
	for name, row := range map[string]struct {
		at    string // of the leader
		to    string // where one is sent, PORT: the leader's
		list  string // the leader in masters, PORT as above
		found bool   // by ZooKeeper, in place of masters
		want  bool
	}{
		"in the list":                     {"127.0.0.3", "//127.0.0.3:PORT", "127.0.0.3:PORT", false, true},
		"with the scheme":                 {"127.0.0.3", "http://127.0.0.3:PORT", "127.0.0.3:PORT", false, true},
		"in ZooKeeper":                    {"127.0.0.3", "//127.0.0.3:PORT", "127.0.0.3:PORT", true, true},
		"listed by name, sent by address": {"127.0.0.3", "//127.0.0.3:PORT", "Leader.example.:PORT", false, true},
		"listed by address, sent by name": {"127.0.0.3", "//leader.example:PORT", "127.0.0.3:PORT", false, true},
		"sent by a name of several":       {"127.0.0.3", "//masters.example:PORT", "127.0.0.3:PORT", false, true},
		"an address of IPv4 in IPv6":      {"127.0.0.3", "//[::ffff:127.0.0.3]:PORT", "127.0.0.3:PORT", false, true},
		"nobody knows it":                 {"127.0.0.3", "//127.0.0.3:PORT", "127.0.0.4:PORT", false, false},
		"a name of somebody else":         {"127.0.0.1", "//localhost:PORT", "127.0.0.3:PORT", false, false},
		"another port":                    {"127.0.0.3", "//127.0.0.3:PORT", "127.0.0.3:1", false, false},
		"another port of who sends":       {"127.0.0.2", "//127.0.0.2:PORT", "127.0.0.3:PORT", false, false},
		"a name with another port":        {"127.0.0.1", "//localhost:PORT", "127.0.0.1:1", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			leader, other := newMaster(t, row.at+":0"), newMaster(t, "127.0.0.2:0")
			port := func(text string) string { return strings.ReplaceAll(text, "PORT", leader.port()) }
			with, without := leader.open(task(leader.addr, "10.0.0.1"))
			other.send(port(row.to))
			c := config(other.addr, port(row.list))
			var found []string
			if row.found {
				c.Masters, found = nil, []string{other.addr, port(row.list)}
			}
			s, log := asking(t, c, names)
			for range 2 {
				if _, err := s.fetch(t.Context(), found); err != nil {
					t.Fatal(err)
				}
			}
			lines, wrong := 0, without
			if !row.want {
				lines, wrong = 1, with
			}
			if wrong.Load() != 0 || with.Load()+without.Load() == 0 {
				t.Errorf("the leader was asked %d times with credentials and %d times without, want it told: %t", with.Load(), without.Load(), row.want)
			}
			if strings.Count(log.String(), "\n") != lines || !row.want && !strings.Contains(log.String(), "url=http:"+port(row.to)+"\n") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// A master that sends from https to http gets nobody's secret read on the way.
func TestCredentialsStayWithTheScheme(t *testing.T) {
	leader, other := newMaster(t, "127.0.0.1:0"), &master{}
	with, _ := leader.open(task(leader.addr, "10.0.0.1"))
	server := httptest.NewTLSServer(other)
	t.Cleanup(server.Close)
	other.send("http://" + leader.addr)
	c := config(server.Listener.Addr().String(), leader.addr)
	c.MesosHTTPSOn = true
	s, log := asking(t, c, nil)
	s.mustFetch(t)
	if with.Load() != 0 || !strings.Contains(log.String(), "url=http://"+leader.addr) {
		t.Errorf("the leader was told by http; log: %s", log)
	}
}

// Who leads is what a master says: it is told the credentials. One that nobody knows may say so as well, and is heard, but who
// it names is asked as nobody.
func TestLeaderIsToldWhenAMasterNamesIt(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		leader := newMaster(t, "127.0.0.3:0")
		other := newMaster(t, "127.0.0.2:"+leader.port())
		with, without := leader.open(task("127.0.0.3:1", "10.0.0.1"))
		other.say(task("127.0.0.3:1", "10.0.0.66"))
		c := config(other.addr)
		if !trusted {
			first := newMaster(t, "127.0.0.4:"+leader.port())
			first.send("//" + other.addr)
			c = config(first.addr)
		}
		s, log := asking(t, c, nil)
		s.mustFetch(t)
		if with.Load()+without.Load() != 1 || (with.Load() == 1) != trusted {
			t.Errorf("named by a master: %t: asked %d times with credentials, %d times without; log: %s", trusted, with.Load(), without.Load(), log)
		}
	}
}

// A leader that is listed by its name is asked once: who is at its only address is it.
func TestLeaderByNameIsAskedOnce(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task(m.addr, "10.0.0.1"))
	for _, row := range []struct {
		addrs []string
		want  int64
	}{{[]string{"127.0.0.1"}, 1}, {[]string{"127.0.0.1", "127.0.0.2"}, 2}} { // the second is the name of several
		s, _ := asking(t, config("localhost:"+m.port()), map[string][]string{"localhost": row.addrs})
		before := m.asked.Load()
		if s.mustFetch(t); m.asked.Load() != before+row.want {
			t.Errorf("%v: asked %d times, want %d", row.addrs, m.asked.Load()-before, row.want)
		}
	}
}

// A stranger that wants a token does not make the account log in anew at each look.
func TestStrangerCostsNoLogin(t *testing.T) {
	key := newKey(t)
	login, stranger, other := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.3:0"), newMaster(t, "127.0.0.2:0")
	refused := login.guard(stranger)
	other.send("//" + stranger.addr)
	s, log := asking(t, withAccount(login.file(t, pkcs8(t, key)), other.addr), nil)
	for range 3 {
		if _, err := s.fetch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "http://"+stranger.addr+"/master/state: 401 Unauthorized") {
			t.Errorf("got %v, want who refuses", err)
		}
	}
	if n := login.logins.Load(); n != 1 || refused.Load() != 3 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d logins, %d refused; log: %s", n, refused.Load(), log)
	}
}
