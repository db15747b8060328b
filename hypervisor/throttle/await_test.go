package throttle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// thread puts a thread of the QEMU process beside those of its vCPUs.
func (tr *tree) thread(id int, name, syscall string) {
	tr.put(fmt.Sprintf("proc/%d/task/%d/comm", qemuPID, id), name+"\n")
	tr.put(fmt.Sprintf("proc/%d/task/%d/syscall", qemuPID, id), syscall+"\n")
}

func TestMigrationThread(t *testing.T) {
	for name, tc := range map[string]struct {
		threads []string
		want    int
	}{
		"none":               {[]string{"CPU 0/TCG"}, 0},
		"QEMU 10":            {[]string{"CPU 0/TCG", "mig/src/main"}, 5001},
		"QEMU 8":             {[]string{"live_migration"}, 5000},
		"several streams":    {[]string{"mig/src/main", "mig/src/send_0"}, 0},
		"several of earlier": {[]string{"multifdsend_3", "live_migration"}, 0},
	} {
		tr := newTree(t, nil)
		for i, comm := range tc.threads {
			tr.thread(5000+i, comm, "running")
		}
		if got := tr.kernel.migration(qemuPID); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// What a thread waits for without limit of time, as the kernel of a machine with amd64 and of one with arm64 says it.
func TestWaits(t *testing.T) {
	tr := newTree(t, nil)
	for text, want := range map[string]string{
		"running": "",
		futex + " 0x55d0 0x189 0x0 0x0 0x0 0xffffffff 0x7f 0x7f":    "0x55d0",
		futex + " 0x55d0 0x80 0x2 0x0 0x7f 0x0 0x7f 0x7f":           "0x55d0",
		futex + " 0x55d0 0x189 0x0 0x7f12 0x0 0xffffffff 0x7f 0x7f": "", // the limit of its rate
		"7 0x55d0 0x2 0xffffffff 0x0 0x0 0x0 0x7f 0x7f":             "", // the link
		"-1 0x7f 0x7f": "",
	} {
		tr.thread(5000, "mig/src/main", text)
		if got := tr.kernel.waits(qemuPID, 5000); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := tr.kernel.waits(qemuPID, 5001); got != "" {
		t.Errorf("of a thread that is gone: %q", got)
	}
}

// A vCPU that stands still while the migration thread waits is given a piece at once, and another at most; one that runs is
// not, nor any while the thread waits for the link or each time for something else.
func TestAttend(t *testing.T) {
	const waiting = "%s 0x%x 0x189 0x0 0x0 0x0 0xffffffff 0x7f 0x7f"
	tr := newTree(t, nil)
	th := tr.throttler(&fakeKeeper{})
	synctest.Test(t, func(t *testing.T) {
		tr.thread(5000, "mig/src/main", "7 0x7f 0x1")
		x := tr.begin(t, th)
		writes := tr.slowed(t, x)
		used := time.Duration(0)
		pass := func(what string, looks int, syscall func(look int) string, each int) {
			t.Helper()
			before := writes[tr.dir(1)]
			for n := range looks {
				tr.thread(5000, "mig/src/main", syscall(n))
				used += ms
				tr.counters(0, used, 0)
				time.Sleep(awaitEvery)
				synctest.Wait()
			}
			if writes[tr.dir(0)] != 0 || writes[tr.dir(1)]-before != each {
				t.Errorf("%s: writes %v, %d of them before; want %d more for vCPU 1", what, writes, before, each)
			}
		}
		pass("the link", 10, func(int) string { return "7 0x7f 0x1" }, 0)
		pass("a lock for a moment", 1, func(int) string { return fmt.Sprintf(waiting, futex, 1) }, 0)
		pass("many locks", 10, func(n int) string { return fmt.Sprintf(waiting, futex, 2+n) }, 0)
		pass("the vCPUs", 2, func(int) string { return fmt.Sprintf(waiting, futex, 1) }, 1)
		pass("and again", 10, func(int) string { return fmt.Sprintf(waiting, futex, 1) }, 1)
		pass("the link", 1, func(int) string { return "7 0x7f 0x1" }, 0)
		pass("the vCPUs again", 10, func(int) string { return fmt.Sprintf(waiting, futex, 1) }, 2)
		tr.onWrite = nil
		if err := x.End(); err != nil {
			t.Fatal(err)
		}
		before := tr.writes
		time.Sleep(time.Second)
		synctest.Wait()
		if tr.writes != before {
			t.Error("it is given pieces after the end")
		}
	})
}
