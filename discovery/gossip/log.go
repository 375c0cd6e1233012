// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"sync/atomic"
)

// logWriter takes the lines of serf and memberlist, "DATE TIME [ERR] memberlist: text", apart: the
// level out of the text, the library as a fact. Their ERR is a packet that went wrong, nothing to
// act upon.
type logWriter struct {
	log   *slog.Logger
	muted atomic.Bool
}

// mute ends the log: what is said during a shutdown is about the shutdown.
func (w *logWriter) mute() { w.muted.Store(true) }

// Write takes one line.
func (w *logWriter) Write(line []byte) (int, error) {
	if w.muted.Load() {
		return len(line), nil
	}
	level, library, text := parseLine(line)
	w.log.Log(context.Background(), level, "gossip library", "library", library, "text", text)
	return len(line), nil
}

// parseLine takes "DATE TIME [LEVEL] library: text" apart; what has another form is all text, at
// Debug.
func parseLine(line []byte) (level slog.Level, library, text string) {
	rest := bytes.TrimSpace(line)
	level = slog.LevelDebug
	const stamp = len("2006/01/02 15:04:05 ")
	if len(rest) > stamp && rest[4] == '/' && rest[stamp-1] == ' ' {
		rest = rest[stamp:]
	}
	if word, after, ok := bytes.Cut(rest, []byte("] ")); ok && bytes.HasPrefix(word, []byte("[")) {
		switch string(word[1:]) {
		case "ERR", "ERROR", "WARN":
			level = slog.LevelWarn
		}
		rest = after
	}
	if word, after, ok := bytes.Cut(rest, []byte(": ")); ok && !bytes.ContainsAny(word, " \t") {
		return level, string(word), string(after)
	}
	return level, "", string(rest)
}
