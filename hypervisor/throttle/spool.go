package throttle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drover/hypervisor"
)

// spool keeps the originals of what is throttled, one file per domain, where this process's death and
// a power cut do not reach. All changes happen under a lock on the directory that every process of the
// host heeds: a watchdog that gives a dead agent's quotas back must not meet its successor half way.
type spool struct{ dir string }

// entry is one domain's file.
type entry struct {
	Schema  int                 `json:"schema"`
	Domain  hypervisor.DomainID `json:"domain"`
	Name    string              `json:"name,omitempty"` // for people
	BootID  string              `json:"boot_id"`
	Process process             `json:"process"` // QEMU's
	Owner   process             `json:"owner"`   // whoever throttles
	Groups  []spooledGroup      `json:"groups"`
}

// spooledGroup is one vCPU's group as it was.
type spooledGroup struct {
	VCPU     int    `json:"vcpu"`
	Dir      string `json:"dir"`
	V2       bool   `json:"v2,omitempty"`
	QuotaUS  int64  `json:"quota_us"` // not positive: no limit
	PeriodUS int64  `json:"period_us"`
}

const (
	entrySchema = 1
	entrySuffix = ".json"
	unfinished  = ".new"
)

func (g spooledGroup) group() group { return group{vcpu: g.VCPU, dir: g.Dir, v2: g.V2} }

func (g spooledGroup) original() Bandwidth {
	b := Bandwidth{Quota: noLimit, Period: time.Duration(g.PeriodUS) * time.Microsecond}
	if g.QuotaUS > 0 {
		b.Quota = time.Duration(g.QuotaUS) * time.Microsecond
	}
	return b
}

func openSpool(dir string) (spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return spool{}, fmt.Errorf("throttle spool: %w", err)
	}
	return spool{dir: dir}, nil
}

// locked runs fn while no other process, and no other call here, changes the spool.
func (s spool) locked(fn func() error) error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("throttle spool: %w", err)
	}
	defer d.Close() // gives the lock back
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("throttle spool: lock: %w", err)
	}
	return fn()
}

// put writes an entry durably. Under the lock only.
func (s spool) put(e entry) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("throttle spool %s: %w", e.Domain, err)
	}
	tmp := s.path(e.Domain) + unfinished
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("throttle spool %s: %w", e.Domain, err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("throttle spool %s: %w", e.Domain, err)
	}
	if err := os.Rename(tmp, s.path(e.Domain)); err != nil {
		return fmt.Errorf("throttle spool %s: %w", e.Domain, err)
	}
	return s.sync()
}

// get reads a domain's entry; ok is false when there is none. Under the lock only.
func (s spool) get(id hypervisor.DomainID) (e entry, ok bool, err error) {
	data, err := os.ReadFile(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return entry{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err == nil && (e.Schema != entrySchema || e.Domain != id) {
		err = fmt.Errorf("schema %d for domain %q", e.Schema, e.Domain)
	}
	if err != nil {
		return entry{}, false, fmt.Errorf("throttle spool %s: %w", id, err)
	}
	return e, true, nil
}

// remove forgets a domain; none is no error. Under the lock only. It is not synced: an entry that a
// power cut brings back names a boot that is over.
func (s spool) remove(id hypervisor.DomainID) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("throttle spool %s: %w", id, err)
	}
	return nil
}

// domains lists whose entries there are. Under the lock only.
func (s spool) domains() ([]hypervisor.DomainID, error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("throttle spool: %w", err)
	}
	var ids []hypervisor.DomainID
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), entrySuffix); ok {
			ids = append(ids, hypervisor.DomainID(id))
		} else if strings.HasSuffix(f.Name(), entrySuffix+unfinished) {
			// Never renamed, so nothing was throttled on the strength of it.
			_ = os.Remove(filepath.Join(s.dir, f.Name()))
		}
	}
	return ids, nil
}

func (s spool) path(id hypervisor.DomainID) string {
	return filepath.Join(s.dir, filepath.Base(string(id))+entrySuffix)
}

func (s spool) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("throttle spool: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
