// SPDX-License-Identifier: Apache-2.0

package ends

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inside runs f on a thread in the network namespace at path, which ends with it.
func Inside(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies in its namespace
		ns, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Threads are schedstat files of threads.
type Threads []string

// Softirq finds the threads that do what softirq does not get done.
func Softirq() (Threads, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var found Threads
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(name), "ksoftirqd/") {
			found = append(found, filepath.Join(filepath.Dir(path), "schedstat"))
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no ksoftirqd thread found")
	}
	return found, nil
}

// Time sums the threads' time on a CPU (the first field of schedstat), in nanoseconds.
func (t Threads) Time() (int64, error) {
	var sum int64
	for _, path := range t {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
