package qmp

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
)

// fakeQEMU answers every command alike and keeps the last.
type fakeQEMU struct {
	reply string
	err   error
	got   string
}

func (f *fakeQEMU) MonitorCommand(ctx context.Context, _ hypervisor.DomainID, command string) (string, error) {
	f.got = command
	if _, ok := ctx.Deadline(); !ok {
		return "", errors.New("no deadline")
	}
	return f.reply, f.err
}

const migrating = `{"return":{"status":"some-new-word","total-time":1500,"setup-time":20,"expected-downtime":300,
 "ram":{"total":1000,"remaining":400,"transferred":600,"precopy-bytes":500,"downtime-bytes":60,"postcopy-bytes":40,
 "multifd-bytes":7,"pages-per-second":11,"dirty-sync-count":3,"new-field":{"a":1}},
 "xbzrle-cache":{"cache-miss":5,"encoding-rate":1.5},"blocked-reasons":["a disk","a device"]},"id":"libvirt-1"}`

func TestMigrationDetail(t *testing.T) {
	q := &fakeQEMU{reply: migrating}
	got, err := MigrationDetail(t.Context(), q, "d")
	if err != nil {
		t.Fatal(err)
	}
	want := Detail{
		Status: "some-new-word", Setup: 20 * time.Millisecond, Elapsed: 1500 * time.Millisecond,
		Remaining: 400, Transferred: 600, Precopy: 500, Downtime: 60, Postcopy: 40, Multifd: 7,
		PagesPerSec: 11, DirtySyncs: 3, CacheMiss: 5, EncodingRate: 1.5, BlockedReasons: []string{"a disk", "a device"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if q.got != `{"execute":"query-migrate"}` {
		t.Errorf("sent %s", q.got)
	}
	reasons, err := BlockedReasons(t.Context(), &fakeQEMU{reply: `{"return":{}}`}, "d")
	if err != nil || len(reasons) != 0 {
		t.Errorf("never migrated: %v, %v", reasons, err)
	}
}

func TestRunReportsRefusal(t *testing.T) {
	q := &fakeQEMU{reply: `{"id":"libvirt-2","error":{"class":"CommandNotFound","desc":"no such command"}}`}
	_, err := MigrationDetail(t.Context(), q, "d")
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" || refused.Command != "query-migrate" {
		t.Errorf("got %v, want QEMU's refusal", err)
	}
	away := errors.New("libvirt away")
	if _, err := MigrationDetail(t.Context(), &fakeQEMU{err: away}, "d"); !errors.Is(err, away) {
		t.Errorf("got %v, want what libvirt said", err)
	}
	if _, err := MigrationDetail(t.Context(), &fakeQEMU{reply: "{"}, "d"); err == nil {
		t.Error("half a reply was taken")
	}
}

func TestRunSendsOnlyQueries(t *testing.T) {
	for _, command := range []string{
		`{"execute":"quit"}`,
		`{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":1}}`,
		`{"execute":"human-monitor-command","arguments":{"command-line":"quit"}}`,
		`{"execute":"query-status","execute":"quit"}`,
		`{"exec-oob":"migrate-pause"}`,
		`{}`,
	} {
		q := &fakeQEMU{reply: `{"return":{}}`}
		_, err := NewMonitor(t.Context(), q, "d").Run([]byte(command))
		var denied *NotAllowedError
		if !errors.As(err, &denied) || q.got != "" {
			t.Errorf("%s: got %v, sent %q; want it refused", command, err, q.got)
		}
	}
	// Of two keys the last counts here; what is sent must not mean the first to QEMU.
	q := &fakeQEMU{reply: `{"return":{}}`}
	if _, err := NewMonitor(t.Context(), q, "d").Run([]byte(`{"execute":"quit","execute":"query-status","exec-oob":"quit"}`)); err != nil {
		t.Fatal(err)
	}
	if q.got != `{"execute":"query-status"}` {
		t.Errorf("sent %s", q.got)
	}
}

func TestMonitorHasNoEvents(t *testing.T) {
	m := NewMonitor(t.Context(), &fakeQEMU{}, "d")
	if err := m.Connect(); err != nil {
		t.Error(err)
	}
	if _, err := m.Events(t.Context()); !errors.Is(err, qmp.ErrEventsNotSupported) {
		t.Errorf("events: %v", err)
	}
	if err := m.Disconnect(); err != nil {
		t.Error(err)
	}
}
