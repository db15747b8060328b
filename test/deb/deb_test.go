// Package deb tests the Debian packages: what is in them, that they are the same each time, and what
// installing, upgrading, removing and purging them does. The packages are made of small stand-ins
// for the programs; dpkg works in a scratch root, with a systemctl that only writes down its calls.
package deb

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const source = "../../deploy/deb"

// run runs a program and returns its output; a failure ends the test.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String()
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// shared is where built keeps packages for all tests.
var shared string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "drover-deb-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// built returns a directory with both packages of a version, which are built once.
func built(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(shared, version)
	if _, err := os.Stat(dir); err != nil {
		if err := os.Rename(build(t, version), dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build makes both packages of a version and returns the directory that they are in.
func build(t *testing.T, version string) string {
	t.Helper()
	programs := t.TempDir()
	dist, err := os.MkdirTemp(shared, "new-")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(programs, "drover"), "#!/bin/sh\n[ \"$1\" = completion ] && echo \"completion for $2\"\n", 0o755)
	// The agent must be a program that is linked to the C library: its version becomes a dependency.
	program, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Fatal(err)
	}
	elf, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(programs, "drover-agent"), string(elf), 0o755)
	run(t, []string{"SOURCE_DATE_EPOCH=1790000000"}, "sh", filepath.Join(source, "build.sh"), version, programs, dist)
	return dist
}

func packages(t *testing.T, dist, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dist, name+"_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("package %s in %s: %v, %v", name, dist, found, err)
	}
	return found[0]
}

