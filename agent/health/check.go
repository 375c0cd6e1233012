// SPDX-License-Identifier: Apache-2.0

// Package health asks a task how it is, from inside its network namespace: by TCP, HTTP, gRPC or a
// command. It says what it found; what follows from it is load balancing's.
package health

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is how a task is asked.
type Kind string

// Kinds of checks.
const (
	TCP     Kind = "tcp"     // a connection is taken
	HTTP    Kind = "http"    // GET is answered by a status of 200 to 399
	HTTPS   Kind = "https"   // the same; whose certificate it is does not matter
	GRPC    Kind = "grpc"    // grpc.health.v1.Health answers SERVING
	Command Kind = "command" // it exits with status 0, in the task's namespaces and cgroup
)

// Check says how a task is asked, how often, and what counts.
type Check struct {
	Kind    Kind     `json:"kind"`
	Port    uint16   `json:"port,omitempty"`
	Path    string   `json:"path,omitempty"`    // of HTTP
	Service string   `json:"service,omitempty"` // of gRPC; empty: the server as a whole
	Command []string `json:"command,omitempty"`

	Interval  time.Duration `json:"interval"`
	Timeout   time.Duration `json:"timeout"`
	Healthy   int           `json:"healthy"`   // successes in a row that make it healthy
	Unhealthy int           `json:"unhealthy"` // failures in a row that make it unhealthy
	// Grace is for how long failures don't count after the start, as long as it never succeeded.
	Grace time.Duration `json:"grace"`
}

// Limits and defaults of a Check.
const (
	DefaultInterval  = 2 * time.Second
	DefaultTimeout   = time.Second
	DefaultHealthy   = 1
	DefaultUnhealthy = 3
	DefaultGrace     = 10 * time.Second

	shortest = 10 * time.Millisecond // interval and timeout
	longest  = time.Hour
	mostRows = 1000 // successes or failures in a row
)

// form is what errors say is allowed.
const form = "tcp:PORT, http:PORT[/PATH], https:PORT[/PATH], grpc:PORT[/SERVICE] or command:COMMAND ARG..., followed by " +
	",interval=2s ,timeout=1s ,healthy=1 ,unhealthy=3 or ,grace=10s"

// Parse reads a check as labels and flags write it: http:8080/ready,interval=1s,unhealthy=2.
func Parse(text string) (Check, error) {
	c := Check{Interval: DefaultInterval, Timeout: DefaultTimeout, Healthy: DefaultHealthy, Unhealthy: DefaultUnhealthy, Grace: DefaultGrace}
	rest, err := c.readOptions(text)
	if err == nil {
		err = c.readTarget(rest)
	}
	if err != nil {
		return Check{}, fmt.Errorf("health check %q: %w", text, err)
	}
	return c, nil
}

// readOptions takes known options off the end, so that a command may hold commas.
func (c *Check) readOptions(text string) (rest string, err error) {
	seen := make(map[string]bool)
	for {
		comma := strings.LastIndexByte(text, ',')
		if comma < 0 {
			return text, nil
		}
		key, value, _ := strings.Cut(text[comma+1:], "=")
		set := map[string]func(string) error{
			"interval": span(&c.Interval, shortest), "timeout": span(&c.Timeout, shortest), "grace": span(&c.Grace, 0),
			"healthy": count(&c.Healthy), "unhealthy": count(&c.Unhealthy),
		}[key]
		switch {
		case set == nil && strings.HasPrefix(text, string(Command)+":"):
			return text, nil
		case set == nil:
			return "", fmt.Errorf("option %q: allowed is %s", key, form)
		case seen[key]:
			return "", fmt.Errorf("option %s is given twice", key)
		}
		if err := set(value); err != nil {
			return "", fmt.Errorf("option %q: %w", text[comma+1:], err)
		}
		seen[key] = true
		text = text[:comma]
	}
}

func span(to *time.Duration, least time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > longest {
			return fmt.Errorf("%s to %s are allowed, such as 5s", least, longest)
		}
		*to = d
		return nil
	}
}

func count(to *int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostRows {
			return fmt.Errorf("1 to %d are allowed", mostRows)
		}
		*to = n
		return nil
	}
}

func (c *Check) readTarget(text string) error {
	kind, target, _ := strings.Cut(text, ":")
	c.Kind = Kind(kind)
	if c.Kind == Command {
		if c.Command = strings.Fields(target); len(c.Command) == 0 {
			return errors.New("it has no command: command:COMMAND [ARG] is allowed")
		}
		return nil
	}
	if !slices.Contains([]Kind{TCP, HTTP, HTTPS, GRPC}, c.Kind) {
		return fmt.Errorf("allowed is %s", form)
	}
	number, path, more := strings.Cut(target, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("port %q: 1 to 65535 are allowed", number)
	}
	c.Port = uint16(port)
	switch {
	case c.Kind == TCP && more:
		return errors.New("a TCP check has no path; write tcp:PORT")
	case c.Kind == GRPC:
		c.Service = path
	case c.Kind != TCP:
		c.Path = "/" + path
	}
	return nil
}
