package throttle

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnder(t *testing.T) {
	v1 := "24 1 0:3 / /sys rw - sysfs sysfs rw\n30 24 0:1 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu\n"
	for _, tc := range []struct {
		name, mounts, cgroup, controller, want string
	}{
		{"v1", v1, "1:cpu:/machine/web/vcpu0\n", "cpu", "/sys/fs/cgroup/cpu/machine/web/vcpu0"},
		{
			"v1, two controllers in one hierarchy", "30 24 0:1 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
			"4:cpu,cpuacct:/machine/web/vcpu0\n", "cpuacct", "/sys/fs/cgroup/cpu,cpuacct/machine/web/vcpu0",
		},
		{
			"v2", "30 24 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"0::/machine.slice/a\\x2db.scope/libvirt/vcpu0\n", unified, "/sys/fs/cgroup/machine.slice/a\\x2db.scope/libvirt/vcpu0",
		},
		{
			"part of a hierarchy", "30 24 0:1 /box /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			"1:cpu:/box/machine/vcpu0\n", "cpu", "/sys/fs/cgroup/cpu/machine/vcpu0",
		},
		{
			"a part that only begins alike", "30 24 0:1 /box /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			"1:cpu:/boxes/machine/vcpu0\n", "cpu", "",
		},
		{"outside our control group namespace", v1, "1:cpu:/../machine/vcpu0\n", "cpu", ""},
		{"not mounted", "24 1 0:3 / /sys rw - sysfs sysfs rw\n", "1:cpu:/machine/vcpu0\n", "cpu", ""},
		{
			"a blank in the path", `30 24 0:1 / /my\040cg rw - cgroup cgroup rw,cpu` + "\n",
			"1:cpu:/machine/vcpu0\n", "cpu", "/my cg/machine/vcpu0",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, _, _ := under(tc.controller, parseCgroup(tc.cgroup), parseMounts(tc.mounts))
			if dir != tc.want {
				t.Errorf("got %q, want %q", dir, tc.want)
			}
		})
	}
}

func TestFind(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		tr := newTree(t, func(tr *tree) { tr.v2, tr.vcpus = v2, 12 })
		// A process that only talks about the domain is no QEMU of it.
		tr.start(5000, "virsh", 300)
		tr.put("proc/5000/cmdline", "sh\x00-uuid\x00"+string(guestID)+"\x00")
		tr.put("proc/5000/task/5000/cgroup", "1:cpu:/\n0::/\n")
		p, groups, err := tr.kernel.find(guestID)
		if err != nil {
			t.Fatal(err)
		}
		if want := (process{PID: qemuPID, Start: 200}); p != want {
			t.Errorf("v2 %t: process %v, want %v", v2, p, want)
		}
		var got, want []string
		for i, g := range groups {
			got = append(got, fmt.Sprint(g.vcpu, " ", g.dir))
			want = append(want, fmt.Sprint(i, " ", tr.dir(i)))
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got) != 12 {
			t.Errorf("v2 %t: groups (-want +got):\n%s", v2, diff)
		}
	}
}

func TestFindNothing(t *testing.T) {
	tr := newTree(t, nil)
	_, _, err := tr.kernel.find("99999999-2222-4333-8444-555555555555")
	wantError(t, "another domain", err, ErrNotRunning)

	tr.startQEMU(5000, 300)
	_, _, err = tr.kernel.find(guestID)
	wantError(t, "two processes", err, ErrAmbiguous)

	for i := range tr.vcpus {
		for _, pid := range []int{qemuPID, 5000} {
			tr.put(fmt.Sprintf("proc/%d/task/%d/cgroup", pid, pid+1+i), tr.member("emulator"))
		}
	}
	_, _, err = tr.kernel.find(guestID)
	wantError(t, "no groups", err, ErrNoGroups)
	tr.endQEMU()
	if err := os.RemoveAll(filepath.Join(tr.root, "proc/5000")); err != nil {
		t.Fatal(err)
	}
	_, _, err = tr.kernel.find(guestID)
	wantError(t, "no process", err, ErrNotRunning)
}
