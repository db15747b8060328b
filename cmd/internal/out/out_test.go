package out

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/hypervisor"
	"drover/precopy"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPrint(t *testing.T) {
	value := []struct {
		Name string `json:"name"`
		N    int    `json:"n"`
	}{{"kvm1", 1}, {"kvm\x1b[2J", 2}}
	table := func() Table {
		t := Table{Head: []string{"HOST", "NOTE", "N"}}
		for _, v := range value {
			t.Add(v.Name, "", strconv.Itoa(v.N))
		}
		return t
	}
	tests := []struct {
		format Format
		want   string
	}{
		{AsTable, "HOST     NOTE  N\nkvm1     -     1\nkvm?[2J  -     2\n"},
		{AsJSON, "[\n  {\n    \"name\": \"kvm1\",\n    \"n\": 1\n  },\n  {\n    \"name\": \"kvm\\u001b[2J\",\n    \"n\": 2\n  }\n]\n"},
		{AsYAML, "- \"n\": 1\n  name: kvm1\n- \"n\": 2\n  name: \"kvm\\e[2J\"\n"},
	}
	for _, tt := range tests {
		t.Run(string(tt.format), func(t *testing.T) {
			var b bytes.Buffer
			if err := tt.format.Print(&b, value, table); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableNone(t *testing.T) {
	var b bytes.Buffer
	if err := (Table{Head: []string{"HOST"}, None: "no hosts"}).Write(&b); err != nil || b.String() != "no hosts\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestParseFormat(t *testing.T) {
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("xml was taken")
	}
	if f, err := ParseFormat("yaml"); err != nil || f != AsYAML {
		t.Errorf("yaml: %v, %v", f, err)
	}
}

func TestSpan(t *testing.T) {
	tests := map[time.Duration]string{
		0: "0 ms", 850 * time.Millisecond: "850 ms", 9990 * time.Millisecond: "9.9 s", 12 * time.Second: "12 s",
		185 * time.Second: "3 min 5 s", 130 * time.Minute: "2 h 10 min", 100 * time.Hour: "4 d", -time.Second: "-1.0 s",
	}
	for d, want := range tests {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
}

// Elsewhere than on a terminal, a watch writes only what changed.
func TestWatchAppendsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer cancel()
		var b bytes.Buffer
		n := 0
		err := Watch(ctx, &b, time.Second, func(_ context.Context, w io.Writer) error {
			n++
			_, err := fmt.Fprintln(w, n/5)
			return err
		})
		if err != nil || b.String() != "0\n1\n2\n" {
			t.Errorf("wrote %q, err %v; want each value once", b.String(), err)
		}
	})
}

func TestWatchError(t *testing.T) {
	broken := errors.New("broken")
	err := Watch(t.Context(), io.Discard, time.Second, func(context.Context, io.Writer) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want the one of render", err)
	}
}

func TestProgressPlainLines(t *testing.T) {
	var b bytes.Buffer
	g := NewProgress(&b)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	m := precopy.Migration{Phase: precopy.Queued, Created: start}
	g.Show(start, m, nil)
	m.Phase = precopy.Copying
	p := precopy.Progress{
		Elapsed: 2 * time.Second, Total: 200 * hypervisor.MiB, Processed: 100 * hypervisor.MiB, Remaining: 100 * hypervisor.MiB,
		Rate: hypervisor.BytesPerSecond(50 * hypervisor.MiB), Round: 1, ETA: 2 * time.Second, Why: "first pass over memory",
	}
	for i := range 5 {
		g.Show(start.Add(time.Duration(2+i)*time.Second), m, &p) // the same numbers again and again
	}
	p.Elapsed, p.Round, p.ETA, p.Why = 7*time.Second, 3, -1, "memory is rewritten as fast as it is sent"
	p.Remaining, p.Downtime, p.DirtyRate = 50*hypervisor.MiB, 500*time.Millisecond, p.Rate
	p.Throttle = 20
	g.Show(start.Add(7*time.Second), m, &p)
	g.Show(start.Add(7500*time.Millisecond), m, &p) // too soon
	m.Phase, m.Reason = precopy.Done, "moved to kvm2"
	g.Show(start.Add(15*time.Second), m, &p)
	want := `queued      0 %  0 ms
copying    40 %  2.0 s  ETA 2.0 s  100 MiB  50 MiB/s  round 1: first pass over memory
copying    89 %  7.0 s  no end in sight yet  100 MiB  50 MiB/s  round 3  dirty 50 MiB/s  throttled 20 %: memory is rewritten as fast as it is sent
done      100 %  15 s: moved to kvm2
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestProgressSaysThePhase: what the numbers were said with before a change of phase is no longer true after it, and
// what is said of the new phase is not kept back for as long as lines were apart by then.
func TestProgressSaysThePhase(t *testing.T) {
	var b bytes.Buffer
	g := NewProgress(&b)
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	m := precopy.Migration{Phase: precopy.Copying, Created: start, Reason: "memory is being copied"}
	p := precopy.Progress{Total: 200 * hypervisor.MiB, Round: 7, Why: "waiting for a dip"}
	at := func(s float64) {
		p.Elapsed = time.Duration(s * float64(time.Second))
		g.Show(start.Add(p.Elapsed), m, &p)
	}
	at(0)
	at(60)
	m.Phase, m.Reason = precopy.Postcopy, "the guest runs on kvm2"
	at(61)
	p.Why = "the guest runs on kvm2, the rest follows"
	at(62)
	want := `copying    80 %  0 ms  0 B  0 B/s  round 7: waiting for a dip
copying    80 %  1 min 0 s  0 B  0 B/s  round 7: waiting for a dip
postcopy   99 %  1 min 1 s  0 B  0 B/s  round 7: the guest runs on kvm2
postcopy   99 %  1 min 2 s  0 B  0 B/s  round 7: the guest runs on kvm2, the rest follows
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A migration that does not converge stands still, however much it sends.
// In the first pass the forecast knows of the passes that follow, the job does not.
func TestETA(t *testing.T) {
	f := &precopy.Forecast{Seconds: 60}
	tests := []struct {
		name     string
		forecast *precopy.Forecast
		p        *precopy.Progress
		want     string
	}{
		{"not begun", f, nil, ""},
		{"first pass", f, &precopy.Progress{Round: 1, Elapsed: 20 * time.Second, ETA: 5 * time.Second}, "ETA 40 s"},
		{"first pass, nothing known of the link yet", f, &precopy.Progress{Elapsed: 20 * time.Second}, "ETA 40 s"},
		{"first pass, slower than thought", f, &precopy.Progress{Round: 1, Elapsed: 20 * time.Second, ETA: 50 * time.Second}, "ETA 50 s"},
		{"first pass, longer than thought", f, &precopy.Progress{Round: 1, Elapsed: 70 * time.Second, ETA: 5 * time.Second}, "ETA 5.0 s"},
		{"no end was expected", &precopy.Forecast{Seconds: 60, Unlikely: "why"}, &precopy.Progress{Round: 1, ETA: 5 * time.Second}, "ETA 5.0 s"},
		{"later", f, &precopy.Progress{Round: 2, Elapsed: 20 * time.Second, ETA: 5 * time.Second}, "ETA 5.0 s"},
		{"never forecast", nil, &precopy.Progress{Round: 1, ETA: 5 * time.Second}, "ETA 5.0 s"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := eta(precopy.Migration{Forecast: tc.forecast}, tc.p); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestProgressStall(t *testing.T) {
	g := NewProgress(io.Discard)
	for i := range 1000 {
		g.Show(time.Unix(int64(i), 0), precopy.Migration{Phase: precopy.Copying}, &precopy.Progress{
			Total: hypervisor.GiB, Processed: hypervisor.GiB * hypervisor.Bytes(i+1), Round: 2 + i/3,
			// Each pass starts with 100 MiB left and goes down to 1.
			Remaining: []hypervisor.Bytes{100 * hypervisor.MiB, 50 * hypervisor.MiB, hypervisor.MiB}[i%3],
			Rate:      hypervisor.BytesPerSecond(10 * hypervisor.MiB), Downtime: time.Second,
		})
	}
	if g.percent() != 81 {
		t.Errorf("%d %%, want 81: a tenth of what is left fits into the pause", g.percent())
	}
}

func TestProgressPostCopy(t *testing.T) {
	g := NewProgress(io.Discard)
	show := func(phase precopy.Phase, left hypervisor.Bytes) int {
		g.Show(time.Unix(0, 0), precopy.Migration{Phase: phase}, &precopy.Progress{Total: 100, Remaining: left, Round: 3, Rate: 1, Downtime: time.Millisecond})
		return g.percent()
	}
	if before, begun, near := show(precopy.Copying, 60), show(precopy.Postcopy, 15), show(precopy.Postcopy, 5); before != 80 || begun != 85 || near != 95 {
		t.Errorf("%d %%, %d %%, %d %%; want 80 before post-copy, then what has come", before, begun, near)
	}
}

// Whatever the numbers do, the share shown never falls, and is 100 % only once done.
func TestProgressNeverRunsBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bytes.Buffer
		g := NewProgress(&b)
		now := time.Unix(0, 0)
		last := 0
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = now.Add(plainLast)
			b.Reset()
			p := &precopy.Progress{
				Total:     hypervisor.Bytes(rapid.Int64Range(-1, 1<<50).Draw(t, "total")),
				Processed: hypervisor.Bytes(rapid.Int64Range(-1, 1<<50).Draw(t, "processed")),
				Remaining: hypervisor.Bytes(rapid.Int64Range(-1, 1<<50).Draw(t, "remaining")),
				Rate:      hypervisor.BytesPerSecond(rapid.Int64Range(-1, 1<<40).Draw(t, "rate")),
				Round:     rapid.IntRange(0, 9).Draw(t, "round"),
				Downtime:  time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "downtime")),
				ETA:       time.Duration(rapid.Int64Range(-1, 1<<50).Draw(t, "eta")),
			}
			phase := rapid.SampledFrom(precopy.Phases()).Filter(func(p precopy.Phase) bool { return p != precopy.Done }).Draw(t, "phase")
			g.Show(now, precopy.Migration{Phase: phase}, p)
			if got := g.percent(); got < last || got > 99 {
				t.Fatalf("%d %% after %d %%: %s", got, last, b.String())
			} else if text := b.String(); text != "" && !strings.Contains(text, fmt.Sprintf("%3d %%", got)) {
				t.Fatalf("%d %% is shown as %q", got, text)
			}
			last = g.percent()
		}
	})
}

func TestProgressBar(t *testing.T) {
	var b bytes.Buffer
	g := &Progress{w: &b, width: 60, redraw: true}
	m := precopy.Migration{Phase: precopy.Copying}
	p := &precopy.Progress{Total: 8 * hypervisor.GiB, Remaining: 3 * hypervisor.GiB, Why: strings.Repeat("slow ", 40)}
	g.Show(time.Unix(0, 0), m, p)
	for _, line := range strings.Split(b.String(), "\n") {
		if len(line) > 59 {
			t.Errorf("line of %d columns on a terminal of 60: %q", len(line), line)
		}
	}
	if !strings.Contains(b.String(), "[############------------]") {
		t.Errorf("no half-full bar in %q", b.String())
	}
	b.Reset()
	g.Close()
	if b.String() != "\x1b[3A\r\x1b[J" {
		t.Errorf("Close wrote %q", b.String())
	}
}
