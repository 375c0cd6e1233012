// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands what the store says to our logger, one level lower than it says it: what it calls
// Info is of use to somebody who looks for a fault in the store itself.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log.WithGroup("store")})
}

// bridge is a zapcore.Core over slog.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (b *bridge) level(level zapcore.Level) slog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return slog.LevelWarn
	case level >= zapcore.WarnLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.LevelEnabler.
func (b *bridge) Enabled(level zapcore.Level) bool {
	return b.log.Enabled(context.Background(), b.level(level))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(slices.Clip(b.fields), fields...)}
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range b.fields {
		f.AddTo(encoder)
	}
	for _, f := range fields {
		f.AddTo(encoder)
	}
	// The words are the store's own, so they are a fact here, not our message.
	attrs := []slog.Attr{slog.String("says", e.Message)}
	if len(encoder.Fields) > 0 {
		attrs = append(attrs, slog.Any("facts", encoder.Fields))
	}
	b.log.LogAttrs(context.Background(), b.level(e.Level), "store", attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }
