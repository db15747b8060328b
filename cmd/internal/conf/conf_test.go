package conf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/hypervisor"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// load runs a program with the settings of an agent and returns what it read.
func load(t *testing.T, file string, env map[string]string, args ...string) (*Agent, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", path}, args...)
	}
	for k, v := range env {
		t.Setenv(k, v)
	}
	a := DefaultAgent()
	a.Name = "kvm1"
	app := &cli.App{
		Name: "agent", Flags: append(Flags(a), ConfigFlag()),
		Action: func(c *cli.Context) error { return Load(FromContext(c), a) },
	}
	app.ExitErrHandler = func(*cli.Context, error) {}
	return a, app.Run(append([]string{"agent"}, args...))
}

func TestLoadPrecedence(t *testing.T) {
	base := "etcd-endpoints: [http://a:1, http://b:1]\ninsecure: true\n"
	a, err := load(t, base+"metrics-address: 127.0.0.1:1\npeer_uri: qemu+tls://file/system\nlog-level: warn\n",
		map[string]string{"DROVER_METRICS_ADDRESS": "127.0.0.1:2", "DROVER_LOG_LEVEL": "error", "DROVER_LOG_FORMAT": ""},
		"--metrics-address", "127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	got := []string{a.MetricsAddress, a.Level, a.PeerURI, a.Format, strings.Join(a.Endpoints, " ")}
	want := []string{"127.0.0.1:3", "error", "qemu+tls://file/system", "text", "http://a:1 http://b:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flag, variable, file, default, list (-want +got):\n%s", diff)
	}
}

func TestLoadCapacity(t *testing.T) {
	a, err := load(t, "etcd-endpoints: http://a:1\ninsecure: yes\ncapacity-cores: 3.5\ncapacity-memory: 2147483648\ncapacity-bandwidth: 400mbit\ncapacity-reserved: 1GiB\ncapacity-vcpus: 32\n", nil,
		"--capacity-memory", "4GiB")
	if err != nil {
		t.Fatal(err)
	}
	want := hypervisor.Capacity{Cores: 3.5, Memory: 4 * hypervisor.GiB, Bandwidth: 50_000_000, Reserved: hypervisor.GiB, VCPUs: 32}
	if diff := cmp.Diff(want, a.Capacity); diff != "" {
		t.Errorf("capacity (-want +got):\n%s", diff)
	}
}

func TestLoadFlagTurnsOff(t *testing.T) {
	a, err := load(t, "etcd-endpoints: http://a:1\ninsecure: true\n", nil, "--migration-tls=false")
	if err != nil || a.MigrationTLS {
		t.Errorf("migration TLS %v, err %v; want it off", a.MigrationTLS, err)
	}
	a, err = load(t, "etcd-endpoints: https://a:1\ninsecure: true\n", nil, "--insecure=false")
	if err == nil || a.Insecure {
		t.Errorf("insecure %v, err %v; want the flag to win and the missing CA to be named", a.Insecure, err)
	}
}

