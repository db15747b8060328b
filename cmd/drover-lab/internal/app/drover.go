package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"

	"drover/cmd/drover-lab/internal/host"
	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/state"
)

// The daemons' names among those of their host, and the ports of a lab.
const (
	schedulerDaemon = "scheduler"
	agentDaemon     = "agent"
	etcdDaemon      = "etcd"
	etcdPort        = 2379
	startTimeout    = time.Minute
)

// agentEnv is the environment that deploy/systemd/drover-agent.service gives to the agent.
var agentEnv = []string{"GLIBC_TUNABLES=glibc.malloc.tcache_count=0", "G_SLICE=always-malloc"}

func droverCommands() []*cli.Command {
	build := &cli.StringFlag{Name: "build", Usage: "`DIR` with drover and drover-agent (default: where drover-lab is)"}
	return []*cli.Command{{
		Name: "drover", Usage: "run drover itself in the lab",
		Subcommands: []*cli.Command{
			{
				Name: "start", Usage: "start the scheduler with its store on control and an agent on every host, where they are not there yet; TLS everywhere",
				Action: droverStart,
				Flags: []cli.Flag{
					build,
					&cli.StringFlag{Name: "etcd", Usage: "run this etcd `PROGRAM` on control, instead of the store inside the scheduler"},
					&cli.BoolFlag{Name: "restart", Value: true, Usage: "start daemons again a second after they die, as systemd would"},
				},
			},
			{Name: "stop", Usage: "stop the agents and the scheduler; guests go on", Action: droverStop},
			{
				Name: "run", Usage: "run a drover command as an administrator on control", ArgsUsage: "-- COMMAND...", Action: droverRun,
				Flags: []cli.Flag{build},
			},
		},
	}}
}

// program finds a program of the build.
func program(c *cli.Context, name string) (string, error) {
	dir := c.String("build")
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		dir = filepath.Dir(self)
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s: %w (make build makes it; --build says where)", name, err)
	}
	return path, nil
}

func droverStart(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	drover, err := program(c, "drover")
	if err != nil {
		return err
	}
	agent, err := program(c, "drover-agent")
	if err != nil {
		return err
	}
	env, err := l.hosts.Env()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, startTimeout)
	defer cancel()
	apart := c.String("etcd")
	if apart != "" {
		if err := l.startEtcd(ctx, env, apart, c.Bool("restart")); err != nil {
			return err
		}
	}
	for _, h := range env.Hosts {
		d := hostinit.Daemon{Dir: "/", Env: os.Environ(), Restart: c.Bool("restart")}
		if h.Name == state.Control {
			d.Name, d.Argv = schedulerDaemon, []string{drover, "scheduler", "run", "--config"}
		} else {
			d.Name, d.Argv = agentDaemon, []string{agent, "--config"}
			d.Env = append(d.Env, agentEnv...)
		}
		path, err := writeSettings(env, h, d.Name, apart != "")
		if err != nil {
			return err
		}
		d.Argv = append(d.Argv, path)
		cl, err := l.hosts.Client(h.Name)
		if err != nil {
			return err
		}
		if err := spawnOnce(ctx, cl, d); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return l.waitForAgents(ctx, env, drover)
}

// startEtcd starts an etcd of its own on control, with TLS both ways.
func (l *lab) startEtcd(ctx context.Context, env host.Env, program string, restart bool) error {
	h := env.Hosts[0]
	path, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	cl, err := l.hosts.Client(h.Name)
	if err != nil {
		return err
	}
	pki := func(file string) string { return filepath.Join(h.PKI, file) }
	return spawnOnce(ctx, cl, hostinit.Daemon{
		Name: etcdDaemon, Dir: "/", Env: os.Environ(), Restart: restart,
		Argv: []string{
			path, "--data-dir", filepath.Join(env.Dir, "drover", h.Name, "etcd"),
			"--listen-client-urls", etcdURL(env), "--advertise-client-urls", etcdURL(env),
			"--listen-peer-urls", "http://127.0.0.1:2380", "--client-cert-auth",
			"--trusted-ca-file", pki("ca-cert.pem"), "--cert-file", pki("cert.pem"), "--key-file", pki("key.pem"),
		},
	})
}

