package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// testCorruption changes a guest's memory behind its back: a check that cannot fail proves nothing about migrations.
func (l lab) testCorruption() {
	l.run("guest", "start", "victim", "--pattern", "idle", "--wss", "16MiB")
	l.run("guest", "verify", "victim")
	if n := l.corrupt(l.qemu("victim")); n < 1000 {
		l.Fatalf("found %d pages of the working set, want about 4096", n)
	}
	if out, msg, code := l.try("guest", "verify", "victim"); code != 1 || !strings.Contains(msg, "corrupt") {
		l.Errorf("verify of a corrupt guest: exit %d, %s%s", code, out, msg)
	}
	l.run("guest", "stop", "victim")
}

// qemu returns the machine's pid of the guest's QEMU on kvm1, which is told from other labs' by its pid namespace.
func (l lab) qemu(guest string) string {
	l.Helper()
	var env struct{ PID int }
	l.json(&env, "env", "kvm1")
	args, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.Fatal(err)
	}
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", env.PID))
	if err != nil {
		l.Fatal(err)
	}
	for _, a := range args {
		data, _ := os.ReadFile(a)
		ns, _ := os.Readlink(filepath.Join(filepath.Dir(a), "ns/pid"))
		if ns == want && bytes.Contains(data, []byte("guest="+guest+",")) {
			return filepath.Base(filepath.Dir(a))
		}
	}
	l.Fatalf("guest %s has no QEMU", guest)
	return ""
}

// corrupt overwrites half of every page that looks like the guest program's: words at a fixed distance from each other.
// It returns how many there were.
func (l lab) corrupt(pid string) int {
	l.Helper()
	mem, err := os.OpenFile("/proc/"+pid+"/mem", os.O_RDWR, 0)
	if err != nil {
		l.Fatal(err)
	}
	defer mem.Close()
	from, to := l.ram(pid)
	const step = 0x9e3779b97f4a7c15
	page, found := make([]byte, 4096), 0
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(page[8*i:]) }
	for at := from; at < to; at += 4096 {
		if _, err := mem.ReadAt(page, at); err != nil {
			l.Fatal(err)
		}
		if word(2)-word(1) != step || word(511)-word(510) != step {
			continue
		}
		found++
		if _, err := mem.WriteAt(bytes.Repeat([]byte{0xee}, 2048), at+2048); err != nil {
			l.Fatal(err)
		}
	}
	return found
}

// ram returns where the guest's 256 MiB are in QEMU's address space.
func (l lab) ram(pid string) (from, to int64) {
	l.Helper()
	f, err := os.Open("/proc/" + pid + "/maps")
	if err != nil {
		l.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if _, err := fmt.Sscanf(sc.Text(), "%x-%x", &from, &to); err == nil && to-from == 256<<20 {
			return from, to
		}
	}
	l.Fatal("QEMU has no mapping of the guest's size")
	return 0, 0
}
