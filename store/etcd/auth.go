package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"drover/store/kv"
)

// RootRole is etcd's own role whose holders may do everything, and are the only ones to manage users
// and roles once authentication is on. etcd wants a user of the same name.
const RootRole = "root"

// Auth is etcd's users and roles. Users here have no password: they are the common names of client
// certificates.
type Auth struct {
	Enabled bool
	Roles   map[string][]kv.Access
	Users   map[string][]string // their roles
}

// StepKind is what one step of a change of Auth does.
type StepKind string

// The steps.
const (
	AddRole    StepKind = "add-role"
	GrantRange StepKind = "grant-range"
	DropRange  StepKind = "drop-range"
	AddUser    StepKind = "add-user"
	GrantRole  StepKind = "grant-role"
	DropRole   StepKind = "drop-role"
	DeleteUser StepKind = "delete-user"
	EnableAuth StepKind = "enable"
)

// Step is one change. Which fields count depends on Kind.
type Step struct {
	Kind   StepKind  `json:"step"`
	User   string    `json:"user,omitempty"`
	Role   string    `json:"role,omitempty"`
	Access kv.Access `json:"access,omitzero"`
}

// String says what the step does.
func (s Step) String() string {
	keys := s.Access.Key
	if s.Access.Prefix {
		keys += "..."
	}
	switch s.Kind {
	case AddRole:
		return "add role " + s.Role
	case GrantRange:
		if s.Access.Write {
			return fmt.Sprintf("let role %s read and write %s", s.Role, keys)
		}
		return fmt.Sprintf("let role %s read %s", s.Role, keys)
	case DropRange:
		return fmt.Sprintf("take %s from role %s", keys, s.Role)
	case AddUser:
		return "add user " + s.User
	case GrantRole:
		return fmt.Sprintf("give user %s the role %s", s.User, s.Role)
	case DropRole:
		return fmt.Sprintf("take the role %s from user %s", s.Role, s.User)
	case DeleteUser:
		return "delete user " + s.User
	case EnableAuth:
		return "switch authentication on"
	}
	return string(s.Kind)
}

// PlanAuth returns the steps from have to want. It is pure. What only have knows stays: users that
// want does not name, and roles and grants that do not begin with mine, which belong to others. A
// switch that is on is never turned off.
//
// The order keeps everybody able to work at every prefix of the steps: first what is added, then what
// is taken away, the switch last.
func PlanAuth(have, want Auth, mine string) []Step {
	var add, drop []Step
	for _, role := range slices.Sorted(maps.Keys(want.Roles)) {
		old, there := have.Roles[role]
		if !there {
			add = append(add, Step{Kind: AddRole, Role: role})
		}
		for _, a := range want.Roles[role] {
			step := Step{Kind: GrantRange, Role: role, Access: a}
			switch narrows := !a.Write && slices.ContainsFunc(old, a.SameRange); {
			case slices.Contains(old, a):
			case narrows:
				drop = append(drop, step)
			default:
				add = append(add, step)
			}
		}
		for _, a := range old {
			// etcd keeps one permission per range: granting it anew has replaced the old one.
			if strings.HasPrefix(role, mine) && !slices.ContainsFunc(want.Roles[role], a.SameRange) {
				drop = append(drop, Step{Kind: DropRange, Role: role, Access: a})
			}
		}
	}
	for _, user := range slices.Sorted(maps.Keys(want.Users)) {
		old, there := have.Users[user]
		if !there {
			add = append(add, Step{Kind: AddUser, User: user})
		}
		for _, role := range want.Users[user] {
			if !slices.Contains(old, role) {
				add = append(add, Step{Kind: GrantRole, User: user, Role: role})
			}
		}
		for _, role := range old {
			if strings.HasPrefix(role, mine) && !slices.Contains(want.Users[user], role) {
				drop = append(drop, Step{Kind: DropRole, User: user, Role: role})
			}
		}
	}
	steps := append(add, drop...)
	if want.Enabled && !have.Enabled {
		steps = append(steps, Step{Kind: EnableAuth})
	}
	return steps
}

