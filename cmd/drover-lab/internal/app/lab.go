package app

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/host"
	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

func labCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "up", Usage: "make a lab; on failure nothing is left", Action: up,
			Flags: []cli.Flag{
				&cli.IntFlag{Name: "hosts", Value: 2, Usage: "how many `HOSTS`: kvm1, kvm2, ..."},
				&cli.StringFlag{Name: "shape", Usage: "limit of each migration link, such as 400mbit; none without it"},
				&cli.Float64Flag{Name: "cpus", Usage: "size of each host in `CORES`; no limit without it"},
				&cli.StringFlag{Name: "memory", Usage: "size of each host, such as 4GiB; no limit without it"},
				&cli.StringFlag{Name: "dir", Value: state.DefaultDir, Usage: "where disks, logs and the kernel cache go"},
				outputFlag,
			},
		},
		{
			Name: "down", Usage: "remove a lab and everything it made; also what a killed command left", Action: down,
		},
		{
			Name: "env", Usage: "show the addresses, URIs and paths of a lab or of one host", ArgsUsage: "[HOST]", Action: env,
			Flags: []cli.Flag{outputFlag},
		},
	}
}

func up(c *cli.Context) error {
	_, err := args(c)
	if err != nil {
		return err
	}
	spec := host.Spec{Dir: c.String("dir"), Hosts: c.Int("hosts"), CPUs: hypervisor.Cores(c.Float64("cpus"))}
	if spec.CPUs < 0 {
		return usagef("cpus %v: want a positive number", c.Float64("cpus"))
	}
	if spec.Shape, err = parseRate(c.String("shape")); err != nil {
		return err
	}
	if s := c.String("memory"); s != "" {
		if spec.Memory, err = hypervisor.ParseBytes(s); err != nil {
			return usagef("%v", err)
		}
	}
	if err := spec.Check(); err != nil {
		return usagef("%v", err)
	}
	l, err := open(c)
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := l.hosts.Up(c.Context, spec); err != nil {
		return err
	}
	l.log.Info("lab is up", "took", time.Since(begin))
	return l.printEnv()
}

// parseRate reads a link rate; empty and "none" are no limit.
func parseRate(s string) (hypervisor.BytesPerSecond, error) {
	if s == "" || s == "none" {
		return 0, nil
	}
	r, err := hypervisor.ParseRate(s)
	if err != nil {
		return 0, usagef("%v", err)
	}
	if r <= 0 {
		return 0, usagef("rate %q: want more than nothing, or none for no limit", s)
	}
	return r, nil
}

func down(c *cli.Context) error {
	if _, err := args(c); err != nil {
		return err
	}
	l, err := open(c)
	if err != nil {
		return err
	}
	there, err := l.hosts.Down(c.Context)
	if err != nil {
		return err
	}
	if !there {
		fmt.Fprintf(c.App.ErrWriter, "drover-lab: no lab %s was there\n", l.store.Name())
	}
	return nil
}

func env(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	switch c.Args().Len() {
	case 0:
		return l.printEnv()
	case 1:
		h, err := l.hosts.HostEnv(c.Args().First())
		if err != nil {
			return err
		}
		if l.json {
			return l.printJSON(h)
		}
		return l.printTable(
			[]string{"name", h.Name}, []string{"state", h.State}, []string{"uri", h.URI},
			[]string{"management address", h.MgmtAddr}, []string{"migration address", h.MigrationAddr},
			[]string{"certificates", h.PKI}, []string{"logs", h.Logs}, []string{"private disks", h.Images},
		)
	}
	return usagef("env: want at most one host")
}

func (l *lab) printEnv() error {
	e, err := l.hosts.Env()
	if err != nil {
		return err
	}
	if l.json {
		return l.printJSON(e)
	}
	rows := [][]string{{"HOST", "STATE", "MANAGEMENT", "MIGRATION", "LIMIT", "CUT", "URI"}}
	for _, h := range e.Hosts {
		rows = append(rows, []string{h.Name, h.State, h.MgmtAddr, h.MigrationAddr, h.Limit, h.CutText(), h.URI})
	}
	if err := l.printTable(rows...); err != nil {
		return err
	}
	fmt.Fprintf(l.out, "\nlab %s: files in %s, certificates in %s, shared disks in %s, logs in %s\n",
		e.Lab, e.Dir, e.PKI, e.Shared, e.Logs)
	return nil
}
