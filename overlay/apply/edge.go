// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// EdgeLink is an interface that clients outside come in by.
type EdgeLink struct {
	Name    string
	Ifindex uint32
	MAC     [6]byte
	// XDP tells that a program in the driver gains something: on devices that frames really come in by. Between two
	// namespaces (veth) it costs segmentation and gains nothing.
	XDP bool
}

// FindEdgeLinks looks at interfaces by name.
func FindEdgeLinks(names []string) ([]EdgeLink, error) {
	links, err := allLinks()
	if err != nil {
		return nil, err
	}
	known := make([]string, len(links))
	for i, l := range links {
		known[i] = l.Attrs().Name
	}
	var found []EdgeLink
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("edge is %q: there is no such interface; there are %s", name, strings.Join(known, ", "))
		}
		a := links[i].Attrs()
		l := EdgeLink{Name: name, Ifindex: uint32(a.Index), XDP: links[i].Type() == "device" || links[i].Type() == "bond"}
		copy(l.MAC[:], a.HardwareAddr)
		found = append(found, l)
	}
	return found, nil
}

// SendOn sends a whole frame out of an interface of the node.
func SendOn(ifindex uint32, frame []byte) (err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
	if err != nil {
		return fmt.Errorf("send on interface %d: %w", ifindex, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(ifindex)}); err != nil {
		return fmt.Errorf("send on interface %d: %w", ifindex, err)
	}
	return nil
}
