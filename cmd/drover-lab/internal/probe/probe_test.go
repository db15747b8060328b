package probe

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const hello = "[ 0.1] Linux... booting v6.1\r\n\nB 1-2\n..\nR 100\n"

func TestParser(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   string
		want Tally
	}{
		{"boot", hello, Tally{Beats: 2, Boots: 1}},
		{"samples", "\nW 1 100 500 0 -1\n....\nW 2 200 1000 0 -1\n.", Tally{Beats: 5, Samples: 2, Last: Sample{2, 200 * time.Millisecond, 1000, 0, -1}}},
		{"corruption after boot counts", hello + "W 1 100 5 3 0\n", Tally{Beats: 2, Boots: 1, Samples: 1, Mismatches: 3, Last: Sample{1, 100 * time.Millisecond, 5, 3, 0}}},
		{"corruption from before the start does not", "W 7 700 5 3 0\nW 8 800 6 5 0\n", Tally{Samples: 2, Mismatches: 2, Last: Sample{8, 800 * time.Millisecond, 6, 5, 0}}},
		{"two copies", "W 7 700 5 0 0\nW 8 800 6 0 0\nW 8 800 6 0 0\nW 9 900 7 0 0\n", Tally{Samples: 4, Duplicates: 1, Last: Sample{9, 900 * time.Millisecond, 7, 0, 0}}},
		{"a reboot begins again", "W 7 700 5 0 0\n\nB x\nW 1 100 1 0 0\n", Tally{Samples: 2, Boots: 1, Last: Sample{1, 100 * time.Millisecond, 1, 0, 0}}},
		{"disk errors and panic", "\nD 4 write: no\nKernel panic - not syncing: x\n", Tally{DiskErrors: 1, Panicked: true}},
		{"rubbish", "W 1 2\nW a b c d e\nX\nB\n W 1 1 1 1 1\n", Tally{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Parser
			p.Feed([]byte(tc.in))
			if diff := cmp.Diff(tc.want, p.Tally); diff != "" {
				t.Errorf("tally (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParserDoesNotCareAboutPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune(".\nWBDX 0123-")), 0, 300, -1).Draw(t, "text")
		var whole, pieces Parser
		want := whole.Feed([]byte(text))
		var got []Sample
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			got = append(got, pieces.Feed([]byte(rest[:n]))...)
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("samples depend on pieces:\n%s", diff)
		}
		if diff := cmp.Diff(whole.Tally, pieces.Tally); diff != "" {
			t.Fatalf("tally depends on pieces:\n%s", diff)
		}
	})
}

// output is what a guest says between two moments of its own clock, at 1,000 pages per second.
func output(from, to time.Duration) []tick {
	var all []tick
	for at := from; at < to; at += 5 * time.Millisecond {
		text := "."
		if at%(100*time.Millisecond) == 0 {
			text = fmt.Sprintf(".\nW %d %d %d 0 -1\n", at/(100*time.Millisecond), at.Milliseconds(), at.Milliseconds())
		}
		all = append(all, tick{at, text})
	}
	return all
}

type tick struct {
	at   time.Duration
	text string
}

func TestBeatsPartALine(t *testing.T) {
	var p Parser
	got := p.Feed([]byte(".\n.W 7 .12.00 3.40 0 -.1\n[ 1.5] usb 1-1: new.\nW. 8 1300 441 0 -1.\nD. 12 lost\n[ 1.6] Kernel pan.ic\n"))
	want := []Sample{
		{Seq: 7, GuestTime: 1200 * time.Millisecond, Work: 340, Disk: -1},
		{Seq: 8, GuestTime: 1300 * time.Millisecond, Work: 441, Disk: -1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if tl := p.Tally; tl.Beats != 8 || tl.DiskErrors != 1 || !tl.Panicked {
		t.Errorf("%+v, want 8 beats, a disk error and a panic", tl)
	}
}

func TestAnalysisOfAPause(t *testing.T) {
	var history strings.Builder
	for _, o := range output(time.Second, 5*time.Second) {
		history.WriteString(o.text)
	}
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := NewAnalysis(begin, []byte(history.String()), history.Len())
	const pause = 300 * time.Millisecond
	// The guest's clock stands still in the pause: it says after it what it would have said without.
	for _, o := range output(5*time.Second, 7*time.Second) {
		at := begin.Add(o.at - 5*time.Second)
		if o.at > 6*time.Second {
			at = at.Add(pause)
		}
		a.Grow(at, []byte(o.text))
	}
	r := a.Report(begin.Add(2*time.Second + pause))
	if r.SilenceMS != 305 || r.SilenceAfter != 1 {
		t.Errorf("silence %v ms after %v s, want 305 ms after 1 s", r.SilenceMS, r.SilenceAfter)
	}
	if len(r.Silences) != 1 {
		t.Errorf("listed silences: %v, want one", r.Silences)
	}
	if r.WorkRate != 1000 || math.Abs(r.WorkLost-pause.Seconds()) > 0.001 {
		t.Errorf("lost %v s of work at %v pages/s, want %v s at 1000", r.WorkLost, r.WorkRate, pause.Seconds())
	}
	if r.Beats != 400 || !r.Alive || !r.Intact() {
		t.Errorf("beats %d, alive %v, intact %v, want 400, true, true", r.Beats, r.Alive, r.Intact())
	}
}

func TestAnalysisOfADeadGuest(t *testing.T) {
	begin := time.Now()
	a := NewAnalysis(begin, nil, 0)
	a.Grow(begin.Add(time.Second), []byte("."))
	r := a.Report(begin.Add(4 * time.Second))
	if r.Alive || r.SilenceMS != 3000 || r.SilenceAfter != 1 {
		t.Errorf("alive %v, silence %v ms after %v s, want false, 3000, 1", r.Alive, r.SilenceMS, r.SilenceAfter)
	}
	if r := NewAnalysis(begin, []byte("...."), 4).Report(begin.Add(time.Millisecond)); r.Alive {
		t.Error("a guest that said nothing since the beginning counts as alive")
	}
}

func TestHistoryCountsFromTheMark(t *testing.T) {
	history := "\nB x\nW 1 100 100 1 -1\n\nD 1 bad\nW 2 200 200 3 -1\n"
	mark := strings.Index(history, "\nD")
	now := time.Now()
	r := NewAnalysis(now, []byte(history), mark).Report(now)
	if r.Mismatches != 2 || r.DiskErrors != 1 || r.Reboots != 0 || r.MismatchesTotal != 3 {
		t.Errorf("since the mark: %d mismatches, %d disk errors, %d reboots, total %d; want 2, 1, 0, 3",
			r.Mismatches, r.DiskErrors, r.Reboots, r.MismatchesTotal)
	}
	r = NewAnalysis(now, []byte(history), 0).Report(now)
	if r.Mismatches != 3 || r.Reboots != 1 {
		t.Errorf("from the beginning: %d mismatches, %d boots; want 3, 1", r.Mismatches, r.Reboots)
	}
}

func TestRunFollowsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		for range 20 {
			time.Sleep(10 * time.Millisecond)
			if err == nil {
				_, err = f.WriteString(".")
			}
		}
		f.Close()
		done <- err
	}()
	r, err := Run(ctx, path, Options{Since: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r.Beats != 20 || r.Mark != 27 {
		t.Errorf("beats %d, mark %d, want 20, 27", r.Beats, r.Mark)
	}
}
