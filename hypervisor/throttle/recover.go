package throttle

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
)

// Recovered counts what [Recover] found in the spool, in domains.
type Recovered struct {
	Restored int // have their original bandwidth back
	Ended    int // their QEMU process is gone, and the throttle with it
	Kept     int // belong to a process that lives and gives them back itself
}

// Recover gives back what processes that are gone left throttled, as the spool at dir says. What can't
// be given back stays in the spool and is named in the error; the rest is done all the same. A spool
// that is not there is an empty one. Safe to call at any time, by several processes at once.
func Recover(dir string, log *slog.Logger) (Recovered, error) {
	return recoverSpool(realKernel, spool{dir: dir}, log, func(owner process) bool { return !realKernel.lives(owner) })
}

// recoverSpool restores the entries whose owners are over.
func recoverSpool(k kernel, s spool, log *slog.Logger, over func(owner process) bool) (Recovered, error) {
	var r Recovered
	boot, err := k.bootID()
	if err != nil {
		return r, fmt.Errorf("unthrottle: %w", err)
	}
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	err = s.locked(func() error {
		ids, err := s.domains()
		errs := []error{err}
		for _, id := range ids {
			e, ok, err := s.get(id)
			switch {
			case err != nil:
				errs = append(errs, err)
			case ok && !over(e.Owner):
				r.Kept++
			case ok:
				living, err := e.restore(k, boot)
				if err != nil {
					errs = append(errs, fmt.Errorf("unthrottle %s: %w", id, err))
					continue
				}
				errs = append(errs, s.remove(id))
				if !living {
					r.Ended++
					continue
				}
				r.Restored++
				log.Warn("gave back the CPU quota of a domain that a dead process had throttled", "domain", id, "name", e.Name)
			}
		}
		return errors.Join(errs...)
	})
	return r, err
}

// restore writes the originals back if the domain's process is still the one they belong to; living
// says whether it is.
func (e entry) restore(k kernel, boot string) (living bool, err error) {
	if e.BootID != boot || !k.lives(e.Process) {
		return false, nil
	}
	var errs []error
	gone := 0
	for _, g := range e.Groups {
		err := g.group().write(k.write, g.original())
		if isGone(err) {
			gone++
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	if gone > 0 && gone == len(e.Groups) {
		errs = append(errs, errors.New("none of its control groups is to be seen here"))
	}
	// Faults while the process ended are of no interest.
	if err := errors.Join(errs...); err != nil && k.lives(e.Process) {
		return true, err
	}
	return true, nil
}
