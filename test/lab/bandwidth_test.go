//go:build bench

package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/precopy"
)

// greedy is a guest that converges within its promise only with more than half of a 400 Mbit/s link: it dirties
// about 30 MiB/s, over a set that no pause takes.
var greedy = []string{"--memory", "512MiB", "--wss", "160MiB", "--rate", "8000", "--pattern", "page"}

// links begins a test on links of a rate that agents know of, shared as said.
func links(t *testing.T, rate, sharing string, out, in int) *Lab {
	t.Helper()
	l := begin(t, rate)
	l.Do(t, "drover", "stop")
	l.Do(t, "drover", "start")
	l.Ready(t)
	l.share(t, sharing, out, in)
	return l
}

// share applies a policy about the network.
func (l *Lab) share(t *testing.T, sharing string, out, in int) {
	t.Helper()
	text := fmt.Sprintf("schema: 1\ndefault: {max_pause: 150ms, max_pause_ceiling: 150ms, max_slowdown: 0%%}\nnetwork: {sharing: %s, limits: {streams_out: %d, streams_in: %d}}\n", sharing, out, in)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	l.MustDrover(t, "policy", "apply", path)
}

// use is how much of a host's link was used, by samples of its counters.
type use struct {
	mu      sync.Mutex
	at      []time.Time
	tx      []int64
	stopped chan struct{}
	done    chan struct{}
}

// watchUse samples what a host sends over the migration network until the returned function is called, which gives
// the most over any two seconds, in bytes per second.
func (l *Lab) watchUse(t *testing.T, host string) func() float64 {
	t.Helper()
	u := &use{stopped: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-u.stopped:
				return
			case <-tick.C:
			}
			var n struct {
				At      time.Time `json:"at"`
				TxBytes int64     `json:"tx_bytes"`
			}
			r := l.run(t.Context(), "drover-lab", "nic", host, "-o", "json")
			if r.Code == 0 && json.Unmarshal([]byte(r.Stdout), &n) == nil {
				u.at, u.tx = append(u.at, n.At), append(u.tx, n.TxBytes)
			}
		}
	}()
	return func() float64 {
		close(u.stopped)
		<-u.done
		most := 0.0
		for i := range u.at {
			for j := i + 1; j < len(u.at); j++ {
				if d := u.at[j].Sub(u.at[i]); d >= 2*time.Second {
					most = max(most, float64(u.tx[j]-u.tx[i])/d.Seconds())
					break
				}
			}
		}
		return most
	}
}

// Two guests leave one host over 400 Mbit/s, each of which needs more than half of it.
func TestTwoGuests(t *testing.T) {
	for _, sharing := range strings.Fields(cmp.Or(os.Getenv("DROVER_SHARING"), "live equal none")) {
		t.Run(sharing, func(t *testing.T) {
			l := links(t, "400mbit", sharing, 2, 2)
			for _, g := range []string{"two1", "two2"} {
				l.Guest(t, g, "kvm1", greedy...)
			}
			time.Sleep(25 * time.Second) // for samples of their dirty rates
			probes := map[string]*Probe{"two1": l.Probe(t, "two1"), "two2": l.Probe(t, "two2")}
			before, most := spareTicks(t), l.watchUse(t, "kvm1")
			began := time.Now()
			l.MustDrover(t, "migrate", "two1", "--to", "kvm2", "--deadline", "90s")
			l.MustDrover(t, "migrate", "two2", "--to", "kvm3", "--deadline", "90s")
			over := map[string]precopy.Migration{}
			shown := ""
			for len(over) < 2 && time.Since(began) < 3*time.Minute {
				time.Sleep(time.Second)
				r := l.Drover(t.Context(), "top", "--once")
				if r.Stdout != shown {
					shown = r.Stdout
					t.Logf("%5.1f s\n%s", time.Since(began).Seconds(), r.Stdout)
				}
				for g := range probes {
					if m := l.Last(t, g); m.Phase.Final() {
						over[g] = m
					}
				}
			}
			took, after, peak := time.Since(began), spareTicks(t), most()
			kept := 0
			for g, p := range probes {
				seen, m := p.Stop(t), over[g]
				promise, ended := m.Promise()
				good := ended && promise == precopy.PromiseKept
				if good {
					kept++
				}
				t.Logf("%s: %s %s: %s; promise %s; silence %.0f ms, mismatches %d, outcome %+v", g, m.Phase, m.ReasonCode, m.Reason, promise, seen.SilenceMS, seen.Mismatches, m.Outcome)
			}
			idle := 100 * float64(after[0]-before[0]) / float64(max(after[1]-before[1], 1))
			t.Logf("RESULT two guests, %s: %d of 2 within their promise, %.1f s, link at most %.1f MiB/s over 2 s, spare CPU %.0f %%", sharing, kept, took.Seconds(), peak/(1<<20), idle)
			if sharing == "live" && kept != 2 {
				t.Errorf("%d of 2 kept their promise", kept)
			}
		})
	}
}

