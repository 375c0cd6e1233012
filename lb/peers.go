// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"context"

	"weft/discovery"
)

// Peers asks other nodes whether they act by rows (docs/decisions/0014).
type Peers interface {
	// Applied returns nil when the tables of the node that answers at addr have all rows up to where they are
	// known, and waits for it as long as ctx allows. errors.ErrUnsupported tells that it never will say.
	Applied(ctx context.Context, addr string, known map[discovery.Stream]discovery.Position) error
}
