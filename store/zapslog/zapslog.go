// Package zapslog lets etcd's libraries, which log through zap, log into drover's slog logger.
//
// etcd is talkative: it reports at info what matters to nobody else, so [New] takes the lowest level
// that is passed on. What it logs at warn is often part of ordinary life (a retried request), so
// callers that have better words of their own pass slog.LevelError.
package zapslog

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a zap logger that writes into log what is at level, which may change, or above. The logger
// is safe for concurrent use. Options may add hooks, for example for fatal entries.
func New(log *slog.Logger, level slog.Leveler, opts ...zap.Option) *zap.Logger {
	return zap.New(&core{handler: log.Handler(), level: level}, opts...)
}

// core is a zapcore.Core on a slog.Handler.
type core struct {
	handler slog.Handler
	level   slog.Leveler
}

func toSlog(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled implements zapcore.Core.
func (c *core) Enabled(l zapcore.Level) bool {
	return toSlog(l) >= c.level.Level() && c.handler.Enabled(context.Background(), toSlog(l))
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{handler: c.handler.WithAttrs(attrs(fields)), level: c.level}
}

// ordinary are entries that etcd calls errors and that are none. A new member notes the version of its storage
// within seconds of its start: before its first entries are on disk it can't, and it tries again every few
// seconds. Only a downgrade of etcd ever looks at that version.
var ordinary = map[string]bool{"failed to update storage version": true}

// levelOf is the level at which an entry is passed on.
func levelOf(e zapcore.Entry) zapcore.Level {
	if ordinary[e.Message] {
		return zapcore.DebugLevel
	}
	return e.Level
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(levelOf(e)) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, toSlog(levelOf(e)), e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), r)
}

// Sync implements zapcore.Core; slog handlers don't buffer.
func (c *core) Sync() error { return nil }

// attrs turns zap's fields into slog's, by way of zap's own map encoder, which knows all of its
// field types.
func attrs(fields []zapcore.Field) []slog.Attr {
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			key := f.Key
			if key == "error" {
				key = "err"
			}
			out = append(out, slog.Any(key, v))
		}
	}
	return out
}
