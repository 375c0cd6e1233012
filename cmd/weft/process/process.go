// SPDX-License-Identifier: Apache-2.0

// Package process is what every daemon of Weft has around its rooms: a log, the cluster's secret,
// and metrics. It knows none of the rooms.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// minSecret is the least length of a cluster's secret, bytes.
const minSecret = 16

// Log returns a daemon's log.
func Log(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// Secrets reads the cluster's secrets from a file, one a line: the first is shown, all are accepted; nil without a file.
func Secrets(path string) (secrets [][]byte, err error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's secret: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		secret := strings.TrimSpace(line)
		if secret == "" {
			continue
		}
		if len(secret) < minSecret {
			return nil, fmt.Errorf("a secret in %s has %d bytes: %d or more are allowed, one secret a line", path, len(secret), minSecret)
		}
		secrets = append(secrets, []byte(secret))
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("secret in %s has 0 bytes: %d or more are allowed", path, minSecret)
	}
	return secrets, nil
}

// First returns the secret that is shown, and the others; nil when there are none.
func First(secrets [][]byte) (shown []byte, others [][]byte) {
	if len(secrets) == 0 {
		return nil, nil
	}
	return secrets[0], secrets[1:]
}

// Send is given to whoever reports metrics: name without the prefix weft_, and labels as pairs of
// name and value.
type Send func(name, help string, kind prometheus.ValueType, value float64, labels ...string)

// ServeMetrics answers Prometheus at addr until ctx ends; report is called for each question. Without
// addr it does nothing.
func ServeMetrics(ctx context.Context, addr string, report func(Send)) error {
	if addr == "" {
		return nil
	}
	page, err := Metrics(report)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", page)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is lost: readers come again
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Metrics returns the page that Prometheus reads; report is called for each request.
func Metrics(report func(Send)) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collector(report), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), nil
}

// collector asks for metrics when Prometheus does.
type collector func(Send)

// Describe implements prometheus.Collector: what is collected is not known beforehand.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	c(func(name, help string, kind prometheus.ValueType, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		m, err := prometheus.NewConstMetric(prometheus.NewDesc("weft_"+name, help, names, nil), kind, value, values...)
		if err != nil {
			m = prometheus.NewInvalidMetric(prometheus.NewDesc("weft_"+name, help, nil, nil), err)
		}
		out <- m
	})
}
