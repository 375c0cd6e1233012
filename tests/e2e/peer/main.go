// SPDX-License-Identifier: Apache-2.0

// Command peer is what the story tests run as tasks: servers that say who they are and whom they
// see, clients that ask them, and a sender and a sink that count numbered packets.
//
//	peer serve -name web1 -tcp 8080 -udp 8080     answers "web1 CLIENT-ADDRESS"; "tell", by TCP, is answered to all who said "hold", too
//	peer ask -n 30 tcp NAME:80                     prints each answer; exit 1 when one is missing
//	peer asks tcp/ADDR:80 udp/ADDR:80 ...          asks all at once, once each; prints an answer or "! WHY" for each
//	peer sink -udp 9000                            counts numbered packets
//	peer stream -rate 20000 -for 15s ADDR:9000     sends them; prints sent, received, lost as JSON
//	peer connects -for 15s ADDR:80                 connects in a loop; prints done and failed as JSON
//	peer resolve -n 100 NAME                       looks a name up by Go's resolver; prints addresses, and the slowest
//	peer get http://127.0.0.1:7780/metrics         prints what a web server answers
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: peer serve|ask|asks|sink|stream|connects|resolve|get [flags]")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	name := flags.String("name", "peer", "who answers")
	tcp := flags.Int("tcp", 0, "TCP port to serve")
	udp := flags.Int("udp", 0, "UDP port to serve")
	n := flags.Int("n", 1, "questions")
	rate := flags.Int("rate", 1000, "packets or connections a second")
	span := flags.Duration("for", 10*time.Second, "how long")
	patience := flags.Duration("timeout", time.Second, "how long to wait for one answer")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch rest := flags.Args(); {
	case args[0] == "serve":
		return serve(*name, *tcp, *udp)
	case args[0] == "ask" && len(rest) == 2:
		return ask(out, rest[0], rest[1], *n, *patience)
	case args[0] == "asks" && len(rest) > 0:
		return asks(out, rest, *patience)
	case args[0] == "sink":
		return sink(*udp)
	case args[0] == "stream" && len(rest) == 1:
		return stream(out, rest[0], *rate, *span)
	case args[0] == "resolve" && len(rest) == 1:
		return resolve(out, rest[0], *n, *patience)
	case args[0] == "get" && len(rest) == 1:
		return get(out, rest[0])
	case args[0] == "connects" && len(rest) == 1:
		return connects(out, rest[0], *rate, *span, *patience)
	}
	return fmt.Errorf("wrong arguments: %s", strings.Join(args, " "))
}

// resolve looks a name up n times as programs of Go without C do: A and AAAA at once, from two sockets. A
// question or an answer that is lost costs it five seconds.
func resolve(out io.Writer, name string, n int, patience time.Duration) error {
	r := net.Resolver{PreferGo: true}
	var slowest time.Duration
	for range n {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		addrs, err := r.LookupNetIP(ctx, "ip", name)
		cancel()
		if err != nil {
			return err
		}
		if took := time.Since(began); took > slowest {
			slowest = took
			fmt.Fprintln(out, addrs, took)
		}
	}
	return nil
}

// serve answers every line and datagram with who it is and whom it sees.
func serve(name string, tcp, udp int) error {
	failed := make(chan error, 2) // one per server
	config := new(net.ListenConfig)
	if tcp != 0 {
		l, err := config.Listen(context.Background(), "tcp", ":"+strconv.Itoa(tcp))
		if err != nil {
			return err
		}
		var held holders
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() {
					defer c.Close()
					for lines := bufio.NewScanner(c); lines.Scan(); {
						held.hear(c, lines.Text(), name)
						fmt.Fprintf(c, "%s %s\n", name, host(c.RemoteAddr()))
					}
				}()
			}
		}()
	}
	if udp != 0 {
		// One socket per family: an answer then leaves from the address that was asked.
		for _, network := range []string{"udp4", "udp6"} {
			c, err := config.ListenPacket(context.Background(), network, ":"+strconv.Itoa(udp))
			if err != nil {
				return err
			}
			go func() {
				buffer := make([]byte, 2048)
				for {
					_, from, err := c.ReadFrom(buffer)
					if err != nil {
						failed <- err
						return
					}
					_, _ = c.WriteTo(fmt.Appendf(nil, "%s %s\n", name, host(from)), from) // the asker waits and tells
				}
			}()
		}
	}
	return <-failed
}

// holders are connections that say nothing, but are told something when another one asks for it.
type holders struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (h *holders) hear(c net.Conn, line, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch line {
	case "hold":
		h.conns = append(h.conns, c)
	case "tell":
		for _, c := range h.conns {
			fmt.Fprintf(c, "%s %s\n", name, host(c.RemoteAddr()))
		}
	}
}

