// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// tokenKey is the metadata that shows the secret of the cluster.
const tokenKey = "weft-token"

// token is what is shown: it proves the secret and does not tell it. Who listens to the underlay can
// show it again; against that the underlay is protected, or the connection by TLS.
type token []byte

// Token returns what makes a client show that it has the secret.
func Token(secret []byte) credentials.PerRPCCredentials { return token(secret) }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{tokenKey: hex.EncodeToString(t.sum())}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (t token) RequireTransportSecurity() bool { return false }

func (t token) sum() []byte {
	mac := hmac.New(sha256.New, t)
	_, _ = mac.Write([]byte("weft cluster token v1")) // never fails
	return mac.Sum(nil)
}

// CheckToken tells, in a time that does not depend on what was shown, whether the caller of ctx has
// the secret. An empty secret lets everyone in.
func CheckToken(ctx context.Context, secret []byte) error {
	if len(secret) == 0 {
		return nil
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	for _, shown := range incoming.Get(tokenKey) {
		if sum, err := hex.DecodeString(shown); err == nil && hmac.Equal(sum, token(secret).sum()) {
			return nil
		}
	}
	return status.Error(codes.Unauthenticated, "the secret of this cluster was not shown: start this process with the cluster's secret")
}
