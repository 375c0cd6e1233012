// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"weft/overlay"
)

// SendFrame sends a whole frame out of a task's interface, as the task's own stack would.
func SendFrame(e overlay.Endpoint, frame []byte) (err error) {
	ns, err := openNamespace(e.NetNS)
	if err != nil {
		return fmt.Errorf("send from %s: %w", e.ID, err)
	}
	defer func() { err = errors.Join(err, ns.close()) }()
	return ns.do(func() (err error) {
		iface, err := net.InterfaceByName(e.Interface)
		if err != nil {
			return fmt.Errorf("send from %s: %w", e.ID, err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: it receives nothing
		if err != nil {
			return fmt.Errorf("send from %s: %w", e.ID, err)
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
			return fmt.Errorf("send from %s: %w", e.ID, err)
		}
		return nil
	})
}
