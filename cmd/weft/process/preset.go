// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"
)

// PresetDCOS makes defaults what DC/OS has; TunnelDCOS is its UDP port of tunnels.
const (
	PresetDCOS = "dcos"
	TunnelDCOS = 64000
)

// CheckPreset refuses a preset that there is not.
func CheckPreset(name string) error {
	if name != "" && name != PresetDCOS {
		return fmt.Errorf("preset is %q: %s, or none, is allowed", name, PresetDCOS)
	}
	return nil
}

// CheckPorts refuses port 0 of flags, by their names.
func CheckPorts(ports map[string]uint16) error {
	var errs []error
	for _, flag := range slices.Sorted(maps.Keys(ports)) {
		if ports[flag] == 0 {
			errs = append(errs, fmt.Errorf("%s is 0: 1 to 65535 are allowed", flag))
		}
	}
	return errors.Join(errs...)
}

// ServeHTTP answers at addr until ctx ends; without addr it does nothing.
func ServeHTTP(ctx context.Context, addr string, handler http.Handler) error {
	if addr == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve HTTP at %s: %w", addr, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // who asks asks again
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
