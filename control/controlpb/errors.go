// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"google.golang.org/grpc/codes"

	"weft/control"
	"weft/discovery/wire"
)

// failures is how errors travel.
var failures = wire.Errors{Peer: "the master", Sentinels: []wire.Sentinel{
	{Err: control.ErrInvalid, Code: codes.InvalidArgument},
	{Err: control.ErrExists, Code: codes.AlreadyExists},
	{Err: control.ErrNotFound, Code: codes.NotFound},
	{Err: control.ErrInUse, Code: codes.FailedPrecondition},
	{Err: control.ErrUnavailable, Code: codes.Unavailable},
	{Err: control.ErrDenied, Code: codes.PermissionDenied},
}}
