package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/cmd/internal/pki"
)

const pkiHelp = `Keeps a private certificate authority and the certificates of hosts, schedulers and people in one
directory. Keep that directory on one machine, and copy each certificate's own directory to where it
belongs: it holds ca-cert.pem, cert.pem and key.pem (for --tls-ca, --tls-cert and --tls-key), and the
names that libvirt wants. Nothing that exists is ever overwritten.`

func pkiCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Value: "/etc/drover/pki", Usage: "`DIRECTORY` of the authority"}
	names := []cli.Flag{
		dir,
		&cli.StringSliceFlag{Name: "dns", Usage: "a further `NAME` by which it is reached; may be repeated"},
		&cli.StringSliceFlag{Name: "ip", Usage: "an `ADDRESS` by which it is reached; may be repeated"},
	}
	return &cli.Command{
		Name: "pki", Usage: "certificates: make an authority, issue, list, renew", Description: pkiHelp,
		Subcommands: []*cli.Command{
			{Name: "init", Usage: "make the authority", Flags: []cli.Flag{dir}, Action: takes(0, 0, "", pkiInit)},
			{
				Name: "host", Usage: "issue a certificate for a KVM host, for libvirt and drover-agent", ArgsUsage: "NAME",
				Flags: names, Action: issue(pki.RoleAgent),
			},
			{
				Name: "scheduler", Usage: "issue a certificate for a scheduler or etcd member", ArgsUsage: "NAME",
				Description: "The loopback address and localhost are always among its names, for the embedded store.",
				Flags:       names, Action: issue(pki.RoleScheduler),
			},
			{
				Name: "admin", Usage: "issue a certificate for a person who may change things", ArgsUsage: "NAME",
				Flags: []cli.Flag{dir}, Action: issue(pki.RoleAdmin),
			},
			{
				Name: "viewer", Usage: "issue a certificate for a person who may only look", ArgsUsage: "NAME",
				Flags: []cli.Flag{dir}, Action: issue(pki.RoleViewer),
			},
			{Name: "list", Aliases: []string{"ls"}, Usage: "all certificates and when they expire", Flags: []cli.Flag{dir}, Action: takes(0, 0, "", pkiList)},
			{
				Name: "renew", Usage: "issue anew what expires soon, with the same names and keys",
				Description: "The copies elsewhere are not touched: copy the new cert.pem files to where they belong.",
				Flags: []cli.Flag{
					dir,
					&cli.StringFlag{Name: "within", Value: "30d", Usage: "what expires within this `TIME`, such as 30d or 12h"},
				},
				Action: takes(0, 0, "", pkiRenew),
			},
		},
	}
}

// certificate is one certificate as the answer shows it.
type certificate struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	User     string    `json:"user"`
	Dir      string    `json:"dir"`
	DNS      []string  `json:"dns,omitempty"`
	IPs      []string  `json:"ips,omitempty"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
}

func certificateOf(i pki.Identity) certificate {
	c := certificate{
		Name: i.Name, Role: string(i.Role), User: i.CommonName, Dir: i.Dir, DNS: i.DNS,
		Serial: i.Serial, NotAfter: i.NotAfter,
	}
	for _, ip := range i.IPs {
		c.IPs = append(c.IPs, ip.String())
	}
	return c
}

func pkiInit(c *cli.Context) error {
	dir := c.String("dir")
	ca, err := pki.CreateCA(dir, pki.CAOptions{})
	if errors.Is(err, pki.ErrExists) {
		return fmt.Errorf("%s has an authority already: drover pki host NAME --dir %[1]s issues from it; for another one give another --dir", dir)
	} else if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "authority made; it expires on %s. Keep %s secret.\n",
		ca.NotAfter().Format(time.DateOnly), filepath.Join(dir, "ca", "ca-key.pem"))
	_, err = fmt.Fprintln(c.App.Writer, filepath.Join(dir, "ca", "ca-cert.pem"))
	return err
}

func issue(role pki.Role) cli.ActionFunc {
	return takes(1, 1, "NAME", func(c *cli.Context) error { return pkiIssue(c, role) })
}

func pkiIssue(c *cli.Context, role pki.Role) error {
	request := pki.Request{Role: role, Name: c.Args().First(), DNS: c.StringSlice("dns")}
	for _, text := range c.StringSlice("ip") {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return cliargs.Usagef(c, "--ip %q: want an address", text)
		}
		request.IPs = append(request.IPs, ip)
	}
	if role == pki.RoleScheduler {
		request.DNS = withDefault(request.DNS, "localhost")
		request.IPs = withDefault(request.IPs, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	ca, err := loadCA(c)
	if err != nil {
		return err
	}
	identity, err := ca.Issue(request)
	if errors.Is(err, pki.ErrExists) {
		return fmt.Errorf("%w: issued already; drover pki renew --dir %s issues it anew before it expires", err, c.String("dir"))
	} else if err != nil {
		return usageIf(c, err, pki.ErrName)
	}
	print, err := printer(c)
	if err != nil {
		return err
	}
	return print(certificateOf(identity), func() out.Table { return out.Table{Rows: [][]string{{identity.Dir}}} })
}

func withDefault[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(slices.Clone(list), v)
}

func loadCA(c *cli.Context) (*pki.CA, error) {
	ca, err := pki.LoadCA(c.String("dir"))
	return ca, noCA(c, err)
}

// noCA adds to an error about an authority that is not there what to do.
func noCA(c *cli.Context, err error) error {
	if !errors.Is(err, pki.ErrNotFound) {
		return err
	}
	return fmt.Errorf("no authority in %s: say with --dir where it is, or make it with drover pki init --dir %[1]s", c.String("dir"))
}

func pkiList(c *cli.Context) error {
	identities, err := pki.List(c.String("dir"))
	if err != nil {
		return noCA(c, err)
	}
	return printCertificates(c, identities, "no certificates")
}

func pkiRenew(c *cli.Context) error {
	within, err := parseDays(c.String("within"))
	if err != nil {
		return cliargs.Usagef(c, "--within: %w", err)
	}
	renewed, err := pki.Renew(c.String("dir"), within)
	if errors.Is(err, pki.ErrNotFound) {
		return noCA(c, err)
	}
	if perr := printCertificates(c, renewed, "nothing expires that soon"); err == nil {
		err = perr
	}
	return err
}

func printCertificates(c *cli.Context, identities []pki.Identity, none string) error {
	print, err := printer(c)
	if err != nil {
		return err
	}
	list := []certificate{}
	for _, i := range identities {
		list = append(list, certificateOf(i))
	}
	return print(list, func() out.Table {
		t := out.Table{Head: []string{"USER", "ROLE", "EXPIRES", "NAMES"}, None: none}
		for _, e := range list {
			t.Add(e.User, e.Role, expiry(e.NotAfter, time.Now()), strings.Join(append(slices.Clone(e.DNS), e.IPs...), ", "))
		}
		return t
	})
}

func expiry(at, now time.Time) string {
	if at.Before(now) {
		return at.Format(time.DateOnly) + " EXPIRED"
	}
	return fmt.Sprintf("%s (%d d)", at.Format(time.DateOnly), int(at.Sub(now).Hours()/24))
}

// parseDays reads a time span; days, which Go's durations lack, are written "30d".
func parseDays(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q: want a time span such as 30d or 12h", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: want a time span such as 30d or 12h", s)
	}
	return d, nil
}
