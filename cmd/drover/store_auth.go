package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/conf"
	"drover/cmd/internal/out"
	"drover/cmd/internal/pki"
	"drover/store"
	"drover/store/etcd"
	"drover/store/kv"
)

// rolePrefix marks the etcd roles that are drover's: others are left alone.
const rolePrefix = "drover-"

const authSetupHelp = `Gives every certificate of the authority in --dir an etcd user of its common name, the roles that
make it an agent, scheduler, administrator or viewer, and then switches etcd's authentication on.
Until then every certificate of the authority may do everything in the store. Run it again whenever
certificates were issued: it does what is missing and nothing else.

Run it with an administrator's certificate: its user may manage users from then on (etcd's role
"root"), and so may those that --manager names. Nobody else can, so keep two.`

func authCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Value: "/etc/drover/pki", Usage: "`DIRECTORY` of the authority"}
	return &cli.Command{
		Name: "auth", Usage: "who may do what in the store",
		Subcommands: []*cli.Command{
			{
				Name: "setup", Usage: "make etcd users and roles of the certificates, and switch authentication on",
				Description: authSetupHelp, Action: takes(0, 0, "", withAuth(authSetup)),
				Flags: []cli.Flag{
					dir,
					&cli.StringSliceFlag{Name: "manager", Usage: "administrator `NAME` who may manage users too; may be repeated"},
					toggle("roles-only", "make users and roles, but nobody a manager, and leave the switch as it is"),
					toggle("dry-run", "only say what would be done", "n"),
				},
			},
			{
				Name: "show", Usage: "users, their roles and their certificates", Flags: []cli.Flag{dir},
				Action: takes(0, 0, "", withAuth(authShow)),
			},
			{
				Name: "revoke", Usage: "take users away, so that their certificates are worth nothing to the store", ArgsUsage: "USER...",
				Description: "USER is as auth show prints it, such as host/kvm3 or admin/ada. Also remove the certificate's\n" +
					"directory from the authority, or the next auth setup makes the user again.",
				Action: takes(1, -1, "USER", withAuth(authRevoke)),
			},
		},
	}
}

// authSession is one command's connection to etcd's users and roles.
type authSession struct {
	*etcd.Client
	cli  *cli.Context
	self string // the common name of this command's own certificate, "" without one
}

func withAuth(do func(ctx context.Context, s *authSession) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		var settings conf.Client
		if err := conf.Load(conf.FlagsAndEnvironment(c), &settings); err != nil {
			return err
		}
		client, err := etcd.Open(etcd.Config{
			Endpoints: settings.Endpoints, CA: settings.CA, Cert: settings.Cert, Key: settings.Key,
			Insecure: settings.Insecure, RequestTimeout: min(storeTimeout(c)/2, 5*time.Second),
		})
		if err != nil {
			return usageIf(c, err, etcd.ErrConfig)
		}
		s := &authSession{Client: client, cli: c}
		if settings.Cert != "" {
			pair, err := tls.LoadX509KeyPair(settings.Cert, settings.Key)
			if err != nil {
				return errors.Join(fmt.Errorf("tls-cert: %w", err), client.Close())
			}
			s.self = pair.Leaf.Subject.CommonName
		}
		err = do(c.Context, s)
		if errors.Is(err, kv.ErrDenied) {
			err = fmt.Errorf("%w: only managers may see and change users (%s is none)", err, orDash(s.self))
		}
		return errors.Join(err, client.Close())
	}
}

// roleOf is the role that a certificate's role means in the store.
var roleOf = map[pki.Role]store.Role{
	pki.RoleAgent: store.RoleAgent, pki.RoleScheduler: store.RoleScheduler,
	pki.RoleAdmin: store.RoleAdmin, pki.RoleViewer: store.RoleViewer,
}

// wantedAuth is the users and roles that the certificates ask for. It is pure.
func wantedAuth(identities []pki.Identity) (etcd.Auth, error) {
	want := etcd.Auth{Roles: map[string][]kv.Access{}, Users: map[string][]string{}}
	for _, r := range store.Roles() {
		want.Roles[rolePrefix+string(r)] = r.Access()
	}
	for _, id := range identities {
		roles := []string{rolePrefix + string(roleOf[id.Role])}
		if id.Role == pki.RoleAgent {
			access, err := store.HostAccess(id.Name)
			if err != nil {
				return etcd.Auth{}, err
			}
			own := rolePrefix + "host-" + id.Name
			want.Roles[own] = access
			roles = append(roles, own)
		}
		want.Users[id.CommonName] = roles
	}
	return want, nil
}

// manage adds to want the switch and those who may manage users once it is on.
func manage(want *etcd.Auth, managers []string) error {
	for _, m := range managers {
		if !strings.HasPrefix(m, pki.CommonName(pki.RoleAdmin, "")) || want.Users[m] == nil {
			return fmt.Errorf("%q is no administrator with a certificate of this authority (drover pki list); "+
				"without one nobody could manage users any more", m)
		}
		want.Users[m] = append(want.Users[m], etcd.RootRole)
	}
	// etcd insists on a user of this name. No certificate has it, and it has no password.
	want.Users[etcd.RootRole] = []string{etcd.RootRole}
	want.Roles[etcd.RootRole] = nil
	want.Enabled = true
	return nil
}

