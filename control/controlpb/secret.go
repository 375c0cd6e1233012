// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"context"
	"crypto/subtle"
	"fmt"

	"google.golang.org/grpc/metadata"

	"weft/control"
)

// header carries the secret in HTTP (RFC 6750 section 2.1); gRPC is secured by package wire.
const header, scheme = "authorization", "Bearer "

// check asks for the secret of who came by HTTP, and compares in constant time, so that the answer's time tells nothing of the secret.
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
