package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"drover/hypervisor"
	"drover/precopy"
	"drover/store"
	"drover/store/embed"
	"drover/store/etcd"
	"drover/store/kv"
)

// The scripts run the real program as a process of its own, each against an embedded store of its
// own, with fake agents in this process.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"drover": main})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("SUDO_USER", "ada")
			e.Setenv("TERM", "dumb")
			e.Setenv("TZ", "UTC")
			port, err := freePort()
			if err != nil {
				return err
			}
			e.Setenv("PORT", port)
			w := &world{dir: filepath.Join(e.WorkDir, ".etcd"), stop: map[string]func(){}}
			e.Values[worldKey{}] = w
			e.Defer(w.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": cmdStatus, "capture": cmdCapture, "absent": cmdAbsent, "until": cmdUntil,
			"etcd": cmdEtcd, "agents": cmdAgents, "record": cmdRecord, "poke": cmdPoke, "load": cmdLoad,
		},
	})
}

// freePort returns a port that nothing listens on, for a program that can't be asked which it took.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// cmdStatus: status N PROGRAM ARG... runs the program and wants that exit status.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: status N PROGRAM ARG...")
	}
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// cmdUntil: until PATTERN PROGRAM ARG... runs the program again and again until its stdout matches.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARG...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no match for %q: %v", args[0], err)
		}
	}
}

// cmdCapture: capture NAME PATTERN sets a variable to what matches in the last command's stdout.
func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	found := regexp.MustCompile(args[1]).FindString(ts.ReadFile("stdout"))
	if found == "" {
		ts.Fatalf("stdout has no %s", args[1])
	}
	ts.Setenv(args[0], found)
}

// cmdAbsent: absent stdout|stderr wants that nothing was written there.
func cmdAbsent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: absent stdout|stderr")
	}
	if text := ts.ReadFile(args[0]); text != "" {
		ts.Fatalf("%s is not empty: %s", args[0], text)
	}
}

// world is one script's store and agents.
type world struct {
	dir, url string
	server   *embed.Server
	client   *etcd.Client
	store    *store.Store
	fleet    *fakeFleet
	stop     map[string]func() // agents, by host
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// start starts the server, at the address it had before if it ran before.
func (w *world) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url := w.url
	if url == "" {
		url = "http://127.0.0.1:0"
	}
	var err error
	w.server, err = embed.Start(ctx, embed.Config{Dir: w.dir, ListenURL: url, Insecure: true, NoSync: true})
	if err != nil {
		return err
	}
	w.url = w.server.Endpoints()[0]
	if w.client == nil {
		if w.client, err = etcd.Open(etcd.Config{Endpoints: []string{w.url}, Insecure: true}); err != nil {
			return err
		}
		w.store = store.New(w.client)
	}
	return nil
}

func (w *world) close() {
	for _, stop := range w.stop {
		stop()
	}
	if w.client != nil {
		_ = w.store.Close()
		_ = w.client.Close()
	}
	if w.server != nil {
		_ = w.server.Close()
	}
}

// cmdEtcd: etcd start sets DROVER_ETCD_ENDPOINTS; etcd stop takes the store away, keeping its data.
func cmdEtcd(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	switch {
	case neg || len(args) != 1:
		ts.Fatalf("usage: etcd start|stop")
	case args[0] == "start":
		ts.Check(w.start())
		ts.Setenv("DROVER_ETCD_ENDPOINTS", w.url)
		ts.Setenv("DROVER_INSECURE", "true")
	case args[0] == "stop":
		ts.Check(w.server.Close())
		w.server = nil
	}
}

