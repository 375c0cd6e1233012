// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// keyInfo parts the key made of a secret here from what else is made of it.
const keyInfo = "weft wire key v1"

// Credentials returns what secures a connection between processes that share a secret: TLS 1.3, in which
// both sides prove by the same key, made of the secret, that they have it. So a cluster needs no authority
// and no certificates to renew; who has the secret is in. The first secret is shown, every one of them is
// accepted, so that a cluster can change from one to another. Without a secret nothing is secured.
//
// Who connects can try guesses of the secret against what a server shows: it wants 16 bytes of chance.
func Credentials(secrets ...[]byte) (credentials.TransportCredentials, error) {
	if len(secrets) == 0 || len(secrets[0]) == 0 {
		return insecure.NewCredentials(), nil
	}
	var known []ed25519.PublicKey
	var own tls.Certificate
	for i, secret := range secrets {
		seed, err := hkdf.Key(sha256.New, secret, nil, keyInfo, ed25519.SeedSize)
		if err != nil {
			return nil, fmt.Errorf("make a key of the secret: %w", err)
		}
		key := ed25519.NewKeyFromSeed(seed)
		public, _ := key.Public().(ed25519.PublicKey) // of such a key it is
		known = append(known, public)
		if i > 0 {
			continue
		}
		if own, err = certificate(key, public); err != nil {
			return nil, fmt.Errorf("make a certificate of the secret: %w", err)
		}
	}
	return secured{credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{own},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, //nolint:gosec // names and authorities say nothing here; the key does, below
		VerifyConnection: func(c tls.ConnectionState) error {
			for _, cert := range c.PeerCertificates[:min(1, len(c.PeerCertificates))] {
				shown, ok := cert.PublicKey.(ed25519.PublicKey)
				if ok && slices.ContainsFunc(known, func(k ed25519.PublicKey) bool { return k.Equal(shown) }) {
					return nil
				}
			}
			return errOtherSecret
		},
	})}, nil
}

var errOtherSecret = errors.New("the other side has another secret: give all processes of a cluster the same")

// certificate carries a key, which is all that is looked at.
func certificate(key ed25519.PrivateKey, public ed25519.PublicKey) (tls.Certificate, error) {
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<36, 0)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, public, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// secured says in words what fails when one side has no secret.
type secured struct {
	credentials.TransportCredentials
}

// ClientHandshake implements credentials.TransportCredentials.
func (s secured) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := s.TransportCredentials.ClientHandshake(ctx, authority, conn)
	if err != nil && !errors.Is(err, errOtherSecret) {
		err = fmt.Errorf("%w (a side without a secret talks to nobody who has one)", err)
	}
	return c, info, err
}

// Clone implements credentials.TransportCredentials.
func (s secured) Clone() credentials.TransportCredentials {
	return secured{s.TransportCredentials.Clone()}
}