// host is an address without its port, IPv4 as such.
func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return strings.TrimPrefix(h, "::ffff:")
}

// ask puts n questions, each from a new socket, and prints the answers.
func ask(out io.Writer, network, addr string, n int, patience time.Duration) error {
	for i := range n {
		answer, err := question(network, addr, patience)
		if err != nil {
			return fmt.Errorf("question %d of %d: %w", i+1, n, err)
		}
		fmt.Fprintln(out, strings.TrimSpace(answer))
	}
	return nil
}

// asks puts each question from a socket of its own, and prints what came of them in their order.
func asks(out io.Writer, questions []string, patience time.Duration) error {
	answers := make([]string, len(questions))
	var all sync.WaitGroup
	for i, q := range questions {
		all.Go(func() {
			network, addr, _ := strings.Cut(q, "/")
			answer, err := question(network, addr, patience)
			if answers[i] = strings.TrimSpace(answer); err != nil {
				answers[i] = "! " + err.Error()
			}
		})
	}
	all.Wait()
	_, err := fmt.Fprintln(out, strings.Join(answers, "\n"))
	return err
}

func question(network, addr string, patience time.Duration) (string, error) {
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("who\n")); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

// A numbered packet is its number (8 bytes, big endian). Two numbers are questions: how many came, and that with all
// forgotten first.
const (
	report = ^uint64(0)
	begin  = report - 1
)

func sink(port int) error {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		}), err)
	}}
	c, err := config.ListenPacket(context.Background(), "udp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	seen := make(map[uint64]bool)
	buffer := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if n < 8 {
			continue
		}
		switch number := binary.BigEndian.Uint64(buffer); number {
		case report:
		case begin:
			clear(seen)
		default:
			seen[number] = true
			continue
		}
		if _, err := c.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(len(seen))), from); err != nil {
			return err
		}
	}
}

// count is what stream and connects print.
type count struct {
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	Lost     int     `json:"lost"`
	Rate     float64 `json:"rate"` // per second, as reached
}

// stream waits for a sink, prints a line, sends numbered packets at rate, then asks how many came.
func stream(out io.Writer, addr string, rate int, span time.Duration) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := awaitSink(c); err != nil {
		return err
	}
	fmt.Fprintln(out, "streams")
	began := time.Now()
	sent, refused := 0, 0
	packet := make([]byte, 64)
	for time.Since(began) < span {
		// As many as are due by now, so that a late wake-up does not lower the rate.
		for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
			binary.BigEndian.PutUint64(packet, uint64(sent))
			if _, err := c.Write(packet); err != nil {
				refused++
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
	elapsed := time.Since(began).Seconds()
	received, err := askReport(c)
	if err != nil {
		return err
	}
	if refused > 0 {
		fmt.Fprintf(os.Stderr, "peer: the kernel refused %d packets\n", refused)
	}
	return json.NewEncoder(out).Encode(count{Sent: sent, Received: received, Lost: sent - received, Rate: float64(sent) / elapsed})
}

// awaitSink waits until the sink listens and has forgotten earlier streams: it may have been started at the same time, and
// what comes before is lost to nobody's fault.
func awaitSink(c net.Conn) error {
	var err error
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
		if _, err = askSink(c, begin, 100*time.Millisecond); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the sink does not answer: %w", err)
}

// askReport asks until the sink's count stands still: packets may be on their way.
func askReport(c net.Conn) (int, error) {
	last := -1
	for range 20 {
		n, err := askSink(c, report, time.Second)
		if err != nil {
			continue
		}
		if n == last {
			return n, nil
		}
		last = n
		time.Sleep(50 * time.Millisecond)
	}
	return 0, errors.New("the sink does not answer")
}

func askSink(c net.Conn, question uint64, patience time.Duration) (int, error) {
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, question)); err != nil {
		return 0, err // of the question before: nobody listens
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	answer := make([]byte, 8)
	if _, err := io.ReadFull(c, answer); err != nil {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(answer)), nil
}

// connects opens a connection, asks and closes it, in a loop.
func connects(out io.Writer, addr string, rate int, span, patience time.Duration) error {
	began := time.Now()
	var c count
	for tick := time.NewTicker(time.Second / time.Duration(rate)); time.Since(began) < span; <-tick.C {
		c.Sent++
		if _, err := question("tcp", addr, patience); err != nil {
			fmt.Fprintln(os.Stderr, "peer:", time.Since(began).Round(time.Millisecond), err)
			c.Lost++
			continue
		}
		c.Received++
	}
	c.Rate = float64(c.Sent) / time.Since(began).Seconds()
	return json.NewEncoder(out).Encode(c)
}

func get(out io.Writer, url string) error {
	answer, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err = io.Copy(out, answer.Body); err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return err
}
