package guest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

func good() Spec {
	return Spec{
		Name: "g1", Host: "kvm1", Memory: 256 * hypervisor.MiB, VCPUs: 1, WSS: 64 * hypervisor.MiB, Rate: 100,
		Pattern: Word, Disk: NoDisk, Beat: DefaultBeat,
	}
}

func TestSpecCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Spec)
		want   error
	}{
		{"good", func(*Spec) {}, nil},
		{"name with a quote", func(s *Spec) { s.Name = "g'1" }, state.ErrName},
		{"no CPU", func(s *Spec) { s.VCPUs = 0 }, ErrSpec},
		{"too many CPUs", func(s *Spec) { s.VCPUs = 17 }, ErrSpec},
		{"negative rate", func(s *Spec) { s.Rate = -1 }, ErrSpec},
		{"unknown pattern", func(s *Spec) { s.Pattern = "wild" }, ErrSpec},
		{"beats too far apart", func(s *Spec) { s.Beat = time.Second }, ErrSpec},
		{"no beats", func(s *Spec) { s.Beat = 0 }, ErrSpec},
		{"unknown disk", func(s *Spec) { s.Disk = "floppy" }, ErrSpec},
		{"working set does not fit", func(s *Spec) { s.WSS = 200 * hypervisor.MiB }, ErrSpec},
		{"no working set", func(s *Spec) { s.WSS = 0 }, ErrSpec},
		{"disk without size", func(s *Spec) { s.Disk = SharedDisk }, ErrSpec},
		{"images for a shared disk", func(s *Spec) { s.Disk, s.DiskSize, s.Prepare = SharedDisk, hypervisor.GiB, []string{"kvm2"} }, ErrSpec},
	} {
		s := good()
		tc.change(&s)
		if err := s.Check(); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestUUIDIsFixedPerNameAndLab(t *testing.T) {
	// Written down: guests of a lab made by another build must be recognised.
	if got := UUID("lab", "g1").String(); got != "3f896189-9953-535b-874e-79af947e4634" {
		t.Errorf("identity of g1 is %s, not what it always was", got)
	}
	if UUID("lab", "g1") == UUID("lab", "g2") || UUID("lab", "g1") == UUID("lab2", "g1") {
		t.Error("different guests share an identity")
	}
}

func TestXML(t *testing.T) {
	type parsed struct {
		Type    string `xml:"type,attr"`
		Name    string `xml:"name"`
		UUID    string `xml:"uuid"`
		Memory  int    `xml:"memory"`
		Machine struct {
			Value string `xml:"machine,attr"`
		} `xml:"os>type"`
		Cmdline string    `xml:"os>cmdline"`
		ACPI    *struct{} `xml:"features>acpi"`
		CPU     struct {
			Mode string `xml:"mode,attr"`
		} `xml:"cpu"`
		Disks []struct {
			Source struct {
				File string `xml:"file,attr"`
			} `xml:"source"`
		} `xml:"devices>disk"`
		Serial struct {
			Path   string `xml:"path,attr"`
			Append string `xml:"append,attr"`
		} `xml:"devices>serial>source"`
	}
	for _, kind := range []string{"qemu", "kvm"} {
		for _, disk := range []string{"", "/x/g1.qcow2"} {
			m := machine{
				Record: Record{Spec: good(), UUID: "u", Serial: "/x/g1.serial", DiskPath: disk},
				Type:   kind, Machine: "pc-i440fx-10.0", Kernel: "/k", Initrd: "/i",
			}
			text, err := m.xml()
			if err != nil {
				t.Fatal(err)
			}
			var d parsed
			if err := xml.Unmarshal([]byte(text), &d); err != nil {
				t.Fatalf("%v:\n%s", err, text)
			}
			if d.Type != kind || d.Name != "g1" || d.UUID != "u" || d.Memory != 256*1024 || d.Machine.Value != "pc-i440fx-10.0" {
				t.Errorf("domain is %+v", d)
			}
			if d.ACPI == nil || d.Serial.Append != "on" || (len(d.Disks) == 1) != (disk != "") {
				t.Errorf("acpi %v, serial %+v, disks %v for disk %q", d.ACPI, d.Serial, d.Disks, disk)
			}
			if want := map[string]string{"qemu": "custom", "kvm": "host-model"}[kind]; d.CPU.Mode != want {
				t.Errorf("CPU mode %q for %s, want %q", d.CPU.Mode, kind, want)
			}
			if !strings.Contains(d.Cmdline, "wss=67108864 rate=100 pattern=word beat=5000") {
				t.Errorf("command line %q", d.Cmdline)
			}
		}
	}
}

func TestCPIO(t *testing.T) {
	files := []cpioFile{{"init", []byte("hello")}, {"a.ko", bytes.Repeat([]byte("x"), 4096)}, {"empty", nil}}
	var b bytes.Buffer
	if err := writeCPIO(&b, files); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := 0; ; i++ {
		name, data := readCPIO(t, &b)
		if name == "TRAILER!!!" {
			break
		}
		names = append(names, name)
		if !bytes.Equal(data, files[i].data) {
			t.Errorf("%s: content differs", name)
		}
	}
	if diff := cmp.Diff([]string{"init", "a.ko", "empty"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if b.Len() != 0 {
		t.Errorf("%d bytes after the trailer", b.Len())
	}
}

// readCPIO reads one entry as the kernel does: header and name, then data, each padded to four bytes.
func readCPIO(t *testing.T, r *bytes.Buffer) (string, []byte) {
	t.Helper()
	header := string(r.Next(110))
	if !strings.HasPrefix(header, "070701") || len(header) != 110 {
		t.Fatalf("bad header %q", header)
	}
	field := func(i int) int {
		n, err := strconv.ParseInt(header[6+8*i:14+8*i], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	size, nameSize := field(6), field(11)
	name := string(bytes.TrimRight(r.Next(nameSize), "\x00"))
	r.Next(-(110 + nameSize) & 3)
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil && size > 0 {
		t.Fatal(err)
	}
	r.Next(-size & 3)
	return name, data
}

func TestParseDomains(t *testing.T) {
	table := " 1    g1     running\n -    g2     shut off\n 12   other  paused\n\n"
	want := []Domain{
		{Name: "g1", State: "running", Active: true, Persistent: true},
		{Name: "g2", State: "shut off", Persistent: true},
		{Name: "other", State: "paused", Active: true},
	}
	if diff := cmp.Diff(want, parseDomains(table, []string{"g1", "g2"})); diff != "" {
		t.Errorf("domains (-want +got):\n%s", diff)
	}
	if got := parseDomains("\n", nil); got != nil {
		t.Errorf("no domains: got %v", got)
	}
}

func TestKernelPackage(t *testing.T) {
	show := "Package: linux-image-cloud-amd64\nPre-Depends: x\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), y\nDescription: linux-image-9\n"
	if got := dependsRE.FindString(dependsLine(show)); got != "linux-image-6.1.0-56-cloud-amd64" {
		t.Errorf("package %q", got)
	}
	if got := dependsRE.FindString(dependsLine("Package: x\n")); got != "" {
		t.Errorf("package %q without dependencies", got)
	}
}

func TestMachineAlias(t *testing.T) {
	help := "microvm              microvm (i386)\npc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\n" +
		"pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\nq35                  Standard PC (Q35) (alias of pc-q35-10.0)\n"
	if m := aliasRE.FindStringSubmatch(help); m == nil || m[1] != "pc-i440fx-10.0" {
		t.Errorf("machine %v, want pc-i440fx-10.0", m)
	}
}
