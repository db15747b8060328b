package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/drover-lab/internal/netns"
	"drover/hypervisor"
)

func trafficCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "traffic", Usage: "send from one host to another over the migration network, as a tenant would", ArgsUsage: "FROM TO",
		Action: traffic,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "rate", Value: "100mbit", Usage: "what the tenant wants to send"},
			&cli.DurationFlag{Name: "for", Value: 30 * time.Second, Usage: "how long"},
		},
	}}
}

// trafficSample is one second of the tenant's traffic, as it arrived.
type trafficSample struct {
	At       time.Time                 `json:"at"`
	Received hypervisor.BytesPerSecond `json:"received"`
}

// traffic prints one line of JSON for every second.
func traffic(c *cli.Context) error {
	l, _, err := openUp(c)
	if err != nil {
		return err
	}
	a, err := args(c, "FROM", "TO")
	if err != nil {
		return err
	}
	rate, err := parseRate(c.String("rate"))
	if err != nil {
		return err
	}
	from, err := l.hosts.Running(a[0])
	if err != nil {
		return err
	}
	to, err := l.hosts.Running(a[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("for"))
	defer cancel()
	// A socket stays in the namespace that it was made in.
	var listener net.Listener
	if err := netns.Do(to.Init.PID, netns.Net, func() (err error) {
		listener, err = net.Listen("tcp4", "0.0.0.0:0")
		return err
	}); err != nil {
		return fmt.Errorf("traffic: %w", err)
	}
	defer listener.Close()
	var received atomic.Int64
	go func() {
		in, err := listener.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := in.Read(buf)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	var out net.Conn
	target := net.JoinHostPort(a[1]+"-mig", "0")
	if err := netns.Do(from.Init.PID, netns.Net, func() (err error) {
		var addr string
		if addr, err = migrationAddress(to.Init.PID); err != nil {
			return err
		}
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		target = net.JoinHostPort(addr, port)
		out, err = net.DialTimeout("tcp4", target, 5*time.Second)
		return err
	}); err != nil {
		return fmt.Errorf("traffic to %s: %w", target, err)
	}
	defer out.Close()
	sent := make(chan error, 1)
	go func() { sent <- send(ctx, out, rate) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, lastAt := int64(0), time.Now()
	for {
		select {
		case err := <-sent:
			return err
		case now := <-tick.C:
			n := received.Load()
			line, err := json.Marshal(trafficSample{At: now.UTC(), Received: hypervisor.Rate(hypervisor.Bytes(n-last), now.Sub(lastAt))})
			if err != nil {
				return err
			}
			fmt.Fprintf(l.out, "%s\n", line)
			last, lastAt = n, now
		}
	}
}

// send writes at the rate until ctx ends. What could not be sent in time is not made up for beyond a second.
func send(ctx context.Context, out io.Writer, rate hypervisor.BytesPerSecond) error {
	const step = 10 * time.Millisecond
	buf := make([]byte, max(int(float64(rate)*step.Seconds()), 1))
	tick := time.NewTicker(step)
	defer tick.Stop()
	began, wrote := time.Now(), int64(0)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		due := int64(float64(rate) * time.Since(began).Seconds())
		wrote = max(wrote, due-int64(rate))
		for wrote < due && ctx.Err() == nil {
			n, err := out.Write(buf)
			wrote += int64(n)
			if err != nil && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("traffic: %w", err)
			}
		}
	}
	return nil
}

// migrationAddress is a host's on the migration network.
func migrationAddress(pid int) (string, error) {
	var addr string
	err := netns.Do(pid, netns.Net, func() error {
		i, err := net.InterfaceByName(netns.Migration.Iface)
		if err != nil {
			return err
		}
		list, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				addr = n.IP.String()
				return nil
			}
		}
		return errors.New("no address")
	})
	return addr, err
}
