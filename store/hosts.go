package store

import (
	"context"
	"errors"
	"fmt"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

func (s *Store) hosts() Table[fleet.HostRecord] {
	return Table[fleet.HostRecord]{s, hostsPrefix, "host"}
}

// UpdateHost changes a host's record through f, which may be called more than once, and returns the
// record as written; an error of f's ends the update. kv.ErrNotFound when the host was never bound.
// fence is nil for people.
func (s *Store) UpdateHost(ctx context.Context, fence *Fence, name string, f func(*fleet.HostRecord) error) (fleet.HostRecord, error) {
	r, err := s.hosts().Update(ctx, fence, name, f)
	return r.Value, err
}

// BindHost binds a host's name to a libvirt host, at first contact, for the leader. A name that is
// bound to another one gives a [NameTakenError].
func (s *Store) BindHost(ctx context.Context, fence Fence, name, libvirtUUID string) error {
	_, err := s.hosts().Upsert(ctx, &fence, name, func(h *fleet.HostRecord) error {
		if h.LibvirtUUID != "" && h.LibvirtUUID != libvirtUUID {
			return &NameTakenError{Host: name, BoundTo: h.LibvirtUUID, Mine: libvirtUUID}
		}
		h.Schema, h.Name, h.LibvirtUUID = max(h.Schema, Schema), name, libvirtUUID
		return nil
	})
	return err
}

// ForgetHost removes a host's record, and with it the binding of its name and what was seen there, for
// a host that never returns. A host whose agent lives gives ErrConflict.
func (s *Store) ForgetHost(ctx context.Context, name string) error {
	if err := checkName("host", name); err != nil {
		return err
	}
	session := reportKey(name, partSession)
	held, _, err := s.kv.Txn(ctx, []kv.Cond{kv.IfAbsent(session)}, []kv.Op{
		kv.Delete(hostKey(name)), kv.Delete(reportKey(name, partSeen)),
	})
	if err != nil {
		return fmt.Errorf("forget host %s: %w", name, err)
	}
	if !held {
		return fmt.Errorf("forget host %s: its agent is alive: %w", name, ErrConflict)
	}
	return nil
}

// NameTakenError says who has a host's name. It matches [ErrNameTaken].
type NameTakenError struct {
	Host    string
	Mine    string // the libvirt host UUID of who asked
	BoundTo string // the libvirt host UUID that the name belongs to
	// Session is the live agent that holds the name, if one does.
	Session *fleet.Session
}

// Error implements error.
func (e *NameTakenError) Error() string {
	live := ""
	if e.Session != nil {
		live = fmt.Sprintf(", whose agent has been alive since %s", e.Session.Started.Format("2006-01-02 15:04:05"))
	}
	return fmt.Sprintf("host name %q belongs to the libvirt host %s%s; this is %s: give this host another name, or forget the old one",
		e.Host, e.BoundTo, live, e.Mine)
}

// Is matches ErrNameTaken.
func (e *NameTakenError) Is(target error) bool { return errors.Is(target, ErrNameTaken) }
