//go:build soak

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy"
)

func count(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		return otherwise
	}
	return n
}

// TestSoak moves guests that write all the time around three hosts, one after the other, and then
// looks for anything left behind and for memory that grew.
func TestSoak(t *testing.T) {
	n := count(t, "DROVER_SOAK", 200)
	l := begin(t, "1gbit")
	guests := []string{"soak1", "soak2", "soak3"}
	patterns := [][]string{{"--pattern", "word", "--rate", "2000"}, {"--pattern", "page", "--rate", "1000"}, {"--pattern", "sweep", "--rate", "1000"}}
	at := map[string]int{}
	for i, g := range guests {
		at[g] = i
		l.Guest(t, g, l.Hosts[i], append([]string{"--memory", "160MiB", "--wss", "48MiB", "--disk", "shared"}, patterns[i]...)...)
	}
	memory := map[int]map[string]hypervisor.Bytes{}
	for i := 1; i <= n; i++ {
		g := guests[i%len(guests)]
		to := (at[g] + 1) % len(l.Hosts)
		if r := l.Drover(t.Context(), "migrate", g, "--to", l.Hosts[to], "--wait"); r.Code != 0 {
			t.Fatalf("migration %d of %s to %s: %s", i, g, l.Hosts[to], r)
		}
		at[g] = to
		if i%10 == 0 {
			for _, g := range guests {
				l.Verify(t, g)
			}
			t.Logf("%d of %d", i, n)
		}
		if i == 20 || i == n {
			memory[i] = l.anonymous(t)
			t.Logf("anonymous memory after %d: %v", i, memory[i])
		}
	}
	for _, g := range guests {
		l.OnOnly(t, g, l.Hosts[at[g]])
		l.Do(t, "guest", "stop", g)
	}
	if out := strings.TrimSpace(l.Do(t, "check", "-o", "json")); out != "[]" && out != "null" {
		t.Errorf("left behind: %s", out)
	}
	for who, then := range memory[20] {
		if now := memory[n][who]; float64(now) > 1.1*float64(then) {
			t.Errorf("%s grew from %s to %s between migration 20 and %d", who, then, now, n)
		}
	}
}