// ReadAuth reads users and roles. While authentication is on, only holders of [RootRole] may:
// kv.ErrDenied for others.
func (c *Client) ReadAuth(ctx context.Context) (Auth, error) {
	out := Auth{Roles: map[string][]kv.Access{}, Users: map[string][]string{}}
	var err error
	if out.Enabled, err = c.authEnabled(ctx); err != nil {
		return Auth{}, c.wrap(ctx, readAuth, false, err)
	}
	roles, err := bounded(ctx, c, c.etcd.RoleList)
	if err != nil {
		return Auth{}, c.wrap(ctx, readAuth, false, err)
	}
	for _, name := range roles.Roles {
		role, err := bounded(ctx, c, func(ctx context.Context) (*clientv3.AuthRoleGetResponse, error) { return c.etcd.RoleGet(ctx, name) })
		if err != nil {
			return Auth{}, c.wrap(ctx, readAuth, false, err)
		}
		out.Roles[name] = nil
		for _, p := range role.Perm {
			if a, ok := accessOf(p); ok {
				out.Roles[name] = append(out.Roles[name], a)
			}
		}
	}
	users, err := bounded(ctx, c, c.etcd.UserList)
	if err != nil {
		return Auth{}, c.wrap(ctx, readAuth, false, err)
	}
	for _, name := range users.Users {
		user, err := bounded(ctx, c, func(ctx context.Context) (*clientv3.AuthUserGetResponse, error) { return c.etcd.UserGet(ctx, name) })
		if err != nil {
			return Auth{}, c.wrap(ctx, readAuth, false, err)
		}
		out.Users[name] = user.Roles
	}
	return out, nil
}

// authEnabled reads the switch. Members before 3.5 don't tell, but they answer differently to a log-in
// that can't succeed.
func (c *Client) authEnabled(ctx context.Context) (bool, error) {
	status, err := bounded(ctx, c, c.etcd.AuthStatus)
	if err == nil || code(err) != codes.Unimplemented {
		return err == nil && status.Enabled, err
	}
	_, err = bounded(ctx, c, func(ctx context.Context) (*clientv3.AuthenticateResponse, error) {
		return c.etcd.Authenticate(ctx, RootRole, "")
	})
	switch {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return false, nil
	case code(err) == codes.Unavailable, code(err) == codes.DeadlineExceeded, code(err) == codes.Canceled:
		return false, err
	}
	return true, nil
}

const readAuth = "read users and roles"

// bounded makes one call under the request timeout: a fleet has a user for each host, and reading them
// all takes many calls.
func bounded[T any](ctx context.Context, c *Client, call func(context.Context) (T, error)) (T, error) {
	cctx, cancel := c.call(ctx)
	defer cancel()
	return call(cctx)
}

// accessOf understands permissions of the kinds that GrantRange makes; others are not drover's.
func accessOf(p *authpb.Permission) (kv.Access, bool) {
	a := kv.Access{Key: string(p.Key), Write: p.PermType == authpb.READWRITE}
	switch string(p.RangeEnd) {
	case "":
	case clientv3.GetPrefixRangeEnd(a.Key):
		a.Prefix = true
	default:
		return a, false
	}
	return a, p.PermType != authpb.WRITE
}

// ApplyAuth takes one step. A step that has been taken already is no error, so that a run which was
// cut short can be repeated.
func (c *Client) ApplyAuth(ctx context.Context, s Step) error {
	cctx, cancel := c.call(ctx)
	defer cancel()
	end := ""
	if s.Access.Prefix {
		end = clientv3.GetPrefixRangeEnd(s.Access.Key)
	}
	var err error
	switch s.Kind {
	case AddRole:
		_, err = c.etcd.RoleAdd(cctx, s.Role)
		err = unless(err, rpctypes.ErrRoleAlreadyExist)
	case GrantRange:
		kind := clientv3.PermRead
		if s.Access.Write {
			kind = clientv3.PermReadWrite
		}
		_, err = c.etcd.RoleGrantPermission(cctx, s.Role, s.Access.Key, end, clientv3.PermissionType(kind))
	case DropRange:
		_, err = c.etcd.RoleRevokePermission(cctx, s.Role, s.Access.Key, end)
		err = unless(err, rpctypes.ErrPermissionNotGranted)
	case AddUser:
		_, err = c.etcd.UserAddWithOptions(cctx, s.User, "", &clientv3.UserAddOptions{NoPassword: true})
		err = unless(err, rpctypes.ErrUserAlreadyExist)
	case GrantRole:
		_, err = c.etcd.UserGrantRole(cctx, s.User, s.Role)
	case DropRole:
		_, err = c.etcd.UserRevokeRole(cctx, s.User, s.Role)
		err = unless(err, rpctypes.ErrRoleNotGranted)
	case DeleteUser:
		_, err = c.etcd.UserDelete(cctx, s.User)
		err = unless(err, rpctypes.ErrUserNotFound)
	case EnableAuth:
		_, err = c.etcd.AuthEnable(cctx)
	default:
		return fmt.Errorf("step %q is not known", s.Kind)
	}
	return c.wrap(ctx, s.String(), true, err)
}

func unless(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