func authSetup(ctx context.Context, s *authSession) error {
	identities, err := pki.List(s.cli.String("dir"))
	if err != nil {
		return err
	}
	want, err := wantedAuth(identities)
	if err != nil {
		return err
	}
	if !s.cli.Bool("roles-only") {
		if s.self == "" {
			return errors.New("authentication goes by certificates: give --tls-cert and --tls-key of an administrator, and https endpoints")
		}
		managers := []string{s.self}
		for _, name := range s.cli.StringSlice("manager") {
			if m := pki.CommonName(pki.RoleAdmin, strings.TrimPrefix(name, pki.CommonName(pki.RoleAdmin, ""))); !slices.Contains(managers, m) {
				managers = append(managers, m)
			}
		}
		if s.self == etcd.RootRole {
			managers = managers[1:]
		}
		if err := manage(&want, managers); err != nil {
			return err
		}
	}
	have, err := s.ReadAuth(ctx)
	if err != nil {
		return err
	}
	return s.carryOut(ctx, etcd.PlanAuth(have, want, rolePrefix))
}

// carryOut takes the steps and prints them; with --dry-run it only prints.
func (s *authSession) carryOut(ctx context.Context, steps []etcd.Step) error {
	print, err := printer(s.cli)
	if err != nil {
		return err
	}
	dry := s.cli.Bool("dry-run")
	for i, step := range steps {
		if dry {
			break
		}
		if err := s.ApplyAuth(ctx, step); err != nil {
			return fmt.Errorf("after %d of %d steps (run it again to go on): %w", i, len(steps), err)
		}
	}
	if len(steps) == 0 {
		steps = []etcd.Step{} // an empty list, not null
	}
	return print(steps, func() out.Table {
		t := out.Table{None: "nothing to do"}
		for _, step := range steps {
			t.Add(step.String())
		}
		return t
	})
}

// authUser is one user as auth show prints it.
type authUser struct {
	User    string     `json:"user"`
	Roles   []string   `json:"roles"`
	Expires *time.Time `json:"certificate_expires,omitempty"`
	Note    string     `json:"note,omitempty"`
}

func authShow(ctx context.Context, s *authSession) error {
	print, err := printer(s.cli)
	if err != nil {
		return err
	}
	have, err := s.ReadAuth(ctx)
	if err != nil {
		return err
	}
	// Whoever looks need not have the authority at hand.
	identities, err := pki.List(s.cli.String("dir"))
	if err != nil && !errors.Is(err, pki.ErrNotFound) {
		return err
	}
	value := struct {
		Enabled bool       `json:"enabled"`
		Users   []authUser `json:"users"`
	}{have.Enabled, authUsers(have, identities, err == nil)}
	return print(value, func() out.Table {
		t := out.Table{Head: []string{"USER", "ROLES", "CERTIFICATE", "NOTE"}, None: "no users yet: drover store auth setup"}
		for _, u := range value.Users {
			expires := ""
			if u.Expires != nil {
				expires = expiry(*u.Expires, time.Now())
			}
			t.Add(u.User, strings.Join(u.Roles, ", "), expires, u.Note)
		}
		if !have.Enabled {
			fmt.Fprintln(s.cli.App.ErrWriter, "authentication is off: every certificate of the authority may do everything")
		}
		return t
	})
}

// authUsers puts users and certificates side by side. It is pure.
func authUsers(have etcd.Auth, identities []pki.Identity, known bool) []authUser {
	byName := map[string]pki.Identity{}
	for _, id := range identities {
		byName[id.CommonName] = id
	}
	list := []authUser{}
	for _, name := range slices.Sorted(maps.Keys(have.Users)) {
		u := authUser{User: name, Roles: append([]string{}, have.Users[name]...)}
		id, ok := byName[name]
		delete(byName, name)
		switch {
		case ok:
			u.Expires = &id.NotAfter
		case known && name != etcd.RootRole:
			u.Note = "no certificate in the authority's directory"
		}
		list = append(list, u)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		at := byName[name].NotAfter
		list = append(list, authUser{User: name, Roles: []string{}, Expires: &at, Note: "no user: drover store auth setup"})
	}
	return list
}

func authRevoke(ctx context.Context, s *authSession) error {
	users := s.cli.Args().Slice()
	have, err := s.ReadAuth(ctx)
	if err != nil {
		return err
	}
	var steps []etcd.Step
	for _, user := range users {
		switch _, there := have.Users[user]; {
		case user == s.self || user == etcd.RootRole:
			return cliargs.Usagef(s.cli, "%s would lock you out", user)
		case !there:
			return fmt.Errorf("there is no user %q: drover store auth show lists them", user)
		}
		steps = append(steps, etcd.Step{Kind: etcd.DeleteUser, User: user})
	}
	return s.carryOut(ctx, steps)
}
