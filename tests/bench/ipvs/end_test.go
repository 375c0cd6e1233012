// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An end of the conversation is this binary again, told by a variable what to do. It calls the kernel at once: nothing
// of Go's runtime has to run meanwhile, so that the same is counted whatever the way.
const endVariable = "WEFT_BENCH_END" // serve, or SOCKET ADDRESS:PORT

const (
	serverPort = 9000
	rounds     = 101
	perRound   = 50 // questions
	size       = 64 // bytes of a question and of its answer
	warmUp     = 100
	patience   = 5 // seconds
)

func TestMain(m *testing.M) {
	order := os.Getenv(endVariable)
	if order == "" {
		os.Exit(m.Run())
	}
	if err := end(order); err != nil {
		fmt.Fprintln(os.Stderr, "end:", err)
		os.Exit(1)
	}
}

func end(order string) error {
	if order == "serve" {
		return serve()
	}
	var socket, at string
	if _, err := fmt.Sscan(order, &socket, &at); err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	a := &asker{to: to, socket: socket}
	if socket != fresh {
		if err := a.open(); err != nil {
			return err
		}
	}
	for range warmUp {
		if err := a.ask(); err != nil {
			return err
		}
	}
	costs := make([]time.Duration, rounds)
	for i := range costs {
		began := time.Now()
		for range perRound {
			if err := a.ask(); err != nil {
				return err
			}
		}
		costs[i] = time.Since(began) / perRound
	}
	slices.Sort(costs)
	fmt.Println(costs[rounds/2].Nanoseconds())
	return nil
}

// asker asks, by one socket or by a new one each time.
type asker struct {
	fd     int
	to     netip.AddrPort
	socket string
	buffer [size]byte
}

func (a *asker) open() (err error) {
	if a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		return err
	}
	if a.socket == unconnected {
		return nil
	}
	return unix.Connect(a.fd, &unix.SockaddrInet4{Addr: a.to.Addr().As4(), Port: int(a.to.Port())})
}

func (a *asker) ask() error {
	if a.socket == fresh {
		if err := a.open(); err != nil {
			return err
		}
		defer func() { _ = unix.Close(a.fd) }() // what was sent has been answered
	}
	to := inet4(a.to)
	if a.socket != unconnected {
		to = nil
	}
	if err := send(a.fd, a.buffer[:], to); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	var from *unix.RawSockaddrInet4
	if a.socket == unconnected { // it wants to know who answers
		from = new(unix.RawSockaddrInet4)
	}
	if err := receive(a.fd, a.buffer[:], from); err != nil {
		return fmt.Errorf("hear: %w", err)
	}
	if from != nil && *from != *to {
		return fmt.Errorf("%v answers in place of %s", from.Addr, a.to)
	}
	return nil
}

func serve() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: serverPort}); err != nil {
		return err
	}
	fmt.Println("ready")
	buffer := make([]byte, size)
	for {
		var from unix.RawSockaddrInet4
		if err := receive(fd, buffer, &from); err != nil {
			return err
		}
		if err := send(fd, buffer, &from); err != nil {
			return err
		}
	}
}

func inet4(a netip.AddrPort) *unix.RawSockaddrInet4 {
	port := a.Port()
	return &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: a.Addr().As4()} // of a little-endian guest
}

// send sends to an address, nil: as the socket is connected.
func send(fd int, b []byte, to *unix.RawSockaddrInet4) error {
	length := uintptr(0)
	if to != nil {
		length = unsafe.Sizeof(*to)
	}
	return result(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(to)), length))
}

// receive tells who sent, where from is not nil.
func receive(fd int, b []byte, from *unix.RawSockaddrInet4) error {
	var length *uint32
	if from != nil {
		length = new(uint32(unsafe.Sizeof(*from)))
	}
	return result(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(length))))
}

func result(_, _ uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
