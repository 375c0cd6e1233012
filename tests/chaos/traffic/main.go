// SPDX-License-Identifier: Apache-2.0

// Command traffic is one end of what tests/chaos sends through a network: datagrams with numbers, connections at a
// rate, and a connection that is held. What happens meanwhile, and what the numbers mean, it leaves to the test.
//
//	traffic serve                             datagrams and connections at ports 9000 and 9001, both families
//	traffic send -flow 7 -rate 25000 ADDR     numbered datagrams; prints a sent
//	traffic connect -rate 500 ADDR:PORT       connects, asks, closes; prints a connects
//	traffic hold ADDR:PORT                    asks all the time over one connection
//	traffic get URL                           prints what a web server answers
//
// serve and hold answer each line on standard input with one line of JSON; all end with their standard input.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// Ports of serve.
const (
	datagramPort = 9000
	streamPort   = 9001
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: traffic serve|send|connect|hold|get [flags] [ADDR]")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flow := flags.Uint("flow", 0, "number of the flow")
	rate := flags.Int("rate", 1000, "datagrams or connections a second")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	verb, rest := args[0], flags.Args()
	switch {
	case verb == "serve" && len(rest) == 0:
		return serve(in, out)
	case verb == "send" && len(rest) == 1:
		to, err := netip.ParseAddr(rest[0])
		if err != nil {
			return err
		}
		s, err := send(netip.AddrPortFrom(to, datagramPort), uint32(*flow), *rate, closed(in))
		return errors.Join(err, json.NewEncoder(out).Encode(s))
	case verb == "connect" && len(rest) == 1:
		return json.NewEncoder(out).Encode(connect(rest[0], *rate, closed(in)))
	case verb == "hold" && len(rest) == 1:
		return hold(rest[0], in, out)
	case verb == "get" && len(rest) == 1:
		return get(out, rest[0])
	}
	return fmt.Errorf("wrong arguments: %s", strings.Join(args, " "))
}

// closed returns what is closed when in ends.
func closed(in io.Reader) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = io.Copy(io.Discard, in) // an error ends it as well
	}()
	return over
}

func over(end <-chan struct{}) bool {
	select {
	case <-end:
		return true
	default:
		return false
	}
}

func get(out io.Writer, url string) error {
	response, err := (&http.Client{Timeout: patience}).Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(out, response.Body)
	return err
}

// answer writes what report returns for each line of in.
func answer(in io.Reader, out io.Writer, report func() any) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := json.NewEncoder(out).Encode(report()); err != nil {
			return err
		}
	}
	return lines.Err()
}
