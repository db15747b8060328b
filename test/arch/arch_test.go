// Package arch_test keeps the direction of imports: cmd -> store -> scheduler -> precopy ->
// hypervisor, cgo only where libvirt and the kernel need it, etcd only in store.
package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// layers from bottom to top: a package may import its own layer and those before it.
var layers = []string{"hypervisor", "precopy", "scheduler", "store", "cmd"}

func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "libvirt_dlopen", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "drover/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

func layerOf(path string) int {
	rest, ok := strings.CutPrefix(path, "drover/")
	if !ok {
		return -1
	}
	top, _, _ := strings.Cut(rest, "/")
	return slices.Index(layers, top)
}

func within(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool {
		return path == "drover/"+d || strings.HasPrefix(path, "drover/"+d+"/")
	})
}

// breach says which rule the import breaks, "" for none. Test files of a package may import more:
// only the rules about direction hold for them too.
func breach(from, to string) string {
	lf, lt := layerOf(from), layerOf(to)
	switch {
	case lf >= 0 && lt > lf:
		return "imports go cmd -> store -> scheduler -> precopy -> hypervisor"
	case within(to, "cmd") && !within(from, "cmd"):
		return "nobody imports cmd"
	case within(to, "test") && !within(from, "test") && !(within(from, "cmd/drover-lab") && within(to, "test/sim")):
		return "nobody imports test"
	case strings.HasPrefix(to, "go.etcd.io/etcd/server") && !within(from, "store/embed"):
		return "embedded etcd only in store/embed"
	case strings.HasPrefix(to, "go.etcd.io/etcd/") && !within(from, "store"):
		return "etcd only in store"
	case strings.HasPrefix(to, "libvirt.org/go/libvirt") && to != "libvirt.org/go/libvirtxml" && !within(from, "hypervisor/kvm", "hypervisor/qmp"):
		return "libvirt only in hypervisor/kvm and hypervisor/qmp"
	case strings.HasPrefix(to, "github.com/digitalocean/") && !within(from, "hypervisor/qmp"):
		return "go-qemu only in hypervisor/qmp"
	case strings.HasPrefix(to, "github.com/urfave/cli") && !within(from, "cmd"):
		return "urfave/cli only in cmd"
	case to == "C" && !within(from, "hypervisor/kvm", "hypervisor/throttle"):
		return "cgo only in hypervisor/kvm and hypervisor/throttle"
	}
	return ""
}

func TestImportDirection(t *testing.T) {
	for _, p := range load(t) {
		for _, to := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if why := breach(p.ImportPath, to); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, to, why)
			}
		}
		if within(p.ImportPath, "cmd/drover", "cmd/drover-lab") {
			for _, dep := range p.Deps {
				if strings.HasPrefix(dep, "libvirt.org/go/libvirt") && dep != "libvirt.org/go/libvirtxml" {
					t.Errorf("%s depends on %s: it must be pure Go", p.ImportPath, dep)
				}
			}
		}
	}
}

func TestBreachCatches(t *testing.T) {
	for _, tc := range []struct{ from, to string }{
		{"drover/precopy", "drover/scheduler"},
		{"drover/hypervisor/sim", "drover/precopy"},
		{"drover/store", "drover/cmd/internal/out"},
		{"drover/scheduler", "go.etcd.io/etcd/client/v3"},
		{"drover/store", "go.etcd.io/etcd/server/v3/embed"},
		{"drover/cmd/drover", "libvirt.org/go/libvirt"},
		{"drover/cmd/drover", "drover/test/lab"},
	} {
		if breach(tc.from, tc.to) == "" {
			t.Errorf("%s may import %s, want a breach", tc.from, tc.to)
		}
	}
	for _, tc := range []struct{ from, to string }{
		{"drover/store", "drover/scheduler/fleet"},
		{"drover/cmd/drover-agent", "drover/hypervisor/kvm"},
		{"drover/test/lab", "drover/store"},
	} {
		if why := breach(tc.from, tc.to); why != "" {
			t.Errorf("%s importing %s: %s, want none", tc.from, tc.to, why)
		}
	}
}