// spawnOnce leaves a daemon that is there alone, so that after a host's reboot the rest goes on.
func spawnOnce(ctx context.Context, cl *hostinit.Client, d hostinit.Daemon) error {
	have, err := cl.List(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(have, func(s hostinit.Status) bool { return s.Name == d.Name }) {
		return nil
	}
	return cl.Spawn(ctx, d)
}

// writeSettings writes a daemon's configuration as an administrator would, and returns its path.
func writeSettings(env host.Env, h host.HostEnv, daemon string, apart bool) (string, error) {
	dir := filepath.Join(env.Dir, "drover", h.Name)
	s := tlsSettings(h.PKI)
	s["hooks-dir"] = filepath.Join(dir, "hooks")
	if daemon == schedulerDaemon && apart {
		s["etcd-endpoints"] = etcdURL(env)
		s["metrics-address"] = "127.0.0.1:9178"
	} else if daemon == schedulerDaemon {
		s["embedded-etcd"] = filepath.Join(dir, "etcd")
		s["etcd-listen"] = etcdURL(env)
		s["metrics-address"] = "127.0.0.1:9178"
	} else {
		s["name"], s["peer-uri"], s["migration-address"] = h.Name, h.URI, h.MigrationAddr
		s["etcd-endpoints"] = etcdURL(env)
		s["metrics-address"] = "127.0.0.1:9177"
		s["load-source"] = "domains"
		s["spool-dir"] = filepath.Join(dir, "state")
		s["capacity-cores"] = runtime.NumCPU()
		if h.CPUs > 0 {
			s["capacity-cores"] = float64(h.CPUs)
		}
		if h.Memory > 0 {
			s["capacity-memory"] = fmt.Sprint(int64(h.Memory))
		}
		if h.Shape > 0 {
			s["capacity-bandwidth"] = fmt.Sprintf("%gmbit", h.Shape.Mbit())
		}
	}
	text, err := yaml.Marshal(s)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, daemon+".yaml")
	return path, os.WriteFile(path, text, 0o600)
}

func tlsSettings(dir string) map[string]any {
	return map[string]any{
		"tls-ca":   filepath.Join(dir, "ca-cert.pem"),
		"tls-cert": filepath.Join(dir, "cert.pem"),
		"tls-key":  filepath.Join(dir, "key.pem"),
	}
}

// etcdURL is where the store listens: by address, since the control host's name is in its certificate too.
func etcdURL(env host.Env) string {
	return fmt.Sprintf("https://%s:%d", env.Hosts[0].MgmtAddr, etcdPort)
}

// setAdmin makes this process's environment that of an administrator of the lab's drover.
func setAdmin(env host.Env) {
	os.Setenv("DROVER_ETCD_ENDPOINTS", etcdURL(env))
	os.Setenv("DROVER_TLS_CA", filepath.Join(env.Admin, "ca-cert.pem"))
	os.Setenv("DROVER_TLS_CERT", filepath.Join(env.Admin, "cert.pem"))
	os.Setenv("DROVER_TLS_KEY", filepath.Join(env.Admin, "key.pem"))
}

// waitForAgents returns once every host reports.
func (l *lab) waitForAgents(ctx context.Context, env host.Env, drover string) error {
	setAdmin(env)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var out []byte
	for {
		cmd := exec.CommandContext(ctx, self, "exec", "--lab", env.Lab, state.Control, "--", drover, "host", "list", "-o", "json")
		if out, err = cmd.CombinedOutput(); err == nil {
			var hosts []struct {
				State string `json:"state"`
			}
			if yaml.Unmarshal(out, &hosts) == nil {
				up := 0
				for _, h := range hosts {
					if h.State == "ready" {
						up++
					}
				}
				if up == len(env.Hosts)-1 {
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drover did not come up within %s (logs in %s): %s", startTimeout, env.Logs, out)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func droverStop(c *cli.Context) error {
	l, rec, err := openUp(c)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range append(rec.Hosts, state.Control) {
		name := agentDaemon
		if h == state.Control {
			name = schedulerDaemon
		}
		cl, err := l.hosts.Client(h)
		if err != nil {
			continue
		}
		errs = append(errs, cl.Unspawn(c.Context, name))
		if list, err := cl.List(c.Context); err == nil && slices.ContainsFunc(list, func(s hostinit.Status) bool { return s.Name == etcdDaemon }) {
			errs = append(errs, cl.Unspawn(c.Context, etcdDaemon))
		}
	}
	return errors.Join(errs...)
}

func droverRun(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return execFailed(c, err)
	}
	drover, err := program(c, "drover")
	if err != nil {
		return execFailed(c, err)
	}
	env, err := l.hosts.Env()
	if err != nil {
		return execFailed(c, err)
	}
	setAdmin(env)
	code, err := l.hosts.Exec(c.Context, state.Control, append([]string{drover}, c.Args().Slice()...))
	if err != nil {
		return execFailed(c, err)
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}
