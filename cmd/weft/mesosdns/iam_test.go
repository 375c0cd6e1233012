// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func inPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pkcs8 is the form that DC/OS's command line gives keys.
func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return inPEM("PRIVATE KEY", der)
}

// iam is DC/OS's identity manager, as far as it knows the account "names".
type iam struct {
	*master
	logins atomic.Int64
	away   atomic.Bool
	valid  atomic.Pointer[string] // the token that masters take
	lasts  time.Duration          // a token; 0: it does not say
}

func newIAM(t *testing.T, key *rsa.PublicKey) *iam {
	t.Helper()
	s := &iam{master: newMaster(t, "127.0.0.5:0")}
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		var said struct{ UID, Token string }
		if s.away.Load() {
			http.Error(w, "<html>", http.StatusBadGateway)
			return
		}
		err := json.NewDecoder(r.Body).Decode(&said)
		var claims jwt.MapClaims
		if err == nil {
			_, err = jwt.ParseWithClaims(said.Token, &claims, func(*jwt.Token) (any, error) { return key, nil },
				jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/acs/api/v1/auth/login" || said.UID != "names" || claims["uid"] != "names" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"title": "Unauthorized", "description": "Invalid credentials", "code": "ERR_INVALID_CREDENTIALS"}`))
			return
		}
		mine := jwt.MapClaims{"uid": said.UID, "n": s.logins.Add(1)}
		if s.lasts != 0 {
			mine["exp"] = time.Now().Add(s.lasts).Unix()
		}
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, mine).SignedString([]byte("the IAM's own"))
		if err != nil {
			t.Error(err)
		}
		s.valid.Store(&token)
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
	})
	return s
}

// guard makes a master ask for the token.
func (s *iam) guard(m *master) (refused *atomic.Int64) {
	refused = &atomic.Int64{}
	m.answer(func(w http.ResponseWriter, r *http.Request) {
		token, document := s.valid.Load(), m.document.Load()
		if token == nil || r.Header.Get("Authorization") != "token="+*token {
			refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(*document)
	})
	return refused
}

// revoke makes the present token worthless.
func (s *iam) revoke() { s.valid.Store(nil) }

// file writes the account's, with changes.
func (s *iam) file(t *testing.T, key string, changes ...string) string {
	t.Helper()
	all := map[string]string{
		"scheme": "RS256", "uid": "names", "private_key": key, "login_endpoint": "http://" + s.addr + "/acs/api/v1/auth/login",
	}
	for i := 0; i < len(changes); i += 2 {
		all[changes[i]] = changes[i+1]
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func withAccount(path string, masters ...string) Config {
	c := config(masters...)
	c.MesosAuthentication, c.IAMConfigFile = "iam", path
	return c
}

func (s *source) mustFetch(t *testing.T) {
	t.Helper()
	if _, err := s.fetch(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestServiceAccountLogsInOnceForManyLooks(t *testing.T) {
	key := newKey(t)
	for form, text := range map[string]string{"PKCS #1": inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), "PKCS #8": pkcs8(t, key)} {
		login, m := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.1:0")
		login.lasts = 5 * 24 * time.Hour
		refused := login.guard(m)
		m.say(task(m.addr, "10.0.0.1"))
		s, err := newSource(withAccount(login.file(t, text), m.addr), nobody)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			s.mustFetch(t)
		}
		if n := login.logins.Load(); n != 1 || refused.Load() != 0 || m.asked.Load() != 10 {
			t.Errorf("%s: ten looks took %d logins, %d questions, %d refused", form, n, m.asked.Load(), refused.Load())
		}
	}
}

// A token is renewed before it ends, and when a master does not take it; while the IAM is away one that is good still does.
func TestTokenIsRenewed(t *testing.T) {
	key := newKey(t)
	login, m := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.1:0")
	login.lasts = 100 * time.Hour
	refused := login.guard(m)
	m.say(task(m.addr, "10.0.0.1"))
	s, err := newSource(withAccount(login.file(t, pkcs8(t, key)), m.addr), nobody)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, logins, refusals int64) {
		t.Helper()
		s.mustFetch(t)
		if login.logins.Load() != logins || refused.Load() != refusals {
			t.Errorf("%s: %d logins, %d refused, want %d, %d", when, login.logins.Load(), refused.Load(), logins, refusals)
		}
	}
	later := func(d time.Duration) { s.login.now = func() time.Time { return time.Now().Add(d) } }
	check("first", 1, 0)
	login.revoke()
	check("revoked", 2, 1)
	later(89 * time.Hour)
	check("not yet due", 2, 1)
	later(91 * time.Hour)
	check("due", 3, 1) // as this clock goes it lasts nine hours
	login.away.Store(true)
	later(99*time.Hour + 30*time.Minute)
	check("the IAM is away", 3, 1)
	later(101 * time.Hour)
	if _, err := s.fetch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") {
		t.Errorf("after its end: %v, want what the IAM says", err)
	}
	login.away.Store(false)
	check("the IAM is back", 4, 1)
}

// A master that refuses every token is not a reason to ask for them without end.
func TestEveryTokenRefusedIsOneLoginALook(t *testing.T) {
	key := newKey(t)
	login, m := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.1:0")
	m.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	c := withAccount(login.file(t, pkcs8(t, key)), m.addr, strings.Replace(m.addr, "127.0.0.1", "localhost", 1))
	c.Strict = false
	s, err := newSource(c, nobody)
	if err != nil {
		t.Fatal(err)
	}
	for look := range int64(3) {
		if _, err := s.fetch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "401 Unauthorized") || !strings.Contains(err.Error(), m.addr) {
			t.Errorf("got %v, want each master's refusal", err)
		}
		if n := login.logins.Load(); n != look+1 {
			t.Errorf("%d logins after %d looks", n, look+1)
		}
	}
}

