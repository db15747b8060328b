package precopy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
)

const (
	// tidyLimit bounds one try after the end.
	tidyLimit = 15 * time.Second
	// askedFor is how long hosts are asked that do not say where the guest is.
	askedFor = 5 * time.Minute
)

// tidy leaves the source as it should be after a migration that was claimed and ended in p: no
// definition of a guest that has left, the autostart flag of one that has not, no disk files on a
// target that does not run it. It may be repeated. Until is how long, from the first try on, hosts may fail to say
// where the guest is; zero where that has only just been seen. What can't be done is returned as notes for the
// record; the error is of what was not answered, to be tried again.
func (w *Worker) tidy(ctx context.Context, m Migration, p Phase, until time.Time) (notes []string, err error) {
	log := w.Log.With("migration", m.ID, "domain", m.Domain)
	tctx, cancel := context.WithTimeout(ctx, tidyLimit)
	defer cancel()
	if p == Done {
		why, err := w.undefine(tctx, m, until)
		if why != "" {
			log.Error("the definition is left on the source", "why", why)
			notes = append(notes, "its definition is left on "+m.Source+": "+why)
		}
		return notes, err
	}
	if m.Autostart {
		switch err := w.Migrator.SetAutostart(tctx, m.UUID, true); {
		case unanswered(err):
			return nil, err
		case hypervisor.IsClass(err, hypervisor.ClassNoDomain):
			// Undefined since, or gone with the guest: no definition, no flag.
		case err != nil:
			log.Error("autostart flag not restored on the source", "err", err)
			notes = append(notes, "its autostart flag was not restored on "+m.Source)
		}
	}
	return append(notes, w.discardDisks(ctx, m)...), nil
}

// undefine removes the definition that a guest has left behind. Unless it has only just been seen to run on the
// target, the hosts are asked first: an outcome that was kept on disk may be old, and the guest may have come back
// since and be shut down here, by the only definition that is up to date. It returns why one is left.
func (w *Worker) undefine(ctx context.Context, m Migration, until time.Time) (why string, err error) {
	if !until.IsZero() {
		if src, err := w.Migrator.Sight(ctx, m.UUID); err != nil || src.State == hypervisor.StateAbsent {
			return "", err
		}
		switch runs, err := w.runsAway(ctx, m); {
		case err != nil && time.Now().Before(until):
			return "", err
		case err != nil:
			return err.Error(), nil
		case !runs:
			return "no other host was seen to run the VM", nil
		}
	}
	if err = w.Migrator.Undefine(ctx, m.UUID); err == nil || unanswered(err) {
		return "", err
	}
	return err.Error(), nil
}

// runsAway reports whether the guest runs on the target, or on another host that it has gone to since.
func (w *Worker) runsAway(ctx context.Context, m Migration) (bool, error) {
	actx, cancel := context.WithTimeout(ctx, tidyLimit/2)
	defer cancel()
	a, err := w.Queue.Ask(actx, m.Target, Question{Kind: AskSight, Domain: m.UUID})
	switch {
	case err != nil:
		return false, fmt.Errorf("%s did not say whether it has the VM: %w", m.Target, err)
	case a.Error != "" || a.Sighting == nil:
		return false, fmt.Errorf("%s does not know what it has of the VM: %s", m.Target, a.Error)
	case a.Sighting.Active():
		return true, nil
	}
	where, err := w.elsewhere(ctx, m)
	return where.Active(), err
}

// unanswered reports whether the call may succeed, or may have succeeded, another time.
func unanswered(err error) bool {
	if err == nil {
		return false
	}
	switch hypervisor.ClassOf(err) {
	case hypervisor.ClassUnavailable, hypervisor.ClassUnknownOutcome, hypervisor.ClassBusy, "":
		return true
	}
	return false
}

// discardDisks has the target remove what was made there for this migration, after it failed. It
// returns a note for the record if that was not possible.
func (w *Worker) discardDisks(ctx context.Context, m Migration) []string {
	if !m.CopyStorage {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, err := w.Queue.Ask(ctx, m.Target, Question{Kind: AskDiscardDisks, Domain: m.UUID, Migration: m.ID})
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil {
		return nil
	}
	w.Log.Error("the disks made on the target could not be removed", "migration", m.ID, "domain", m.Domain, "err", err)
	return []string{"disk files made on " + m.Target + " for this migration may be left there"}
}