var anonLine = regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB`)

// anonymous is the anonymous memory of the scheduler and the agents: the median of nine readings
// over some of their periods, as garbage collection lets each reading swing.
func (l *Lab) anonymous(t *testing.T) map[string]hypervisor.Bytes {
	t.Helper()
	readings := map[string][]hypervisor.Bytes{}
	for range 9 {
		for who, n := range l.anonymousNow(t) {
			readings[who] = append(readings[who], n)
		}
		time.Sleep(3 * time.Second)
	}
	out := map[string]hypervisor.Bytes{}
	for who, all := range readings {
		slices.Sort(all)
		out[who] = all[len(all)/2]
	}
	return out
}

func (l *Lab) anonymousNow(t *testing.T) map[string]hypervisor.Bytes {
	t.Helper()
	var daemons []struct {
		Host string `json:"host"`
		Name string `json:"name"`
		PID  int    `json:"pid"`
	}
	unmarshal(t, l.Do(t, "ps", "-o", "json"), &daemons)
	out := map[string]hypervisor.Bytes{}
	for _, d := range daemons {
		if d.Name != "agent" && d.Name != "scheduler" {
			continue
		}
		status := l.Do(t, "exec", d.Host, "--", "cat", fmt.Sprintf("/proc/%d/status", d.PID))
		if m := anonLine.FindStringSubmatch(status); m != nil {
			kib, _ := strconv.Atoi(m[1])
			out[d.Host+"/"+d.Name] = hypervisor.Bytes(kib) * hypervisor.KiB
		}
	}
	return out
}

// truth is one migration as the record has it and as it was seen from outside.
type truth struct {
	RecordPauseMS  int64            `json:"record_pause_ms"`
	OutsidePauseMS float64          `json:"outside_pause_ms"`
	RecordBytes    hypervisor.Bytes `json:"record_bytes"`
	PayloadBytes   hypervisor.Bytes `json:"payload_bytes"`
}

// TestTruth compares what the record says with what a probe and the network interface saw.
func TestTruth(t *testing.T) {
	n := count(t, "DROVER_TRUTH", 50)
	l := begin(t, "1gbit")
	l.Guest(t, "truth", "kvm1", "--memory", "640MiB", "--wss", "280MiB", "--rate", "500", "--pattern", "page", "--disk", "shared")
	var all []truth
	var pauses, bytes []float64
	for i := range n {
		from, to := l.Hosts[i%3], l.Hosts[(i+1)%3]
		probe := l.Probe(t, "truth")
		sent := l.payload(t, from)
		if r := l.Drover(t.Context(), "migrate", "truth", "--to", to, "--wait"); r.Code != 0 {
			t.Fatalf("migration %d: %s", i, r)
		}
		payload := l.payload(t, from) - sent
		time.Sleep(300 * time.Millisecond)
		seen := probe.Stop(t)
		m := l.Last(t, "truth")
		if m.Phase != precopy.Done || m.Outcome == nil || !m.Outcome.PauseKnown {
			t.Fatalf("migration %d: %s, outcome %+v", i, m.Phase, m.Outcome)
		}
		if seen.Mismatches > 0 {
			t.Fatalf("migration %d: %d mismatches in the guest's memory", i, seen.Mismatches)
		}
		one := truth{m.Outcome.PauseMS, seen.SilenceMS, m.Outcome.Bytes, payload}
		all = append(all, one)
		pauses = append(pauses, max(one.OutsidePauseMS-float64(one.RecordPauseMS), float64(one.RecordPauseMS)-one.OutsidePauseMS))
		if payload >= 256*hypervisor.MiB {
			bytes = append(bytes, 100*max(float64(one.RecordBytes-payload), float64(payload-one.RecordBytes))/float64(payload))
		}
		t.Logf("%d: pause %d ms, outside %.0f ms; %s, payload %s", i, one.RecordPauseMS, one.OutsidePauseMS, one.RecordBytes, payload)
	}
	text, _ := json.MarshalIndent(all, "", "  ")
	if err := os.WriteFile(l.Build+"/truth.json", text, 0o644); err != nil {
		t.Error(err)
	}
	median, p95 := quantile(pauses, 0.5), quantile(pauses, 0.95)
	worst := quantile(bytes, 1)
	t.Logf("pause error: median %.0f ms, 95th percentile %.0f ms; bytes error: worst %.1f %% of %d moves", median, p95, worst, len(bytes))
	if median > 30 || p95 > 100 {
		t.Errorf("pause error: median %.0f ms, 95th percentile %.0f ms; want at most 30 and 100", median, p95)
	}
	if len(bytes) == 0 || worst > 3 {
		t.Errorf("bytes error: worst %.1f %% of %d moves; want at most 3 %%", worst, len(bytes))
	}
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// payload is what the migration interface of a host has sent, less the headers below TCP's payload.
func (l *Lab) payload(t *testing.T, host string) hypervisor.Bytes {
	t.Helper()
	var nic struct {
		TxBytes   int64 `json:"tx_bytes"`
		TxPackets int64 `json:"tx_packets"`
	}
	unmarshal(t, l.Do(t, "nic", host, "-o", "json"), &nic)
	return hypervisor.Bytes(nic.TxBytes - segmentHeader*nic.TxPackets)
}

// segmentHeader is Ethernet, IPv4 and TCP with timestamps. An offloaded segment is counted as one
// packet by the interface, so this is a lower bound of the headers, below 0.1 % there.
const segmentHeader = 14 + 20 + 32

func init() {
	// A soak runs for long: say so where the ordinary limit of go test would end it.
	if os.Getenv("DROVER_SOAK") == "" && os.Getenv("DROVER_TRUTH") == "" {
		fmt.Fprintln(os.Stderr, "run by: make soak, make truth")
	}
}
