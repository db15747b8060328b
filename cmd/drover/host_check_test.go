package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/etcd"
)

// checkAgents answers for agents. What a host has no entry for has no agent.
type checkAgents struct {
	late map[string]time.Duration // how far each host's clock is behind
	old  string                   // an agent that does not know the question

	mu     sync.Mutex
	chunks map[string][]int // sizes of the lists of peers that each host was asked about
}

func (c *checkAgents) Ask(_ context.Context, host string, q precopy.Question) (precopy.Answer, error) {
	late, there := c.late[host]
	switch {
	case !there:
		return precopy.Answer{}, fmt.Errorf("ask %s: %w", host, store.ErrNoAgent)
	case host == c.old:
		return precopy.Answer{Error: "this agent does not know the question peer-check"}, nil
	}
	r := &hypervisor.PeerReport{Clock: time.Now().Add(-late), Ports: [2]int{49152, 49152 + len(host)}}
	for _, p := range q.Peers {
		r.Findings = append(r.Findings, hypervisor.Finding{
			Host: host, Peer: p.Host, Check: hypervisor.CheckLibvirt, Level: hypervisor.CheckOK,
			Detail: fmt.Sprint(p.URI, " ", p.StreamAddress, " ", p.Ports),
		})
	}
	if len(q.Peers) == 0 {
		r.Findings = append(r.Findings, hypervisor.Finding{Host: host, Check: hypervisor.CheckLocks, Level: hypervisor.CheckOK, Detail: "fine"})
	} else {
		c.mu.Lock()
		c.chunks[host] = append(c.chunks[host], len(q.Peers))
		c.mu.Unlock()
	}
	return precopy.Answer{PeerReport: r}, nil
}

func checkedFleet(hosts ...string) *fleet.Snapshot {
	s := &fleet.Snapshot{Hosts: map[string]*fleet.Host{}}
	for _, h := range hosts {
		s.Hosts[h] = &fleet.Host{Name: h, Facts: &hypervisor.HostFacts{
			Name: h, PeerURI: "qemu+tls://" + h + "/system", MigrationAddress: h + "-mig",
		}}
	}
	return s
}

func lines(findings []hypervisor.Finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s>%s %s %s", f.Level, f.Host, f.Peer, f.Check, f.Detail)))
	}
	return out
}

