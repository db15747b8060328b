package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/cmd/drover-lab/internal/cgroup"
	"drover/cmd/drover-lab/internal/state"
	"drover/cmd/internal/pki"
)

func TestClaimAndReleaseDir(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "lab")
	for range 2 { // claiming what is ours already is no error
		if err := claimDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "shared", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := releaseDir(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory is still there: %v", err)
	}
	if err := releaseDir(dir); err != nil {
		t.Errorf("releasing twice: %v", err)
	}
	if _, err := os.Stat(base); err != nil {
		t.Errorf("the directory above went too: %v", err)
	}
}

func TestForeignDirIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := claimDir(dir); !errors.Is(err, ErrForeignDir) {
		t.Errorf("claim: got %v, want ErrForeignDir", err)
	}
	if err := releaseDir(dir); err != nil {
		t.Errorf("release: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("somebody else's file went: %v", err)
	}
}

func TestConfig(t *testing.T) {
	l := state.Lab{Name: "t", Dir: t.TempDir(), Hosts: []string{"kvm1", "kvm2"}}
	if err := issueAll(l); err != nil {
		t.Fatal(err)
	}
	groups := cgroup.Layout{Tree: []cgroup.Hierarchy{{Path: "/sys/fs/cgroup/cpu", Controllers: []string{"cpu"}}}}
	c, err := config(l, groups, 2, "kvm2")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Daemons) != 1 || len(c.Links) != 5 || len(c.Overlays) != len(overlayDirs) || len(c.Cgroups) != 2 {
		t.Errorf("%d daemons, %d links, %d overlays, %d cgroup mounts, want 1, 5, %d, 2",
			len(c.Daemons), len(c.Links), len(c.Overlays), len(c.Cgroups), len(overlayDirs))
	}
	etc := filepath.Join(PathsOf(l).Hosts, "kvm2", "libvirt-etc")
	for file, want := range map[string][]string{
		"libvirtd.conf": {HostUUID("t", "kvm2").String(), "listen_tls = 1", "listen_tcp = 0", string(pki.RoleAgent)},
		"qemu.conf":     {`migration_address = "10.78.0.12"`, filepath.Join("hosts", "kvm2"), PathsOf(l).Shared},
	} {
		data, err := os.ReadFile(filepath.Join(etc, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(data), w) {
				t.Errorf("%s lacks %q:\n%s", file, w, data)
			}
		}
	}
	if HostUUID("t", "kvm1") == HostUUID("t", "kvm2") {
		t.Error("two hosts share a UUID: libvirt would refuse to migrate between them")
	}
	c, err = config(l, groups, 0, state.Control)
	if err != nil {
		t.Fatal(err)
	}
	// People have no server certificate, and control runs no libvirtd.
	if len(c.Daemons) != 0 || len(c.Links) != 3 {
		t.Errorf("control has %d daemons and %d links, want 0 and 3", len(c.Daemons), len(c.Links))
	}
}