func TestContents(t *testing.T) {
	dist := built(t, "v1.2.3")
	tests := []struct {
		name, conffile, depends string
		files                   []string
	}{
		{
			"drover", "/etc/drover/scheduler.yaml", "systemd | systemd-standalone-sysusers | systemd-sysusers",
			[]string{
				"-rw-r--r-- ./etc/drover/scheduler.yaml",
				"-rwxr-xr-x ./usr/bin/drover",
				"-rw-r--r-- ./usr/lib/systemd/system/drover-scheduler.service",
				"-rw-r--r-- ./usr/lib/sysusers.d/drover.conf",
				"-rw-r--r-- ./usr/share/bash-completion/completions/drover",
				"-rw-r--r-- ./usr/share/doc/drover/README.md",
				"-rw-r--r-- ./usr/share/doc/drover/changelog.gz",
				"-rw-r--r-- ./usr/share/doc/drover/copyright",
				"-rw-r--r-- ./usr/share/doc/drover/examples/drover.rules.yaml",
				"-rw-r--r-- ./usr/share/doc/drover/examples/grafana-drover.json",
				"-rw-r--r-- ./usr/share/fish/vendor_completions.d/drover.fish",
				"-rw-r--r-- ./usr/share/zsh/vendor-completions/_drover",
			},
		},
		{
			"drover-agent", "/etc/drover/agent.yaml", "libvirt-daemon-system (>= 9.0) | libvirt-daemon (>= 9.0)",
			[]string{
				"-rw-r--r-- ./etc/drover/agent.yaml",
				"-rwxr-xr-x ./usr/bin/drover-agent",
				"-rw-r--r-- ./usr/lib/systemd/system/drover-agent.service",
				"-rw-r--r-- ./usr/share/doc/drover-agent/README.md",
				"-rw-r--r-- ./usr/share/doc/drover-agent/changelog.gz",
				"-rw-r--r-- ./usr/share/doc/drover-agent/copyright",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			deb := packages(t, dist, tt.name)
			if diff := cmp.Diff(tt.files, filesOf(t, deb)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := run(t, nil, "dpkg-deb", "-I", deb, "conffiles"); got != tt.conffile+"\n" {
				t.Errorf("conffiles %q, want %s", got, tt.conffile)
			}
			control := run(t, nil, "dpkg-deb", "-f", deb)
			for _, want := range []string{"Version: 1.2.3\n", tt.depends, "Installed-Size: "} {
				if !strings.Contains(control, want) {
					t.Errorf("control has no %q:\n%s", want, control)
				}
			}
			if strings.Contains(control, "@LIBC@") || strings.Contains(control, "(>= )") {
				t.Errorf("control was not filled in:\n%s", control)
			}
		})
	}
}

// filesOf lists a package's files with their modes, and fails for an owner that is not root.
func filesOf(t *testing.T, deb string) []string {
	t.Helper()
	var files []string
	for line := range strings.Lines(run(t, nil, "dpkg-deb", "-c", deb)) {
		f := strings.Fields(line)
		if f[1] != "root/root" {
			t.Errorf("owner: %s", line)
		}
		if !strings.HasPrefix(f[0], "d") {
			files = append(files, f[0]+" "+f[5])
		}
	}
	return files
}

// What a unit starts, and the file that it is told to read, come with the same package.
func TestUnitsNameWhatIsShipped(t *testing.T) {
	dist := built(t, "v1.2.3")
	for name, unit := range map[string]string{"drover": "drover-scheduler.service", "drover-agent": "drover-agent.service"} {
		root := t.TempDir()
		run(t, nil, "dpkg-deb", "-x", packages(t, dist, name), root)
		text, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system", unit))
		if err != nil {
			t.Fatal(err)
		}
		checked := 0
		for line := range strings.Lines(string(text)) {
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
			if !ok {
				continue
			}
			for _, word := range strings.Fields(command) {
				if !strings.HasPrefix(word, "/") {
					continue
				}
				checked++
				if _, err := os.Stat(filepath.Join(root, word)); err != nil {
					t.Errorf("%s: %s: %v", unit, word, err)
				}
			}
		}
		if checked != 2 {
			t.Errorf("%s: %d paths in ExecStart, want program and configuration", unit, checked)
		}
	}
}

func TestReproducible(t *testing.T) {
	one, two := built(t, "v1.2.3"), build(t, "v1.2.3")
	for _, name := range []string{"drover", "drover-agent"} {
		a, err := os.ReadFile(packages(t, one, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(packages(t, two, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two builds of the same", name)
		}
	}
}

// TestVersions also checks that dpkg puts the versions in the order in which they were made.
func TestVersions(t *testing.T) {
	inOrder := [][2]string{
		{"abc1234", "0~git20260921.abc1234"},
		{"abc1234-dirty", "0~git20260921.abc1234.dirty"},
		{"v1.2.2-rc2", "1.2.2~rc2"},
		{"v1.2.2-rc2-3-gabc1234", "1.2.2~rc2+3.gabc1234"},
		{"1.2.2", "1.2.2"},
		{"v1.2.2-dirty", "1.2.2+dirty"},
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-5-gabc1234", "1.2.3+5.gabc1234"},
		{"v1.2.3-5-gabc1234-dirty", "1.2.3+5.gabc1234.dirty"},
		{"v1.2.3-12-gabc1234", "1.2.3+12.gabc1234"},
	}
	before := ""
	for _, v := range inOrder {
		got := strings.TrimSpace(run(t, []string{"SOURCE_DATE_EPOCH=1790000000"}, "sh", filepath.Join(source, "version.sh"), v[0]))
		if got != v[1] {
			t.Errorf("%s becomes %s, want %s", v[0], got, v[1])
		}
		if before != "" && exec.Command("dpkg", "--compare-versions", before, "lt", got).Run() != nil {
			t.Errorf("dpkg does not take %s for older than %s", before, got)
		}
		before = got
	}
	if err := exec.Command("sh", filepath.Join(source, "version.sh"), "rubbish").Run(); err == nil {
		t.Error("version.sh takes rubbish for a version")
	}
}

// machine is a scratch root that dpkg works in.
type machine struct {
	t         *testing.T
	root, bin string
	calls     string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir(), bin: t.TempDir()}
	write(t, filepath.Join(m.root, "var/lib/dpkg/status"), "", 0o644)
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "run/systemd/system", "var/log"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.calls = filepath.Join(m.bin, "calls")
	for _, name := range []string{"systemctl", "systemd-sysusers"} {
		write(t, filepath.Join(m.bin, name), fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >> %s\n", name, m.calls), 0o755)
	}
	return m
}

// dpkg runs dpkg in the scratch root; it returns its output and what was called meanwhile.
func (m *machine) dpkg(args ...string) (output string, calls []string) {
	m.t.Helper()
	_ = os.Remove(m.calls)
	flags := []string{"--root=" + m.root, "--force-script-chrootless", "--force-depends", "--force-not-root", "--force-bad-path", "--log=/dev/null"}
	output = run(m.t, []string{"PATH=" + m.bin + ":" + os.Getenv("PATH")}, "dpkg", append(flags, args...)...)
	text, err := os.ReadFile(m.calls)
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line != "systemctl daemon-reload" { // harmless at any time
			calls = append(calls, strings.ReplaceAll(line, m.root, "ROOT"))
		}
	}
	slices.Sort(calls)
	return output, calls
}

func (m *machine) exists(path string) bool {
	_, err := os.Stat(filepath.Join(m.root, path))
	return err == nil
}

func TestInstallUpgradeRemove(t *testing.T) {
	old, fresh := built(t, "v1.2.3"), built(t, "v1.2.4")
	m := newMachine(t)
	install := func(dist string) (string, []string) {
		return m.dpkg("-i", packages(t, dist, "drover"), packages(t, dist, "drover-agent"))
	}
	wantCalls := func(what string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", what, diff)
		}
	}

	output, calls := install(old)
	wantCalls("first install starts nothing", calls, "systemd-sysusers --root=ROOT drover.conf")
	for _, want := range []string{"edit /etc/drover/agent.yaml", "edit /etc/drover/scheduler.yaml"} {
		if !strings.Contains(output, want) {
			t.Errorf("first install does not say %q:\n%s", want, output)
		}
	}
	write(t, filepath.Join(m.root, "etc/drover/agent.yaml"), "name: kvm1\n", 0o644)

	output, calls = install(fresh)
	wantCalls("an upgrade restarts what runs", calls,
		"systemctl try-restart drover-agent.service", "systemctl try-restart drover-scheduler.service",
		"systemd-sysusers --root=ROOT drover.conf")
	if strings.Contains(output, "edit /etc/drover") {
		t.Errorf("an upgrade asks for configuration:\n%s", output)
	}
	if text, err := os.ReadFile(filepath.Join(m.root, "etc/drover/agent.yaml")); err != nil || string(text) != "name: kvm1\n" {
		t.Errorf("an upgrade changed the administrator's configuration: %q, %v", text, err)
	}

	_, calls = m.dpkg("--remove", "drover-agent", "drover")
	wantCalls("a removal stops what runs", calls,
		"systemctl disable --now drover-agent.service", "systemctl disable --now drover-scheduler.service")
	if !m.exists("etc/drover/agent.yaml") || m.exists("usr/bin/drover-agent") {
		t.Error("a removal leaves the configuration and nothing else")
	}
}

func TestPurge(t *testing.T) {
	dist := built(t, "v1.2.3")
	tests := []struct {
		name string
		has  []string // files of the running programs
		stay []string
		gone []string
		says string
	}{
		{
			name: "nothing of value",
			has:  []string{"var/lib/drover/spool/.keep-empty"},
			gone: []string{"var/lib/drover", "var/lib/drover-scheduler", "etc/drover"},
		},
		{
			name: "outcomes in the spool",
			has:  []string{"var/lib/drover/spool/01.json"},
			stay: []string{"var/lib/drover/spool/01.json"},
			says: "outcomes of migrations that the store has not taken",
		},
		{
			name: "an embedded store",
			has:  []string{"var/lib/drover-scheduler/etcd/member/snap/db"},
			stay: []string{"var/lib/drover-scheduler/etcd/member/snap/db"},
			gone: []string{"var/lib/drover"},
			says: "holds an embedded store and stays",
		},
		{
			name: "certificates",
			has:  []string{"etc/drover/tls/key.pem"},
			stay: []string{"etc/drover/tls/key.pem"},
			gone: []string{"etc/drover/agent.yaml", "etc/drover/scheduler.yaml"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.dpkg("-i", packages(t, dist, "drover"), packages(t, dist, "drover-agent"))
			for _, path := range tt.has {
				content := "x"
				if strings.Contains(path, "empty") {
					content = ""
				}
				write(t, filepath.Join(m.root, path), content, 0o600)
			}
			output, _ := m.dpkg("--purge", "drover-agent", "drover")
			for _, path := range tt.stay {
				if !m.exists(path) {
					t.Errorf("%s is gone", path)
				}
			}
			for _, path := range tt.gone {
				if m.exists(path) {
					t.Errorf("%s is still there", path)
				}
			}
			if tt.says != "" && !strings.Contains(output, tt.says) {
				t.Errorf("purge does not say %q:\n%s", tt.says, output)
			}
		})
	}
}
