// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"weft/overlay"
)

// portMapping is one of the capability portMappings (CNI, CONVENTIONS.md).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp when empty
	HostIP        string `json:"hostIP"`   // every address of the node when empty
}

// mappings returns what both say. A mapping without a port of the node asks for none: runtimes list the
// ports of a container that way.
func (c config) mappings() ([]overlay.PortMapping, error) {
	asked := c.RuntimeConfig.PortMappings
	for _, m := range c.Args.Mesos.NetworkInfo.PortMappings {
		asked = append(asked, portMapping{HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: m.Protocol})
	}
	var ports []overlay.PortMapping
	var errs []error
	for _, m := range asked {
		if m.HostPort == 0 {
			continue
		}
		one, err := m.read()
		ports, errs = append(ports, one), append(errs, err)
	}
	return ports, errors.Join(errs...)
}

func (m portMapping) read() (overlay.PortMapping, error) {
	var errs []error
	port := func(field string, n int) uint16 {
		if n < 1 || n > math.MaxUint16 {
			errs = append(errs, fmt.Errorf("%s %d: 1 to %d are allowed", field, n, math.MaxUint16))
		}
		return uint16(n)
	}
	mapping := overlay.PortMapping{
		HostPort: port("hostPort", m.HostPort), Port: port("containerPort", m.ContainerPort), Protocol: strings.ToLower(m.Protocol),
	}
	if m.HostIP != "" {
		host, err := netip.ParseAddr(m.HostIP)
		if err != nil {
			errs = append(errs, fmt.Errorf("hostIP %q is no address", m.HostIP))
		}
		mapping.HostIP = host
	}
	if err := errors.Join(errs...); err != nil {
		return mapping, err
	}
	return mapping, mapping.Validate()
}
