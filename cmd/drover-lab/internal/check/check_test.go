package check

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/cmd/drover-lab/internal/guest"
)

func known(name string, definedOn []string, runsOn ...string) guest.Status {
	s := guest.Status{Record: guest.Record{Spec: guest.Spec{Name: name}}, DefinedOn: definedOn}
	for _, h := range runsOn {
		s.RunsOn = append(s.RunsOn, guest.Place{Host: h, State: "running"})
	}
	return s
}

func TestStrayDomains(t *testing.T) {
	on := guest.Domain{Name: "g1", State: "running", Active: true, Persistent: true}
	off := guest.Domain{Name: "g1", State: "shut off", Persistent: true}
	for _, tc := range []struct {
		name  string
		dom   guest.Domain
		guest guest.Status
		want  string
	}{
		{"where it belongs", on, known("g1", []string{"kvm1"}, "kvm1"), ""},
		{"off, defined once", off, known("g1", []string{"kvm1"}), ""},
		{"unknown", on, known("g2", nil), "the lab has no guest of that name"},
		{"runs twice", on, known("g1", []string{"kvm1"}, "kvm1", "kvm2"), "also active on kvm2"},
		{"old definition", off, known("g1", []string{"kvm1", "kvm2"}, "kvm2"), "defined here, but the guest runs on kvm2"},
		{"off, defined twice", off, known("g1", []string{"kvm1", "kvm2"}), "defined on several hosts: kvm1, kvm2"},
	} {
		got := ""
		for _, f := range strayDomains("kvm1", []guest.Domain{tc.dom}, []guest.Status{tc.guest}) {
			got += f.Why
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestStrayFiles(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"g1.serial", "g1.qcow2", "g2.qcow2", "core"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := func(found []Leftover, err error) []string {
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range found {
			all = append(all, filepath.Base(f.What)+": "+f.Why)
		}
		return all
	}
	guests := []guest.Status{known("g1", []string{"kvm1"}, "kvm1")}
	want := []string{"core: not a guest's file", "g2.qcow2: the lab has no such guest"}
	if diff := cmp.Diff(want, names(sharedFiles(dir, guests))); diff != "" {
		t.Errorf("shared files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, names(privateImages("kvm1", dir, guests))); diff != "" {
		t.Errorf("images on its host (-want +got):\n%s", diff)
	}
	want = []string{
		"core: not a guest's file", "g1.qcow2: the guest is on another host",
		"g1.serial: the guest is on another host", "g2.qcow2: the lab has no such guest",
	}
	if diff := cmp.Diff(want, names(privateImages("kvm2", dir, guests))); diff != "" {
		t.Errorf("images on another host (-want +got):\n%s", diff)
	}
}
