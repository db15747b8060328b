package conf

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/cmd/internal/pki"
)

// The sample files are what packages install in /etc/drover. They must name every setting, once,
// either as it is or as a commented-out example, and nothing else; what is set in them differs from
// the defaults only where no default can be right.
func TestSamples(t *testing.T) {
	tests := []struct {
		file     string
		settings func() Settings
		differs  []string // from the defaults
	}{
		{"agent.yaml", func() Settings { return DefaultAgent() }, []string{"etcd-endpoints", "tls-ca", "tls-cert", "tls-key"}},
		{
			"scheduler.yaml",
			func() Settings { return DefaultScheduler() },
			[]string{"embedded-etcd", "etcd-listen", "tls-ca", "tls-cert", "tls-key"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "config", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			settings := tt.settings()
			var want []string
			for _, f := range settings.Fields() {
				want = append(want, f.Key)
			}
			slices.Sort(want)
			got := sampleKeys(string(text))
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keys of the sample (-settings +sample):\n%s", diff)
			}
			shipped := withCertificates(t, string(text))
			loadSample(t, shipped, settings)
			if diff := cmp.Diff(tt.differs, differences(settings, tt.settings())); diff != "" {
				t.Errorf("settings of the sample that are not defaults (-want +got):\n%s", diff)
			}
			// The examples must be values that the program takes.
			loadSample(t, commentedKey.ReplaceAllString(shipped, "$1:"), tt.settings())
		})
	}
}

var (
	commentedKey = regexp.MustCompile(`(?m)^#([a-z-]+):`)
	anyKey       = regexp.MustCompile(`(?m)^#?([a-z-]+):`)
	tlsDir       = regexp.MustCompile(`/etc/drover/tls[a-z-]*`)
)

func sampleKeys(text string) []string {
	var keys []string
	for _, m := range anyKey.FindAllStringSubmatch(text, -1) {
		keys = append(keys, m[1])
	}
	return keys
}

// withCertificates puts real files where the sample says that the operator puts them.
func withCertificates(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.CreateCA(dir, pki.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.Issue(pki.Request{Role: pki.RoleScheduler, Name: "ctl1"})
	if err != nil {
		t.Fatal(err)
	}
	return tlsDir.ReplaceAllString(text, id.Dir)
}

// loadSample reads a sample as the program does, without flags and environment.
func loadSample(t *testing.T, text string, s Settings) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	look := func(key string) (string, bool) { return path, key == "config" }
	if err := Load(look, s); err != nil {
		t.Errorf("load: %s", strings.ReplaceAll(err.Error(), "; ", "\n"))
	}
}

// differences lists the settings whose value is not the default. What Validate fills in counts as
// the default.
func differences(got, defaults Settings) []string {
	defaults.Validate()
	byKey := map[string]string{}
	for _, f := range defaults.Fields() {
		byKey[f.Key] = f.Value.String()
	}
	var keys []string
	for _, f := range got.Fields() {
		if f.Value.String() != byKey[f.Key] {
			keys = append(keys, f.Key)
		}
	}
	slices.Sort(keys)
	return keys
}
