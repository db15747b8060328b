package etcd

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/store/kv"
)

// model applies steps as etcd does.
func model(a Auth, steps []Step) Auth {
	out := Auth{Enabled: a.Enabled, Roles: map[string][]kv.Access{}, Users: map[string][]string{}}
	for k, v := range a.Roles {
		out.Roles[k] = slices.Clone(v)
	}
	for k, v := range a.Users {
		out.Users[k] = slices.Clone(v)
	}
	for _, s := range steps {
		switch s.Kind {
		case AddRole:
			out.Roles[s.Role] = nil
		case GrantRange:
			out.Roles[s.Role] = append(slices.DeleteFunc(out.Roles[s.Role], s.Access.SameRange), s.Access)
		case DropRange:
			out.Roles[s.Role] = slices.DeleteFunc(out.Roles[s.Role], s.Access.SameRange)
		case AddUser:
			out.Users[s.User] = nil
		case GrantRole:
			out.Users[s.User] = append(out.Users[s.User], s.Role)
		case DropRole:
			out.Users[s.User] = slices.DeleteFunc(out.Users[s.User], func(r string) bool { return r == s.Role })
		case EnableAuth:
			out.Enabled = true
		}
	}
	return out
}

func (a Auth) may(user, key string, write bool) bool {
	for _, role := range a.Users[user] {
		if slices.ContainsFunc(a.Roles[role], func(p kv.Access) bool { return p.Covers(key, write) }) {
			return true
		}
	}
	return false
}

func drawAuth(t *rapid.T, label string) Auth {
	roles := []string{"drover-a", "drover-b", "other"}
	out := Auth{Enabled: rapid.Bool().Draw(t, label+" on"), Roles: map[string][]kv.Access{}, Users: map[string][]string{}}
	ranges := []kv.Access{{Key: "/a"}, {Key: "/a/", Prefix: true}, {Key: "/b/", Prefix: true}}
	for _, role := range roles {
		if !rapid.Bool().Draw(t, label+" has "+role) {
			continue
		}
		out.Roles[role] = nil
		for _, r := range ranges {
			if rapid.Bool().Draw(t, "grant") {
				r.Write = rapid.Bool().Draw(t, "write")
				out.Roles[role] = append(out.Roles[role], r)
			}
		}
	}
	for _, user := range []string{"u", "v"} {
		if rapid.Bool().Draw(t, label+" has "+user) {
			out.Users[user] = rapid.Permutation(slices.Sorted(maps.Keys(out.Roles))).Draw(t, user)
			out.Users[user] = out.Users[user][:rapid.IntRange(0, len(out.Users[user])).Draw(t, "roles")]
		}
	}
	return out
}

func TestPlanAuthArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawAuth(t, "have"), drawAuth(t, "want")
		steps := PlanAuth(have, want, "drover-")
		after := model(have, steps)
		if again := PlanAuth(after, want, "drover-"); len(again) > 0 {
			t.Fatalf("after the plan there is more to do: %v\nplan: %v", again, steps)
		}
		if after.Enabled != (have.Enabled || want.Enabled) {
			t.Errorf("enabled %v, had %v, wanted %v", after.Enabled, have.Enabled, want.Enabled)
		}
		for user, roles := range want.Users {
			for _, role := range roles {
				if !slices.Contains(after.Users[user], role) {
					t.Errorf("user %s lacks %s", user, role)
				}
			}
			for _, role := range after.Users[user] {
				if role != "other" && !slices.Contains(roles, role) {
					t.Errorf("user %s keeps %s", user, role)
				}
			}
		}
		for role, list := range want.Roles {
			for _, a := range list {
				if !slices.Contains(after.Roles[role], a) {
					t.Errorf("role %s lacks %v", role, a)
				}
			}
		}
		for _, a := range have.Roles["other"] {
			if !slices.ContainsFunc(after.Roles["other"], a.SameRange) {
				t.Errorf("somebody else's role lost %v", a)
			}
		}
	})
}

// What somebody may both before and after, he may all the time.
func TestPlanAuthKeepsEverybodyAtWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawAuth(t, "have"), drawAuth(t, "want")
		steps := PlanAuth(have, want, "drover-")
		after := model(have, steps)
		for n := range steps {
			now := model(have, steps[:n])
			for user := range have.Users {
				for _, key := range []string{"/a", "/a/x", "/b/x"} {
					for _, write := range []bool{false, true} {
						if have.may(user, key, write) && after.may(user, key, write) && !now.may(user, key, write) {
							t.Fatalf("%s may not use %s (write %v) after %v", user, key, write, steps[:n])
						}
					}
				}
			}
			if now.Enabled && !have.Enabled {
				t.Fatalf("the switch is not the last step: %v", steps)
			}
		}
	})
}

func TestStepString(t *testing.T) {
	got := []string{}
	for _, s := range []Step{
		{Kind: AddRole, Role: "r"},
		{Kind: GrantRange, Role: "r", Access: kv.Access{Key: "/a/", Prefix: true}},
		{Kind: GrantRange, Role: "r", Access: kv.Access{Key: "/a", Write: true}},
		{Kind: DropRange, Role: "r", Access: kv.Access{Key: "/a"}},
		{Kind: AddUser, User: "u"},
		{Kind: GrantRole, User: "u", Role: "r"},
		{Kind: DropRole, User: "u", Role: "r"},
		{Kind: DeleteUser, User: "u"},
		{Kind: EnableAuth},
	} {
		got = append(got, s.String())
	}
	want := []string{
		"add role r", "let role r read /a/...", "let role r read and write /a", "take /a from role r",
		"add user u", "give user u the role r", "take the role r from user u", "delete user u",
		"switch authentication on",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
