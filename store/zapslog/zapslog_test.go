package zapslog

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestLevelsAndFields(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	z := New(log, slog.LevelWarn).With(zap.String("member", "m1"))
	z.Info("not passed on")
	z.Warn("slow", zap.Int("took", 3), zap.Error(errors.New("boom")), zap.Strings("urls", []string{"a", "b"}))

	got := buf.String()
	if strings.Contains(got, "not passed on") {
		t.Errorf("info entry passed a warn logger: %s", got)
	}
	for _, want := range []string{"level=WARN", "msg=slow", "member=m1", "took=3", "err=boom", `urls="[a b]"`} {
		if !strings.Contains(got, want) {
			t.Errorf("log %q lacks %q", got, want)
		}
	}
}

func TestHandlerLevelWins(t *testing.T) {
	var buf bytes.Buffer
	z := New(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelError})), slog.LevelDebug)
	z.Warn("quiet")
	if buf.Len() != 0 {
		t.Errorf("wrote %q below the handler's level", buf.String())
	}
}

// A new member of etcd complains of what is not so: that is no error for whoever reads drover's log.
func TestOrdinaryLifeIsNoError(t *testing.T) {
	var buf bytes.Buffer
	z := New(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})), slog.LevelWarn)
	z.Error("failed to update storage version", zap.Error(errors.New("missing term information")))
	if buf.Len() != 0 {
		t.Errorf("wrote %q", buf.String())
	}
	z.Error("failed to write")
	if !strings.Contains(buf.String(), "level=ERROR") {
		t.Errorf("left out a real error: %q", buf.String())
	}
}
