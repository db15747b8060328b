package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/cmd/internal/pki"
	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/embed"
	"drover/store/etcd"
	"drover/store/kv"
)

// authWorld is an embedded store over TLS and a fleet's certificates.
type authWorld struct {
	t    *testing.T
	dir  string
	ca   *pki.CA
	url  string
	life context.Context
}

func newAuthWorld(t *testing.T) *authWorld {
	t.Helper()
	w := &authWorld{t: t, dir: t.TempDir(), life: t.Context()}
	var err error
	if w.ca, err = pki.CreateCA(w.dir, pki.CAOptions{}); err != nil {
		t.Fatal(err)
	}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	for _, r := range []pki.Request{
		{Role: pki.RoleScheduler, Name: "ctl1", IPs: loopback},
		{Role: pki.RoleAgent, Name: "kvm1"},
		{Role: pki.RoleAgent, Name: "kvm2"},
		{Role: pki.RoleAdmin, Name: "ada"},
		{Role: pki.RoleAdmin, Name: "bob"},
		{Role: pki.RoleViewer, Name: "eve"},
	} {
		w.issue(r)
	}
	ctl := pki.IdentityDir(w.dir, pki.RoleScheduler, "ctl1")
	server, err := embed.Start(t.Context(), embed.Config{
		Dir: filepath.Join(t.TempDir(), "etcd"), ListenURL: "https://127.0.0.1:0", NoSync: true,
		CA: filepath.Join(ctl, "ca-cert.pem"), Cert: filepath.Join(ctl, "cert.pem"), Key: filepath.Join(ctl, "key.pem"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	w.url = server.Endpoints()[0]
	return w
}

func (w *authWorld) issue(r pki.Request) {
	w.t.Helper()
	if _, err := w.ca.Issue(r); err != nil {
		w.t.Fatal(err)
	}
}

// as opens the store with one identity's certificate.
func (w *authWorld) as(r pki.Role, name string) *store.Store {
	w.t.Helper()
	dir := pki.IdentityDir(w.dir, r, name)
	client, err := etcd.Open(etcd.Config{
		Endpoints: []string{w.url}, CA: filepath.Join(dir, "ca-cert.pem"),
		Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := store.New(client)
	w.t.Cleanup(func() { _, _ = s.Close(), client.Close() })
	return s
}

// drover runs the command line as an administrator or viewer.
func (w *authWorld) drover(r pki.Role, name string, args ...string) (status int, stdout, stderr string) {
	w.t.Helper()
	dir := pki.IdentityDir(w.dir, r, name)
	all := append([]string{"drover"}, args...)
	all = append(all, "--etcd-endpoints", w.url, "--tls-ca", filepath.Join(dir, "ca-cert.pem"),
		"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem"))
	if len(args) > 2 && (args[2] == "setup" || args[2] == "show") {
		all = append(all, "--dir", w.dir)
	}
	var o, e bytes.Buffer
	status = run(w.life, all, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

func (w *authWorld) setup(name string, more ...string) string {
	w.t.Helper()
	status, stdout, stderr := w.drover(pki.RoleAdmin, name, append([]string{"store", "auth", "setup"}, more...)...)
	if status != 0 {
		w.t.Fatalf("setup as %s: %d %s", name, status, stderr)
	}
	return stdout
}

func wantDenied(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, kv.ErrDenied) {
		t.Errorf("%s: %v, want %v", what, err, kv.ErrDenied)
	}
}

// agentSession registers a host and publishes, as its agent does.
func (w *authWorld) register(s *store.Store, host string) (*store.AgentSession, error) {
	session, err := s.Register(w.life, fleet.Session{
		Host: host, LibvirtUUID: "libvirt-" + host, Instance: host, Version: "test", Started: time.Now(),
	}, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return session, errors.Join(
		session.PublishFacts(w.life, hypervisor.HostFacts{Name: host, LibvirtUUID: "libvirt-" + host}),
		session.PublishLoad(w.life, hypervisor.HostLoad{At: time.Now()}))
}

// Everything that members of a fleet do works with authentication on, and a member that was connected
// before it was switched on goes on.
func TestAuthLetsTheFleetWork(t *testing.T) {
	w := newAuthWorld(t)
	kvm2 := w.as(pki.RoleAgent, "kvm2")
	session2, err := w.register(kvm2, "kvm2") // before the switch
	if err != nil {
		t.Fatal(err)
	}
	ada := w.as(pki.RoleAdmin, "ada")
	view, err := ada.OpenView(w.life)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	w.setup("ada")

	kvm1, ctl := w.as(pki.RoleAgent, "kvm1"), w.as(pki.RoleScheduler, "ctl1")
	session1, err := w.register(kvm1, "kvm1")
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	if err := session2.PublishLoad(w.life, hypervisor.HostLoad{At: time.Now(), CPU: 1}); err != nil {
		t.Errorf("a session of before: %v", err)
	}
	lead, err := ctl.Campaign(w.life, "ctl1", 5*time.Second)
	if err != nil {
		t.Fatalf("campaign: %v", err)
	}
	fence := lead.Fence()
	for _, host := range []string{"kvm1", "kvm2"} {
		if err := ctl.BindHost(w.life, fence, host, "libvirt-"+host); err != nil {
			t.Errorf("bind %s: %v", host, err)
		}
	}
	w.ask(kvm1, session1, kvm2, session2, ctl, ada)
	m := w.migrate(ada, ctl, fence, kvm1, session1)
	if err := errors.Join(
		ctl.Retire(w.life, fence, m),
		ctl.Prune(w.life, fence, store.Retention{HistoryKeep: 10, EventsKeep: 10}),
		ada.Record(w.life, store.Event{Actor: "ada", Kind: "test", Subject: "kvm1"}),
		ctl.Record(w.life, store.Event{Actor: "ctl1", Kind: "test", Subject: "kvm1"}),
	); err != nil {
		t.Errorf("retire, prune and record: %v", err)
	}
	if history, err := kvm1.History(w.life, 10); err != nil || len(history) != 1 {
		t.Errorf("history: %d records, %v; want the one migration", len(history), err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for view.Snapshot() == nil || view.Snapshot().Hosts["kvm1"] == nil || !view.Snapshot().Hosts["kvm1"].Alive() {
		if time.Now().After(deadline) {
			t.Fatal("a view of before the switch does not see what came after it")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := errors.Join(lead.Resign(w.life), session1.Close(w.life), session2.Close(w.life)); err != nil {
		t.Errorf("resign and close: %v", err)
	}
	if _, err := ada.Backup(w.life, &bytes.Buffer{}); err != nil {
		t.Errorf("backup: %v", err)
	}
	if err := ada.ForgetHost(w.life, "kvm2"); err != nil {
		t.Errorf("forget: %v", err)
	}
}

// ask has every kind of member put questions to every agent, some at the same time: they share leases.
func (w *authWorld) ask(kvm1 *store.Store, s1 *store.AgentSession, kvm2 *store.Store, s2 *store.AgentSession, askers ...*store.Store) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.life, 20*time.Second)
	defer cancel()
	handler := func(_ context.Context, q precopy.Question) precopy.Answer {
		time.Sleep(20 * time.Millisecond)
		return precopy.Answer{Nonce: q.Nonce}
	}
	go func() { _ = kvm1.ServeAsks(ctx, "kvm1", s1.Fence(), handler) }()
	go func() { _ = kvm2.ServeAsks(ctx, "kvm2", s2.Fence(), handler) }()
	failed := make(chan error)
	count := 0
	for _, asker := range append(askers, kvm1, kvm2) {
		for _, host := range []string{"kvm1", "kvm2", "kvm1", "kvm2"} {
			count++
			go func() {
				_, err := asker.Ask(ctx, host, precopy.Question{Kind: precopy.AskSight})
				failed <- err
			}()
		}
	}
	for range count {
		if err := <-failed; err != nil {
			w.t.Errorf("ask: %v", err)
		}
	}
}

// migrate takes a record from request to done, each step by who takes it.
func (w *authWorld) migrate(admin, leader *store.Store, fence store.Fence, agent *store.Store, session *store.AgentSession) precopy.Stored {
	w.t.Helper()
	m, err := admin.CreateMigration(w.life, precopy.Migration{
		ID: "01970000-0000-7000-8000-000000000001", Domain: "web", UUID: fakeID(1), Source: "kvm1", Target: "kvm2",
		Phase: precopy.Requested, Created: time.Now().UTC(), Policy: precopy.DefaultPolicy(),
	})
	if err != nil {
		w.t.Fatalf("create: %v", err)
	}
	own := session.Fence()
	for _, step := range []struct {
		phase precopy.Phase
		actor precopy.Actor
		by    *store.Store
		fence *store.Fence
	}{
		{precopy.Queued, precopy.ActorLeader, leader, &fence},
		{precopy.Claimed, precopy.ActorSource, agent, &own},
		{precopy.Preparing, precopy.ActorSource, agent, nil},
		{precopy.Copying, precopy.ActorSource, agent, nil},
		{precopy.Done, precopy.ActorSource, agent, nil},
	} {
		next := m.Migration
		next.Phase = step.phase
		if step.phase == precopy.Done {
			now := time.Now().Add(-time.Hour).UTC()
			next.Finished = &now
			if err := session.Progress(w.life, precopy.Progress{ID: m.ID, At: time.Now()}); err != nil {
				w.t.Errorf("progress: %v", err)
			}
		}
		if m, err = step.by.UpdateMigration(w.life, step.actor, step.fence, m, next); err != nil {
			w.t.Fatalf("%s: %v", step.phase, err)
		}
	}
	return m
}

// What a member's certificate must not be good for.
func TestAuthKeepsMembersApart(t *testing.T) {
	w := newAuthWorld(t)
	w.setup("ada")
	kvm1, ctl, eve := w.as(pki.RoleAgent, "kvm1"), w.as(pki.RoleScheduler, "ctl1"), w.as(pki.RoleViewer, "eve")
	_, err := w.register(kvm1, "kvm2")
	wantDenied(t, "an agent in another host's name", err)
	_, err = w.register(ctl, "kvm2")
	wantDenied(t, "a scheduler in a host's name", err)
	_, err = kvm1.UpdateHost(w.life, nil, "kvm2", func(*fleet.HostRecord) error { return nil })
	if !errors.Is(err, kv.ErrNotFound) { // reading is allowed, and there is nothing yet
		t.Errorf("update of a host that is not there: %v", err)
	}
	wantDenied(t, "an agent's event", kvm1.Record(w.life, store.Event{Actor: "kvm1", Kind: "x", Subject: "y"}))
	ctx, cancel := context.WithTimeout(w.life, time.Second)
	defer cancel()
	if lead, err := kvm1.Campaign(ctx, "kvm1", 5*time.Second); err == nil {
		t.Errorf("an agent leads the fleet: %v", lead.Fence())
	}

	if _, err := eve.ReadSnapshot(w.life); err != nil {
		t.Errorf("a viewer reads: %v", err)
	}
	_, err = eve.CreateMigration(w.life, precopy.Migration{
		ID: "01970000-0000-7000-8000-000000000002", UUID: fakeID(2), Source: "kvm1", Target: "kvm2",
		Phase: precopy.Requested, Created: time.Now().UTC(), Policy: precopy.DefaultPolicy(),
	})
	wantDenied(t, "a viewer's migration", err)
	wantDenied(t, "a viewer's event", eve.Record(w.life, store.Event{Actor: "eve", Kind: "x", Subject: "y"}))
	for _, who := range []struct {
		role pki.Role
		name string
	}{{pki.RoleViewer, "eve"}, {pki.RoleAdmin, "bob"}} {
		status, _, stderr := w.drover(who.role, who.name, "store", "auth", "show")
		if status != 1 || !strings.Contains(stderr, "only managers") {
			t.Errorf("auth show as %s: %d %q, want a refusal", who.name, status, stderr)
		}
	}
	status, _, stderr := w.drover(pki.RoleViewer, "eve", "host", "list")
	if status != 0 {
		t.Errorf("host list as a viewer: %d %s", status, stderr)
	}
}

func TestAuthSetup(t *testing.T) {
	w := newAuthWorld(t)
	for _, tt := range []struct {
		name   string
		role   pki.Role
		who    string
		args   []string
		stderr string
	}{
		{"a viewer would lock everybody out", pki.RoleViewer, "eve", nil, "is no administrator"},
		{"a manager without a certificate", pki.RoleAdmin, "ada", []string{"--manager", "zoe"}, `"admin/zoe" is no administrator`},
	} {
		status, _, stderr := w.drover(tt.role, tt.who, append([]string{"store", "auth", "setup"}, tt.args...)...)
		if status != 1 || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%s: %d %q, want 1 and %q", tt.name, status, stderr, tt.stderr)
		}
	}
	if dry := w.setup("ada", "--dry-run"); !strings.Contains(dry, "switch authentication on") {
		t.Errorf("dry run says %q", dry)
	}
	if _, stdout, _ := w.drover(pki.RoleAdmin, "ada", "store", "auth", "show", "-o", "json"); !strings.Contains(stdout, `"enabled": false`) {
		t.Errorf("after a dry run: %s", stdout)
	}
	w.setup("ada", "--roles-only")
	w.setup("ada", "--manager", "bob")
	if again := w.setup("bob"); again != "nothing to do\n" {
		t.Errorf("a second run does %q", again)
	}
	w.issue(pki.Request{Role: pki.RoleAgent, Name: "kvm3"})
	want := strings.Join([]string{
		"add role drover-host-kvm3", "let role drover-host-kvm3 read and write /drover/v1/reports/kvm3/...",
		"add user host/kvm3", "give user host/kvm3 the role drover-agent", "give user host/kvm3 the role drover-host-kvm3", "",
	}, "\n")
	if diff := cmp.Diff(want, w.setup("ada")); diff != "" {
		t.Errorf("one host more (-want +got):\n%s", diff)
	}
	if _, err := w.register(w.as(pki.RoleAgent, "kvm3"), "kvm3"); err != nil {
		t.Errorf("the new host: %v", err)
	}
}

func TestAuthShowAndRevoke(t *testing.T) {
	w := newAuthWorld(t)
	w.setup("ada")
	w.issue(pki.Request{Role: pki.RoleAgent, Name: "kvm3"})
	status, stdout, stderr := w.drover(pki.RoleAdmin, "ada", "store", "auth", "show", "-o", "json")
	if status != 0 {
		t.Fatalf("show: %s", stderr)
	}
	var got struct {
		Enabled bool
		Users   []authUser
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	users := map[string]string{}
	for _, u := range got.Users {
		users[u.User] = strings.Join(u.Roles, " ") + u.Note
		if u.Expires == nil && u.User != "root" {
			t.Errorf("%s: no end of its certificate", u.User)
		}
	}
	want := map[string]string{
		"admin/ada": "drover-admin root", "admin/bob": "drover-admin", "viewer/eve": "drover-viewer", "root": "root",
		"host/kvm1": "drover-agent drover-host-kvm1", "host/kvm2": "drover-agent drover-host-kvm2",
		"host/kvm3": "no user: drover store auth setup", "scheduler/ctl1": "drover-scheduler",
	}
	if diff := cmp.Diff(want, users); diff != "" || !got.Enabled {
		t.Errorf("enabled %v, users (-want +got):\n%s", got.Enabled, diff)
	}

	if status, _, stderr := w.drover(pki.RoleAdmin, "ada", "store", "auth", "revoke", "admin/ada"); status != 2 || !strings.Contains(stderr, "lock you out") {
		t.Errorf("revoking oneself: %d %s", status, stderr)
	}
	if status, _, stderr := w.drover(pki.RoleAdmin, "ada", "store", "auth", "revoke", "host/kvm9"); status != 1 || !strings.Contains(stderr, "no user") {
		t.Errorf("revoking nobody: %d %s", status, stderr)
	}
	kvm1 := w.as(pki.RoleAgent, "kvm1")
	session, err := w.register(kvm1, "kvm1")
	if err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := w.drover(pki.RoleAdmin, "ada", "store", "auth", "revoke", "host/kvm1"); status != 0 {
		t.Fatalf("revoke: %s", stderr)
	}
	wantDenied(t, "a revoked agent that is connected", session.PublishLoad(w.life, hypervisor.HostLoad{At: time.Now()}))
	_, err = w.register(kvm1, "kvm1")
	wantDenied(t, "a revoked agent that comes back", err)
}
