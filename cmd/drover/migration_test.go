package main

import (
	"strings"
	"testing"

	"drover/precopy"
	"drover/scheduler/fleet"
)

func TestNewestOf(t *testing.T) {
	record := func(s *fleet.Snapshot, id, uuid, from, to string, phase precopy.Phase, rev int64) {
		migrating(s, id, "web1", from, to, phase)
		m := s.Migrations[id]
		m.UUID, m.Revision = testDomain("", uuid).ID, rev
		s.Migrations[id] = m
	}
	tests := []struct {
		name  string
		setup func(*fleet.Snapshot)
		word  string
		want  string // an ID; "" for none, "!" for an error
	}{
		{"one VM, by name", func(s *fleet.Snapshot) {
			s.Hosts["a"] = testHost("a", testDomain("web1", "u1"))
			record(s, "m1", "u1", "a", "b", precopy.Done, 5)
		}, "web1", "m1"},
		{"two VMs of one name", func(s *fleet.Snapshot) {
			s.Hosts["a"], s.Hosts["b"] = testHost("a", testDomain("web1", "u1")), testHost("b", testDomain("web1", "u2"))
			record(s, "m1", "u1", "a", "c", precopy.Copying, 5)
		}, "web1", "!"},
		{"of two, the one on the host", func(s *fleet.Snapshot) {
			s.Hosts["a"], s.Hosts["b"] = testHost("a", testDomain("web1", "u1")), testHost("b", testDomain("web1", "u2"))
			record(s, "m1", "u1", "a", "c", precopy.Copying, 5)
			record(s, "m2", "u2", "b", "c", precopy.Copying, 6)
		}, "a/web1", "m1"},
		{"the host is away: never the other host's VM", func(s *fleet.Snapshot) {
			s.Hosts["b"] = testHost("b", testDomain("web1", "u2"))
			record(s, "m2", "u2", "b", "c", precopy.Copying, 6)
		}, "a/web1", ""},
		{"the host is away, by its migration", func(s *fleet.Snapshot) {
			s.Hosts["b"] = testHost("b", testDomain("web1", "u2"))
			record(s, "m1", "u1", "a", "c", precopy.Unknown, 5)
			record(s, "m2", "u2", "b", "c", precopy.Copying, 6)
		}, "a/web1", "m1"},
		{"by the host that it was to go to", func(s *fleet.Snapshot) {
			record(s, "m1", "u1", "a", "c", precopy.Unknown, 5)
		}, "c/web1", "m1"},
		{"a name with another VM's unfinished migration on a host that is away", func(s *fleet.Snapshot) {
			s.Hosts["b"] = testHost("b", testDomain("web1", "u2"))
			record(s, "m1", "u1", "a", "c", precopy.Unknown, 5)
			record(s, "m2", "u2", "b", "c", precopy.Copying, 6)
		}, "web1", "!"},
		{"both hosts away", func(s *fleet.Snapshot) {
			record(s, "m1", "u1", "a", "c", precopy.Unknown, 5)
			record(s, "m2", "u2", "b", "c", precopy.Unknown, 6)
		}, "web1", "!"},
		{"UUID", func(s *fleet.Snapshot) {
			record(s, "m1", "u1", "a", "c", precopy.Unknown, 5)
			record(s, "m2", "u2", "b", "c", precopy.Unknown, 6)
		}, "U1", "m1"},
		{"unfinished before newer IDs: the clocks of those who asked differ", func(s *fleet.Snapshot) {
			record(s, "m1", "u1", "a", "b", precopy.Copying, 9)
			record(s, "m2", "u1", "b", "a", precopy.Done, 5)
		}, "web1", "m1"},
		{"of the finished, the last written", func(s *fleet.Snapshot) {
			record(s, "m1", "u1", "a", "b", precopy.Done, 9)
			record(s, "m2", "u1", "b", "a", precopy.Done, 5)
		}, "web1", "m1"},
		{"no such VM", func(s *fleet.Snapshot) {}, "web1", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := testSnapshot()
			tc.setup(s)
			m, ok, err := newestOf(s, tc.word)
			got := m.ID
			if err != nil {
				got = "!"
			}
			if got != tc.want || ok != strings.HasPrefix(tc.want, "m") {
				t.Errorf("got %q, %v, %v; want %q", m.ID, ok, err, tc.want)
			}
		})
	}
}

func TestFoundIn(t *testing.T) {
	past := []precopy.Migration{
		{ID: "0003-aaaa", Domain: "web", UUID: "u1"},
		{ID: "0002-bbbb", Domain: "web", UUID: "u1"},
		{ID: "0001-cccc", Domain: "cccc", UUID: "u2"},
	}
	for word, want := range map[string]string{
		"0002": "0002-bbbb", "bbbb": "0002-bbbb", "bb": "", "000": "", "web": "0003-aaaa", "U2": "0001-cccc", "cccc": "0001-cccc", "db": "",
	} {
		got := ""
		for _, m := range foundIn(past, word) {
			got += m.ID
			if !m.Past {
				t.Errorf("%s: not marked as past", word)
			}
		}
		if got != want {
			t.Errorf("%s: found %q, want %q", word, got, want)
		}
	}
	if n := len(foundIn(append(past, precopy.Migration{ID: "0001-bbbb"}), "bbbb")); n != 2 {
		t.Errorf("a part of two IDs: found %d", n)
	}
}
