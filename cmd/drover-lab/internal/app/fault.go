package app

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/netns"
)

func faultCommands() []*cli.Command {
	network := &cli.StringFlag{Name: "network", Value: "both", Usage: "mgmt, migration or both"}
	return []*cli.Command{
		{Name: "shape", Usage: "limit a host's migration link, both ways, or remove the limit", ArgsUsage: "HOST|all RATE|none", Action: shape},
		{Name: "cut", Usage: "pull a host's cables", ArgsUsage: "HOST", Action: cut, Flags: []cli.Flag{network}},
		{Name: "heal", Usage: "plug a host's cables in again", ArgsUsage: "HOST", Action: heal, Flags: []cli.Flag{network}},
		{Name: "kill", Usage: "cut a host's power: everything in it dies at once", ArgsUsage: "HOST", Action: kill},
		{Name: "boot", Usage: "start a killed host; its guests and daemons stay down", ArgsUsage: "HOST", Action: boot},
		{
			Name: "restart", Usage: "restart a host's libvirtd under its running guests", ArgsUsage: "HOST", Action: restart,
			Flags: []cli.Flag{&cli.StringFlag{Name: "signal", Value: "TERM", Usage: "how the old one is ended"}},
		},
		{
			Name: "nic", Usage: "show a host's interface counters", ArgsUsage: "HOST", Action: nic,
			Flags: []cli.Flag{&cli.StringFlag{Name: "network", Value: "migration", Usage: "mgmt or migration"}, outputFlag},
		},
	}
}

func networks(name string) ([]netns.Network, error) {
	if name == "both" {
		return netns.Networks(), nil
	}
	for _, n := range netns.Networks() {
		if n.Name == name {
			return []netns.Network{n}, nil
		}
	}
	return nil, usagef("network %q: want mgmt, migration or both", name)
}

func shape(c *cli.Context) error {
	l, rec, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST|all", "RATE|none")
	if err != nil {
		return err
	}
	rate, err := parseRate(a[1])
	if err != nil {
		return err
	}
	hosts := []string{a[0]}
	if a[0] == "all" {
		hosts = rec.Hosts
	}
	var errs []error
	for _, h := range hosts {
		errs = append(errs, l.hosts.Shape(c.Context, h, rate))
	}
	return errors.Join(errs...)
}

func cut(c *cli.Context) error  { return setLink(c, netns.LinkDown) }
func heal(c *cli.Context) error { return setLink(c, netns.LinkUp) }

func setLink(c *cli.Context, link netns.LinkState) error {
	l, err := open(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST")
	if err != nil {
		return err
	}
	nets, err := networks(c.String("network"))
	if err != nil {
		return err
	}
	return l.hosts.SetCut(c.Context, a[0], nets, link)
}

func kill(c *cli.Context) error {
	l, err := open(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST")
	if err != nil {
		return err
	}
	return l.hosts.Kill(c.Context, a[0])
}

func boot(c *cli.Context) error {
	l, err := open(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST")
	if err != nil {
		return err
	}
	return l.hosts.Boot(c.Context, a[0])
}

func restart(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST")
	if err != nil {
		return err
	}
	sig, err := parseSignal(c.String("signal"))
	if err != nil {
		return err
	}
	return l.hosts.RestartLibvirt(c.Context, a[0], sig)
}

// nicReport is the answer of `nic`.
type nicReport struct {
	Host    string    `json:"host"`
	Network string    `json:"network"`
	At      time.Time `json:"at"`
	netns.Counters
}

func nic(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "HOST")
	if err != nil {
		return err
	}
	nets, err := networks(c.String("network"))
	if err != nil {
		return err
	}
	if len(nets) != 1 {
		return usagef("network %q: want one", c.String("network"))
	}
	n, err := l.hosts.Counters(a[0], nets[0])
	if err != nil {
		return err
	}
	r := nicReport{Host: a[0], Network: nets[0].Name, At: time.Now().UTC(), Counters: n}
	if l.json {
		return l.printJSON(r)
	}
	return l.printTable(
		[]string{"HOST", "NETWORK", "RX", "PACKETS", "DROPPED", "TX", "PACKETS", "DROPPED"},
		[]string{
			r.Host, r.Network, n.RxBytes.String(), fmt.Sprint(n.RxPackets), fmt.Sprint(n.RxDropped),
			n.TxBytes.String(), fmt.Sprint(n.TxPackets), fmt.Sprint(n.TxDropped),
		})
}