// cmdAgents: agents start HOST=VM,VM... starts a fake agent for each host; agents stop HOST... ends
// them. VMs are numbered in the order in which they are named.
func cmdAgents(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	if neg || len(args) < 2 {
		ts.Fatalf("usage: agents start HOST=VM,VM... | agents stop HOST...")
	}
	if args[0] == "stop" {
		for _, name := range args[1:] {
			w.stop[name]()
			delete(w.stop, name)
		}
		return
	}
	w.fleet = &fakeFleet{domains: map[string][]hypervisor.DomainFacts{}}
	number := 0
	for _, arg := range args[1:] {
		host, vms, _ := strings.Cut(arg, "=")
		for _, vm := range strings.FieldsFunc(vms, func(r rune) bool { return r == ',' }) {
			number++
			facts := hypervisor.DomainFacts{
				ID: fakeID(number), Name: vm, VCPUs: 2, Memory: 512 * hypervisor.MiB, VirtType: "kvm", Arch: "x86_64",
				Machine: "pc-q35-9.0", Persistent: true,
				Disks: []hypervisor.Disk{{Target: "vda", Source: "/srv/" + vm, Size: 10 * hypervisor.GiB, Shared: true}},
			}
			switch kind, _, _ := strings.Cut(vm, "-"); kind {
			case "gpu":
				facts.Blockers = []hypervisor.Blocker{{Code: hypervisor.BlockHostDevice, Detail: "it has PCI device 0000:3b:00.0", Remedy: "detach the device"}}
			case "big":
				facts.Memory = 24 * hypervisor.GiB
			case "fill":
				facts.Memory = 12 * hypervisor.GiB
			}
			w.fleet.domains[host] = append(w.fleet.domains[host], facts)
		}
	}
	for _, arg := range args[1:] {
		host, _, _ := strings.Cut(arg, "=")
		ctx, cancel := context.WithCancel(context.Background())
		agent, err := startFakeAgent(ctx, w.fleet, w.store, host)
		if err != nil {
			cancel()
			ts.Fatalf("agent %s: %v", host, err)
		}
		w.stop[host] = func() { cancel(); agent.stop() }
	}
}

// cmdLoad: load VM=CORES... says what VMs use of the CPU, and waits until that is reported.
func cmdLoad(ts *testscript.TestScript, neg bool, args []string) {
	f := worldOf(ts).fleet
	if neg || len(args) == 0 {
		ts.Fatalf("usage: load VM=CORES...")
	}
	f.mu.Lock()
	f.cpu = map[string]hypervisor.Cores{}
	for _, arg := range args {
		vm, cores, _ := strings.Cut(arg, "=")
		n, err := strconv.ParseFloat(cores, 64)
		if err != nil {
			ts.Fatalf("load %s: %v", arg, err)
		}
		f.cpu[vm] = hypervisor.Cores(n)
	}
	f.mu.Unlock()
	time.Sleep(time.Second)
}

// cmdPoke: poke KEY VALUE writes a value that drover would not write.
func cmdPoke(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: poke KEY VALUE")
	}
	_, _, err := worldOf(ts).client.Txn(context.Background(), nil, []kv.Op{kv.Put(store.Root+"v1/"+args[0], []byte(args[1]))})
	ts.Check(err)
}

// cmdRecord: record N VM SOURCE TARGET PHASE writes a migration and takes it through the phases to that
// one, as leader and agent would.
func cmdRecord(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 5 {
		ts.Fatalf("usage: record N VM SOURCE TARGET PHASE")
	}
	w, ctx := worldOf(ts), context.Background()
	m, err := w.store.CreateMigration(ctx, precopy.Migration{
		ID: fmt.Sprintf("01970000-0000-7000-8000-%012s", args[0]), Domain: args[1], UUID: fakeID(900 + int(args[0][0])),
		Source: args[2], Target: args[3], Phase: precopy.Requested, RequestedBy: "eve@desk",
		Created: time.Now().UTC(), Policy: precopy.DefaultPolicy(),
	})
	ts.Check(err)
	for _, step := range []struct {
		phase precopy.Phase
		actor precopy.Actor
	}{
		{precopy.Queued, precopy.ActorLeader},
		{precopy.Claimed, precopy.ActorSource},
		{precopy.Preparing, precopy.ActorSource},
		{precopy.Copying, precopy.ActorSource},
		{precopy.Unknown, precopy.ActorLeader},
	} {
		next := m.Migration
		next.Phase = step.phase
		m, err = w.store.UpdateMigration(ctx, step.actor, nil, m, next)
		ts.Check(err)
		if string(step.phase) == args[4] {
			return
		}
	}
	ts.Fatalf("phase %s is not on the way", args[4])
}
