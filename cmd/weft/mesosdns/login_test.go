// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secure serves a master, or an IAM, by https, with the certificate of its authority in a file.
func secure(t *testing.T, h http.Handler, prepare ...func(*httptest.Server)) (url, authority string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of clients that do not trust it
	for _, f := range prepare {
		f(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, pemFile(t, "CERTIFICATE", server.Certificate().Raw)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.ToLower(strings.ReplaceAll(kind, " ", "-"))+".pem")
	if err := os.WriteFile(path, []byte(inPEM(kind, der)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pair is a certificate that signs itself, in files, and its key.
func pair(t *testing.T) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pemFile(t, "CERTIFICATE", der), pemFile(t, "PRIVATE KEY", private)
}

// By https the IAM is believed by the certificates that the configuration names, and who is refused is refused by a field's name.
func TestLoginByHTTPS(t *testing.T) {
	const path = "/acs/api/v1/auth/login"
	key := newKey(t)
	login := newIAM(t, &key.PublicKey)
	plain := newMaster(t, "127.0.0.1:0")
	login.guard(plain)
	plain.say(task(plain.addr, "10.0.0.1"))
	url, authority := secure(t, login)
	guarded, _ := secure(t, plain)
	clientCert, certFile, keyFile := pair(t)
	asksBack, sameAuthority := secure(t, login, func(s *httptest.Server) {
		clients := x509.NewCertPool()
		clients.AddCert(clientCert)
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	})
	check := func(what, master, endpoint string, more map[string]any, words ...string) {
		t.Helper()
		fields := map[string]any{
			"masters": []string{master}, "mesosAuthentication": "iam", "IAMConfigFile": login.file(t, pkcs8(t, key), "login_endpoint", endpoint+path),
		}
		maps.Copy(fields, more)
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		c, err := load(t, string(text))
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSource(c, nobody)
		if err != nil {
			t.Fatal(err)
		}
		before := login.logins.Load()
		_, err = s.fetch(t.Context(), nil)
		if len(words) == 0 && (err != nil || login.logins.Load() != before+1) {
			t.Errorf("%s: %d logins, %v", what, login.logins.Load()-before, err)
		}
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", what, err, w)
			}
		}
	}
	tlsMaster := strings.TrimPrefix(guarded, "https://")
	check("its authority", plain.addr, url, map[string]any{"caCertFile": authority})
	check("its authority, and masters by https", tlsMaster, url, map[string]any{"caCertFile": authority, "mesosHTTPSOn": true})
	check("masters by https, and whoever they are", tlsMaster, url, map[string]any{"mesosHTTPSOn": true})
	check("a certificate of ours", plain.addr, asksBack, map[string]any{"caCertFile": sameAuthority, "certFile": certFile, "keyFile": keyFile})
	check("none of ours", plain.addr, asksBack, map[string]any{"caCertFile": sameAuthority}, "log in as names at "+asksBack, "certificate required")
	check("another authority", plain.addr, url, map[string]any{"caCertFile": certFile},
		"log in as names at "+url, "CACertFile "+certFile, "certificate signed by unknown authority")
	check("the host's", plain.addr, url, nil, "log in as names at "+url, "the host's certificates", "CACertFile", "unknown authority")
	check("another name", plain.addr, strings.Replace(url, "127.0.0.1", "localhost", 1), map[string]any{"caCertFile": authority},
		"CACertFile "+authority, "not localhost")
	check("a master that is not trusted", tlsMaster, "http://"+login.addr, map[string]any{"caCertFile": certFile, "mesosHTTPSOn": true},
		"master "+tlsMaster, "CACertFile "+certFile, "unknown authority")
	check("https where there is none", plain.addr, "https://"+login.addr, map[string]any{"caCertFile": authority}, "log in as names", "HTTP response to HTTPS client")

	for _, field := range []string{"caCertFile", "certFile"} {
		c := withAccount(login.file(t, pkcs8(t, key)), plain.addr)
		empty := pemFile(t, "NOTHING", nil)
		if c.CACertFile = empty; field == "certFile" {
			c.CACertFile, c.CertFile, c.KeyFile = "", empty, empty
		}
		if _, err := newSource(c, nobody); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(field)) {
			t.Errorf("%s without a certificate: %v", field, err)
		}
	}
}

// What is posted to the IAM is as good as a token: it goes to the host of login_endpoint.
func TestLoginStaysWhereItIs(t *testing.T) {
	key := newKey(t)
	login, m := newIAM(t, &key.PublicKey), newMaster(t, "127.0.0.1:0")
	login.guard(m)
	m.say(task(m.addr, "10.0.0.1"))
	front := newMaster(t, "127.0.0.6:0")
	c := withAccount(login.file(t, pkcs8(t, key), "login_endpoint", "http://"+front.addr+"/acs/api/v1/auth/login"), m.addr)
	front.send("http://" + login.addr)
	s, err := newSource(c, nobody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fetch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "login_endpoint") || login.asked.Load() != 0 {
		t.Errorf("to another host: %v, which was asked %d times", err, login.asked.Load())
	}
	same := newMaster(t, "127.0.0.5:0") // the IAM's host
	same.send("http://" + login.addr)
	c.IAMConfigFile = login.file(t, pkcs8(t, key), "login_endpoint", "http://"+same.addr+"/acs/api/v1/auth/login")
	if s, err = newSource(c, nobody); err != nil {
		t.Fatal(err)
	}
	s.mustFetch(t)
	// From https nothing goes on by http.
	url, authority := secure(t, same)
	same.send("http://127.0.0.1:" + login.port())
	c.IAMConfigFile, c.CACertFile = login.file(t, pkcs8(t, key), "login_endpoint", url+"/acs/api/v1/auth/login"), authority
	if s, err = newSource(c, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := s.fetch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "from https") {
		t.Errorf("from https to http: %v", err)
	}
}