func TestCheckFleet(t *testing.T) {
	clockOK := "agrees with the others"
	tests := []struct {
		name   string
		agents *checkAgents
		hosts  []string
		named  []string
		want   []string
	}{
		{
			name: "every ordered pair", agents: &checkAgents{late: map[string]time.Duration{"a": 0, "bb": 0}}, hosts: []string{"a", "bb"},
			want: []string{
				"ok a> image-locks fine", "ok bb> image-locks fine", "ok a> clock " + clockOK, "ok bb> clock " + clockOK,
				"ok a>bb libvirt qemu+tls://bb/system bb-mig [49152 49154]",
				"ok bb>a libvirt qemu+tls://a/system a-mig [49152 49153]",
			},
		},
		{
			name: "one host: from it and to it", agents: &checkAgents{late: map[string]time.Duration{"a": 0, "b": 0, "c": 0}},
			hosts: []string{"a", "b", "c"}, named: []string{"b"},
			want: []string{
				"ok b> image-locks fine", "ok b> clock " + clockOK,
				"ok a>b libvirt qemu+tls://b/system b-mig [49152 49153]",
				"ok b>a libvirt qemu+tls://a/system a-mig [49152 49153]",
				"ok b>c libvirt qemu+tls://c/system c-mig [49152 49153]",
				"ok c>b libvirt qemu+tls://b/system b-mig [49152 49153]",
			},
		},
		{
			name: "an agent away, though not named", agents: &checkAgents{late: map[string]time.Duration{"a": 0}},
			hosts: []string{"a", "b"}, named: []string{"a"},
			want: []string{"ok a> image-locks fine", "stop b> agent no agent reports", "ok a> clock " + clockOK},
		},
		{
			name: "an old agent", agents: &checkAgents{late: map[string]time.Duration{"a": 0, "b": 0}, old: "b"}, hosts: []string{"a", "b"},
			want: []string{
				"ok a> image-locks fine", "warn b> agent this agent does not know the question peer-check", "ok a> clock " + clockOK,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.agents.chunks = map[string][]int{}
			got := lines(checkFleet(t.Context(), tt.agents, checkedFleet(tt.hosts...), tt.named))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// A large fleet is asked in pieces, each pair once.
func TestCheckFleetInPieces(t *testing.T) {
	agents := &checkAgents{late: map[string]time.Duration{}, chunks: map[string][]int{}}
	var hosts []string
	for i := range checkChunk + 11 {
		hosts = append(hosts, fmt.Sprintf("kvm%03d", i))
		agents.late[hosts[i]] = 0
	}
	findings := checkFleet(t.Context(), agents, checkedFleet(hosts...), nil)
	pairs := map[string]bool{}
	for _, f := range findings {
		if f.Peer != "" {
			pairs[f.Host+">"+f.Peer] = true
		}
	}
	if want := len(hosts) * (len(hosts) - 1); len(pairs) != want {
		t.Errorf("%d pairs, want %d", len(pairs), want)
	}
	for host, sizes := range agents.chunks {
		if !slices.Equal(sizes, []int{checkChunk, 10}) {
			t.Fatalf("%s was asked about %v peers at a time", host, sizes)
		}
	}
}

func TestClockFindings(t *testing.T) {
	at := func(offset, doubt time.Duration) clock { return clock{true, offset, doubt} }
	tests := []struct {
		name   string
		clocks []clock
		want   string // one letter a host: o ok, w warn, - not known
	}{
		{"none known", []clock{{}, {}}, "--"},
		{"all agree", []clock{at(0, 0), at(time.Second/2, 0), at(0, 0)}, "ooo"},
		{"one is late", []clock{at(0, 0), at(-3*time.Second, 0), at(0, 0)}, "owo"},
		{"one is ahead", []clock{at(0, 0), at(3*time.Second, 0), at(0, 0)}, "owo"},
		{"the one who looks is off", []clock{at(time.Hour, 0), at(time.Hour, 0), at(time.Hour, 0)}, "ooo"},
		{"a slow answer proves nothing", []clock{at(0, 0), at(3*time.Second, 3*time.Second), at(0, 0)}, "ooo"},
		{"of two one may be wrong", []clock{at(0, 0), at(9*time.Second, 0)}, "ow"},
		{"one alone", []clock{{}, at(9*time.Second, 0)}, "-o"},
	}
	for _, tt := range tests {
		var hosts []string
		got := []byte(strings.Repeat("-", len(tt.clocks)))
		for i := range tt.clocks {
			hosts = append(hosts, fmt.Sprint(i))
		}
		for _, f := range clockFindings(hosts, tt.clocks) {
			got[slices.Index(hosts, f.Host)] = string(f.Level)[0]
		}
		if string(got) != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestStoreFindings(t *testing.T) {
	const gib = hypervisor.GiB
	tests := []struct {
		name  string
		space etcd.Space
		want  string
	}{
		{"room", etcd.Space{File: gib, Quota: 2 * gib}, "ok 1.0 GiB of 2.0 GiB"},
		{"little room", etcd.Space{File: 19 * gib / 10, Used: gib, Quota: 2 * gib}, "warn 1.9 GiB of 2.0 GiB, 1.0 GiB in use"},
		{"full", etcd.Space{File: gib, Quota: 2 * gib, Full: true}, "stop full"},
		{"an etcd that tells no quota", etcd.Space{File: gib}, "ok 1.0 GiB; this etcd"},
		{"no answer", etcd.Space{Err: errors.New("away")}, "warn away"},
	}
	for _, tt := range tests {
		f := storeFindings([]etcd.Space{tt.space})[0]
		if got := string(f.Level) + " " + f.Detail; !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestFindingsTable(t *testing.T) {
	few := []hypervisor.Finding{
		{Host: "a", Check: hypervisor.CheckLocks, Level: hypervisor.CheckOK, Detail: "fine"},
		{Host: "a", Peer: "b", Check: hypervisor.CheckStream, Level: hypervisor.CheckStop, Detail: "dropped", Remedy: "open it"},
	}
	var got bytes.Buffer
	if err := findingsTable(few).Write(&got); err != nil {
		t.Fatal(err)
	}
	want := "RESULT  HOST  PEER  CHECK        DETAIL\n" +
		"stop    a     b     stream-port  dropped (open it)\n" +
		"ok      a     -     image-locks  fine\n"
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("the worst comes first (-want +got):\n%s", diff)
	}
	many := slices.Repeat(few[:1], allFindings+1)
	if rows := findingsTable(append(many, few[1])).Rows; len(rows) != 1 {
		t.Errorf("of many findings %d rows, want only the one that is not fine", len(rows))
	}
}
