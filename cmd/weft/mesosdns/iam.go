// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	loginWithin = 10 * time.Second
	// claimFor is how long who it is may be claimed with what was signed: an hour, as by Mesos-DNS, for clocks of hosts differ.
	claimFor = time.Hour
	maxLogin = 1 << 20 // bytes of an answer
)

// account is a service account of DC/OS, as its file has it.
type account struct {
	UID        string `json:"uid"`
	PrivateKey string `json:"private_key"` // RSA, in PEM
	Endpoint   string `json:"login_endpoint"`
	Scheme     string `json:"scheme"`
}

// login has the token by which masters know a service account. One call at a time.
type login struct {
	account
	key    *rsa.PrivateKey
	client *http.Client
	now    func() time.Time

	token  string
	renew  time.Time // it is due for another one; zero: it does not say when it ends
	ends   time.Time
	logged bool // in, or tried, since begin
}

// newLogin reads the file of an account.
func newLogin(path string, client *http.Client) (*login, error) {
	l := &login{client: client, now: time.Now}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("IAMConfigFile: %w", err)
	}
	if err := json.Unmarshal(text, &l.account); err != nil {
		return nil, fmt.Errorf("IAMConfigFile: %s: %w", path, err)
	}
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("IAMConfigFile: %s: %w", path, err)
	}
	return l, nil
}

func (l *login) validate() error {
	var errs []error
	if l.UID == "" {
		errs = append(errs, errors.New("uid: the account's name is needed"))
	}
	if l.Scheme != "" && !strings.EqualFold(l.Scheme, "RS256") {
		errs = append(errs, fmt.Errorf("scheme: %q: RS256 is allowed", l.Scheme))
	}
	if u, err := url.Parse(l.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = append(errs, fmt.Errorf("login_endpoint: %q: an http or https URL is allowed", l.Endpoint))
	}
	var err error
	if l.key, err = jwt.ParseRSAPrivateKeyFromPEM([]byte(l.PrivateKey)); err != nil {
		errs = append(errs, fmt.Errorf("private_key: an RSA key in PEM is allowed: %w", err))
	}
	return errors.Join(errs...)
}

// begin sees before masters are asked that there is a token, another one in time. One that is still good does while the IAM is away.
func (l *login) begin(ctx context.Context) error {
	l.logged = false
	if now := l.now(); l.token == "" || !l.renew.IsZero() && now.After(l.renew) {
		if err := l.in(ctx); err != nil && (l.token == "" || now.After(l.ends)) {
			return err
		}
	}
	return nil
}

// again gets another token when a master did not take this one. Once since begin: what is just out is not refused for its age.
func (l *login) again(ctx context.Context) (bool, error) {
	if l.logged {
		return false, nil
	}
	return true, l.in(ctx)
}

// in logs in.
func (l *login) in(ctx context.Context) error {
	l.logged = true
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	token, err := l.post(ctx)
	if err != nil {
		return fmt.Errorf("log in as %s at %s: %w", l.UID, l.Endpoint, err)
	}
	l.token, l.renew, l.ends = token, time.Time{}, time.Time{}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err == nil && claims.ExpiresAt != nil {
		now := l.now()
		l.ends = claims.ExpiresAt.Time
		l.renew = now.Add(l.ends.Sub(now) / 10 * 9)
	}
	return nil
}

// post claims to be the account, and returns the token that proves it from now on.
func (l *login) post(ctx context.Context) (string, error) {
	claim, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"uid": l.UID, "exp": jwt.NewNumericDate(l.now().Add(claimFor)),
	}).SignedString(l.key)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]string{"uid": l.UID, "token": claim})
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Endpoint, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := l.client.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }() // what matters was read
	var said struct{ Token, Description string }
	err = json.NewDecoder(io.LimitReader(answer.Body, maxLogin)).Decode(&said)
	switch {
	case answer.StatusCode != http.StatusOK:
		return "", errors.New(strings.TrimSpace(answer.Status + " " + said.Description))
	case err != nil:
		return "", err
	case said.Token == "":
		return "", errors.New("no token is in the answer")
	}
	return said.Token, nil
}
