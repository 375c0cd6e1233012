// SPDX-License-Identifier: Apache-2.0

// Package controlpb is control.Service on the network: gRPC, JSON over HTTP from the same definition,
// and a client that is a control.Service. It decides nothing; what is asked and answered is package
// control's.
package controlpb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"

	"weft/control"
	"weft/discovery/wire"
)

// Registration puts a service on a server, such as discovery's Sync beside ours.
type Registration func(grpc.ServiceRegistrar)

// grace bounds how long calls may go on once the end was asked for.
const grace = 2 * time.Second

// Serve answers gRPC calls on the listener until ctx ends, of whoever comes by the credentials; nil lets
// everyone in. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, creds credentials.TransportCredentials, services ...Registration) error {
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	server := grpc.NewServer(append(wire.Serving(),
		grpc.Creds(creds),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 5 * time.Second, Timeout: 3 * time.Second}),
	)...)
	for _, register := range services {
		register(server)
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Streams have no end of their own, so a graceful end needs one.
		hard := time.AfterFunc(grace, server.Stop)
		server.GracefulStop()
		hard.Stop()
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", listener.Addr(), err)
	}
	return nil
}

// Handler answers the same as JSON over HTTP, below /v1/, of whoever shows the secret, if there is one.
func Handler(ctx context.Context, s control.Service, secret string) (http.Handler, error) {
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
	}), runtime.WithIncomingHeaderMatcher(func(string) (string, bool) {
		// The gateway itself passes Authorization on; nothing else is read.
		return "", false
	}))
	if err := RegisterFabricHandlerServer(ctx, mux, &server{service: s, secret: secret}); err != nil {
		return nil, fmt.Errorf("make the HTTP handler: %w", err)
	}
	return mux, nil
}

// ServeHTTP answers HTTP requests on the listener until ctx ends. It closes the listener.
func ServeHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(last) != nil {
			server.Close() //nolint:errcheck // whoever is still connected has had his time
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
	}
	return nil
}
