package store

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/store/memstore"
)

// A campaign that the store denies goes on at a slower and slower pace, and says so once for each cause.
func TestCampaignDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.server.Client()
		defer c.Close()
		var log bytes.Buffer
		s := New(c, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		defer s.Close()
		full, away := memstore.Full, memstore.Unavailable
		c.FailTxns(full, full, full, full, full, full, full, full, away, away)
		start := time.Now()
		l := lead(t, s, "s1")
		// 0.1, 0.2, 0.4, 0.8, 1.6 and 3.2 s, then four times 5 s.
		if took, want := time.Since(start), 26300*time.Millisecond; took != want {
			t.Errorf("elected after %s, want %s", took, want)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines for 2 causes:\n%s", n, log.String())
		}
		if err := l.Resign(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
