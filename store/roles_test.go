package store

import (
	"slices"
	"testing"

	"drover/store/kv"
)

func may(list []kv.Access, key string, write bool) bool {
	return slices.ContainsFunc(list, func(a kv.Access) bool { return a.Covers(key, write) })
}

// Who writes what, for every kind of record there is: a=agent of kvm1, s=scheduler, d=admin, v=viewer.
func TestRolesWrite(t *testing.T) {
	const id = "0197"
	own, err := HostAccess("kvm1")
	if err != nil {
		t.Fatal(err)
	}
	holders := []struct {
		letter rune
		access []kv.Access
	}{
		{'a', append(RoleAgent.Access(), own...)},
		{'s', RoleScheduler.Access()},
		{'d', RoleAdmin.Access()},
		{'v', RoleViewer.Access()},
	}
	tests := []struct{ key, writers string }{
		{hostKey("kvm1"), "sd"},
		{reportKey("kvm1", partSession), "ad"},
		{reportKey("kvm1", partLoad), "ad"},
		{holderKey("kvm1", 7), "ad"},
		{reportKey("kvm2", partLoad), "d"},
		{reportKey("kvm11", partLoad), "d"}, // begins with the same letters
		{vmsPrefix + id, "sd"},
		{policyKey, "d"},
		{migrationKey(id), "asd"},
		{progressKey(id), "asd"},
		{activeKey(id), "asd"},
		{shareKey(id), "asd"},
		{runsPrefix + id, "sd"},
		{askKey("kvm1", id), "asd"},
		{askKey("kvm2", id), "asd"},
		{answerKey("kvm1", id), "asd"},
		{leaderKey, "sd"},
		{historyKey(id), "sd"},
		{eventsPrefix + id, "sd"},
		{profilesPrefix + id, "sd"},
		{"/other/" + id, ""},
	}
	for _, tt := range tests {
		got := ""
		for _, h := range holders {
			if may(h.access, tt.key, true) {
				got += string(h.letter)
			}
			if read := may(h.access, tt.key, false); read != may(RoleViewer.Access(), tt.key, false) {
				t.Errorf("%s: %c may read: %v; all members read the same", tt.key, h.letter, read)
			}
		}
		if got != tt.writers {
			t.Errorf("%s is written by %q, want %q", tt.key, got, tt.writers)
		}
	}
}

func TestHostAccessRefusesNamesThatLeaveTheHost(t *testing.T) {
	for _, name := range []string{"", "kvm1/../kvm2", "a/b"} {
		if list, err := HostAccess(name); err == nil {
			t.Errorf("HostAccess(%q) = %v, want an error", name, list)
		}
	}
	if got := Role("guest").Access(); got != nil {
		t.Errorf("an unknown role may do %v", got)
	}
}