// traffic is a tenant's traffic under way.
type traffic struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func (l *Lab) traffic(t *testing.T, from, to, rate string, span time.Duration) *traffic {
	t.Helper()
	tr := &traffic{cmd: exec.Command(filepath.Join(l.Build, "drover-lab"), "traffic", from, to, "--rate", rate, "--for", span.String())}
	tr.cmd.Env = append(os.Environ(), "DROVER_LAB="+l.Name)
	tr.cmd.Stdout, tr.cmd.Stderr = &tr.out, os.Stderr
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// wait returns the mean of what arrived, in bytes per second, and each second's.
func (tr *traffic) wait(t *testing.T) (mean float64, each []float64) {
	t.Helper()
	if err := tr.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(&tr.out); s.Scan(); {
		var line struct {
			Received float64 `json:"received"`
		}
		unmarshal(t, s.Text(), &line)
		each = append(each, line.Received)
		mean += line.Received
	}
	return mean / float64(max(len(each), 1)), each
}

// A tenant takes half of the link in the middle of a migration.
func TestTenantTraffic(t *testing.T) {
	l := links(t, "400mbit", "live", 1, 2)
	const rate = "200mbit"
	alone, _ := l.traffic(t, "kvm1", "kvm2", rate, 10*time.Second).wait(t)
	l.Guest(t, "ten", "kvm1", "--memory", "2GiB", "--wss", "1600MiB", "--rate", "1000", "--pattern", "sweep")
	time.Sleep(35 * time.Second)
	before, most := spareTicks(t), l.watchUse(t, "kvm1")
	l.MustDrover(t, "migrate", "ten", "--to", "kvm2", "--deadline", "5m")
	l.WaitPhase(t, "ten", 20*time.Second, precopy.Copying)
	time.Sleep(5 * time.Second)
	type point struct {
		at    time.Duration
		share int64
	}
	shareOf := func() int64 {
		var v struct {
			Stream struct {
				Share int64 `json:"share"`
			} `json:"stream"`
		}
		r := l.Drover(t.Context(), "migration", "show", "ten", "-o", "json")
		if json.Unmarshal([]byte(r.Stdout), &v) != nil {
			return 0
		}
		return v.Stream.Share
	}
	first := shareOf()
	tr := l.traffic(t, "kvm1", "kvm2", rate, 30*time.Second)
	began := time.Now()
	var seen []point
	followed := time.Duration(0)
	for time.Since(began) < 29*time.Second {
		s := shareOf()
		if n := len(seen); s > 0 && (n == 0 || seen[n-1].share != s) {
			seen = append(seen, point{time.Since(began).Round(10 * time.Millisecond), s >> 20})
		}
		if followed == 0 && s > 0 && float64(s) <= 0.6*float64(first) {
			followed = time.Since(began)
		}
		time.Sleep(200 * time.Millisecond)
	}
	mean, each := tr.wait(t)
	peak, after := most(), spareTicks(t)
	m := l.WaitPhase(t, "ten", 4*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	idle := 100 * float64(after[0]-before[0]) / float64(max(after[1]-before[1], 1))
	t.Logf("shares (MiB/s) from %d: %v", first>>20, seen)
	t.Logf("tenant, MiB/s each second: %.1f", scaled(each))
	t.Logf("RESULT tenant: alone %.1f MiB/s, with the migration %.1f (%.0f %%); share followed after %s; migration %s %s; link at most %.1f MiB/s over 2 s; spare CPU %.0f %%",
		alone/(1<<20), mean/(1<<20), 100*mean/alone, followed.Round(10*time.Millisecond), m.Phase, m.Reason, peak/(1<<20), idle)
	if followed == 0 || followed > 3*time.Second {
		t.Errorf("the share followed after %s, want 3 s at most", followed)
	}
	if mean < 0.9*alone {
		t.Errorf("the tenant has %.0f %% of its rate, want 90 %%", 100*mean/alone)
	}
}

func scaled(list []float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = v / (1 << 20)
	}
	return out
}