// A master sends who asks to the leader at another address: with the token.
func TestTokenGoesWithRedirections(t *testing.T) {
	key := newKey(t)
	login, leader, other := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.3:0"), newMaster(t, "127.0.0.2:0")
	refused := login.guard(leader)
	leader.say(task("127.0.0.3:1", "10.0.0.1"))
	other.send("//" + leader.addr)
	c := withAccount(login.file(t, pkcs8(t, key)), other.addr, leader.addr)
	c.Strict = false // Mesos-DNS asks the leader once more, at the other's port
	s, err := newSource(c, nobody)
	if err != nil {
		t.Fatal(err)
	}
	if s.mustFetch(t); refused.Load() != 0 {
		t.Errorf("the leader refused %d", refused.Load())
	}
}

func TestLoginThatFailsSaysWhoAndWhere(t *testing.T) {
	key := newKey(t)
	login := newIAM(t, &key.PublicKey)
	check := func(path string, words ...string) {
		t.Helper()
		s, err := newSource(withAccount(path, "127.0.0.1:1"), nobody)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.fetch(t.Context(), nil)
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v, want %q in it", err, w)
			}
		}
	}
	endpoint := "http://" + login.addr + "/acs/api/v1/auth/login"
	check(login.file(t, pkcs8(t, newKey(t))), "log in as names at "+endpoint, "401 Unauthorized Invalid credentials")
	check(login.file(t, pkcs8(t, key), "uid", "other"), "log in as other", "401 Unauthorized")
	check(login.file(t, pkcs8(t, key), "login_endpoint", "http://127.0.0.5:1/login"), "log in as names at http://127.0.0.5:1/login", "refused")
	login.answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) })
	check(login.file(t, pkcs8(t, key)), "no token is in the answer")
	login.answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) })
	check(login.file(t, pkcs8(t, key)), "log in as names", "invalid character")
}

func TestBadAccountNamesFileAndField(t *testing.T) {
	key := newKey(t)
	login := newIAM(t, &key.PublicKey)
	check := func(path string, words ...string) {
		t.Helper()
		_, err := newSource(withAccount(path, "127.0.0.1:1"), nobody)
		for _, w := range append(words, "IAMConfigFile", path) {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v, want %q in it", err, w)
			}
		}
	}
	good := pkcs8(t, key)
	check(filepath.Join(t.TempDir(), "none.json"), "no such file")
	check(login.file(t, good, "uid", ""), "uid")
	check(login.file(t, good, "scheme", "HS256"), "scheme", `"HS256"`, "RS256 is allowed")
	check(login.file(t, good, "login_endpoint", "leader.mesos/login"), "login_endpoint", `"leader.mesos/login"`)
	check(login.file(t, ""), "private_key")
	check(login.file(t, "secret", "uid", ""), "private_key", "uid")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	check(login.file(t, pkcs8(t, ec)), "private_key", "RSA")
	path := login.file(t, good)
	if err := os.WriteFile(path, []byte(`{"uid": 7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	check(path, "uid")
}

// Without the IAM what was read stays; when it is back so is what is new.
func TestNamesStayWhileNobodyCanLogIn(t *testing.T) {
	key := newKey(t)
	login, m := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.1:0")
	login.guard(m)
	m.say(task(m.addr, "10.0.0.1"))
	d := launch(t, withAccount(login.file(t, pkcs8(t, key)), m.addr)).waitReady()
	login.away.Store(true)
	login.revoke()
	m.say(task(m.addr, "10.0.0.2"))
	tried := login.asked.Load()
	until(t, "two logins in vain", func() bool { return login.asked.Load() >= tried+2 })
	if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("web.marathon.mesos = %s, want what was true before", got)
	}
	if log := d.logged(); !strings.Contains(log, "state not read") || !strings.Contains(log, "log in as names") {
		t.Errorf("log: %s", log)
	}
	login.away.Store(false)
	until(t, "the new state", func() bool { return d.addresses("web.marathon.mesos.") == "10.0.0.2" })
	if _, body := d.get("/v1/config", ""); strings.Contains(body, "PRIVATE") || !strings.Contains(body, "account.json") {
		t.Errorf("configuration shows %s", body)
	}
}
