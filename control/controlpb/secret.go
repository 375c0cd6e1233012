// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"context"
	"crypto/subtle"
	"fmt"

	"google.golang.org/grpc/metadata"

	"weft/control"
)

// header carries the secret, in gRPC metadata as in HTTP (RFC 6750 section 2.1).
const header, scheme = "authorization", "Bearer "

// check compares in constant time, so that the answer's time tells nothing of the secret.
func (s *server) check(ctx context.Context) error {
	if s.secret == "" {
		return nil
	}
	given := metadata.ValueFromIncomingContext(ctx, header)
	if len(given) == 1 && subtle.ConstantTimeCompare([]byte(given[0]), []byte(scheme+s.secret)) == 1 {
		return nil
	}
	return fmt.Errorf("%w: the cluster's secret is missing or wrong", control.ErrDenied)
}

// bearer presents the secret with every call. The masters' port has no TLS yet: the underlay is
// trusted not to be listened to.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{header: scheme + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return false }