func TestLoadFaults(t *testing.T) {
	ok := "etcd-endpoints: http://a:1\ninsecure: true\n"
	tests := []struct {
		name, file string
		args       []string
		want       []string
	}{
		{"unknown key", ok + "nmae: x\n", nil, []string{`unknown key "nmae"`}},
		{"two faults of the file", ok + "nmae: x\nload-source: moon\n", nil, []string{`unknown key "nmae"`, `load-source: "moon": want host or domains`}},
		{"key twice", ok + "name: a\nname: b\n", nil, []string{`"name"`}},
		{"key in two spellings", ok + "peer-uri: a\npeer_uri: b\n", nil, []string{"peer-uri is given twice"}},
		{"mapping", ok + "name: {a: b}\n", nil, []string{"want a value"}},
		{"not YAML", "name: [", nil, []string{"config"}},
		{"no endpoints", "", nil, []string{"etcd-endpoints is required"}},
		{"plain text not allowed", "etcd-endpoints: http://a:1\n", nil, []string{`"http://a:1" is plain text`}},
		{"https without authority", "etcd-endpoints: https://a:1\n", nil, []string{"tls-ca is required"}},
		{"endpoint without scheme", "etcd-endpoints: a:2379\n", nil, []string{"want a URL such as"}},
		{"certificate without key", ok, []string{"--tls-cert", "x"}, []string{"go together"}},
		{"authority missing", ok, []string{"--tls-ca", "/nonexistent/ca.pem"}, []string{"tls-ca: open /nonexistent/ca.pem"}},
		{"plain peer", "etcd-endpoints: https://a:1\n", []string{"--peer-uri", "qemu+tcp://x/system"}, []string{"qemu+tcp://x/system", "tls-ca is required"}},
		{"plain migration", "etcd-endpoints: https://a:1\n", []string{"--migration-tls=false"}, []string{"plain text", "tls-ca"}},
		{"name with slash", ok, []string{"--name", "a/b"}, []string{`name: "a/b"`}},
		{"size", ok, []string{"--capacity-memory", "lots"}, []string{"capacity-memory", "lots"}},
		{"cores", ok, []string{"--capacity-cores", "NaN"}, []string{"capacity-cores"}},
		{"vCPUs", ok, []string{"--capacity-vcpus", "-1"}, []string{"capacity-vcpus", "whole number"}},
		{"nothing left", ok, []string{"--capacity-memory", "4GiB", "--capacity-reserved", "4GiB"}, []string{"capacity-reserved", "nothing of 4"}},
		{"metrics", ok, []string{"--metrics-address", "9177"}, []string{"metrics-address"}},
		{"missing file", "", []string{"--config", "/nonexistent/agent.yaml"}, []string{"/nonexistent/agent.yaml"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.file, nil, tt.args...)
			var coder cli.ExitCoder
			if !errors.Is(err, ErrInvalid) || !errors.As(err, &coder) || coder.ExitCode() != 2 {
				t.Fatalf("error %v, want one that wraps ErrInvalid and exits with 2", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not name %q", err, w)
				}
			}
		})
	}
}

func TestAgentPeerURIDefault(t *testing.T) {
	a, err := load(t, "etcd-endpoints: http://a:1\ninsecure: true\n", nil)
	if err != nil || a.PeerURI != "qemu+tls://kvm1/system" {
		t.Errorf("peer URI %q, err %v", a.PeerURI, err)
	}
}

func TestSchedulerValidate(t *testing.T) {
	tests := []struct {
		name string
		set  func(*Scheduler)
		want string
	}{
		{"nowhere", func(*Scheduler) {}, "where is the store?"},
		{"embedded plain", func(s *Scheduler) { s.EmbeddedDir, s.EtcdListen = "/d", "http://127.0.0.1:1" }, "plain text"},
		{"embedded without certificate", func(s *Scheduler) { s.EmbeddedDir = "/d" }, "tls-ca, tls-cert and tls-key"},
		{"embedded insecure", func(s *Scheduler) { s.EmbeddedDir, s.EtcdListen, s.Insecure = "/d", "http://127.0.0.1:1", true }, ""},
		{"external", func(s *Scheduler) { s.Endpoints, s.Insecure = []string{"http://a:1"}, true }, ""},
		{"identity", func(s *Scheduler) { s.Endpoints, s.Insecure, s.Identity = []string{"http://a:1"}, true, "" }, "identity is required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := DefaultScheduler()
			s.Identity = "ctl1"
			tt.set(s)
			err := errors.Join(s.Validate()...)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Validate: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestValueDuration(t *testing.T) {
	d := time.Second
	v := Duration(&d)
	if err := v.Set("1m30s"); err != nil || d != 90*time.Second {
		t.Errorf("1m30s: %v, %v", d, err)
	}
	for _, bad := range []string{"", "5", "-1s", "soon"} {
		if err := v.Set(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, d)
		}
	}
}

// A file of any content gives settings or faults, never a panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"name: a", "name: [a, b]", "capacity-cores: 1e9", "a: {b: c}", "- x", "name: null\n", "? [a]: b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) { parse("file", text, DefaultAgent()) })
}
