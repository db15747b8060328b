package precopy

import (
	"context"
	"errors"
	"time"

	"drover/hypervisor"
)

// Errors of a [Queue] that the worker branches on. Any other error of a write means that the store
// is away or did not answer: the worker tries again.
var (
	// ErrConflict: the record changed since it was read, or is gone; nothing was written.
	ErrConflict = errors.New("record changed in the meantime")
	// ErrFenced: the writer's lease or leadership is lost; nothing was written.
	ErrFenced = errors.New("no longer entitled to write: lease or leadership is lost")
	// ErrNotAsked: a question reached no agent, not even in part.
	ErrNotAsked = errors.New("not asked")
)

// Migrator is the hypervisor of this host. Errors are *hypervisor.Error. All methods may be called
// from several goroutines.
type Migrator interface {
	// Migrate blocks until the migration is over. When ctx ends first it returns an error of class
	// unknown-outcome, and the migration goes on.
	Migrate(ctx context.Context, spec hypervisor.MigrateSpec) error
	// Abort asks for the job's end. Success proves nothing: the migration may still complete.
	Abort(ctx context.Context, id hypervisor.DomainID) error
	JobStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, error)
	// CompletedStats are those of the last job, which libvirt keeps only for a success, and only
	// until its daemon restarts; false when there are none.
	CompletedStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, bool, error)
	Sight(ctx context.Context, id hypervisor.DomainID) (hypervisor.Sighting, error)
	Inspect(ctx context.Context, id hypervisor.DomainID) (hypervisor.Inspection, error)
	SetDowntime(ctx context.Context, id hypervisor.DomainID, limit time.Duration) error
	SetBandwidth(ctx context.Context, id hypervisor.DomainID, limit hypervisor.BytesPerSecond) error
	// StartPostCopy lets a running migration go over to post-copy. It may be repeated; from the first call
	// on the migration must not be aborted, whatever the call said.
	StartPostCopy(ctx context.Context, id hypervisor.DomainID) error
	// Recover goes on with a migration whose post-copy broke, and blocks like Migrate. It may be repeated.
	Recover(ctx context.Context, spec hypervisor.MigrateSpec) error
	SetAutostart(ctx context.Context, id hypervisor.DomainID, on bool) error
	// Resume starts the vCPUs of a paused domain.
	Resume(ctx context.Context, id hypervisor.DomainID) error
	// Undefine removes the definition of an inactive domain, keeping its NVRAM and TPM state.
	Undefine(ctx context.Context, id hypervisor.DomainID) error
}

// SendQueue keeps short what one domain's streams have queued in front of their link (hypervisor/sockets).
type SendQueue interface {
	// Keep is called at every look at the job. It reports whether the queue is short, and does not block for long.
	Keep(now time.Time) (bool, error)
	// Release is called when nobody calls Keep any more: nothing that was done may hold the stream back from then on.
	Release()
}

// Update is what a Queue delivers: records that concern this host, as source or target.
type Update struct {
	// Reset says that Records are all there are; records not among them are gone.
	Reset   bool
	Records []Stored
}

// Queue is the store as this host's agent sees it.
type Queue interface {
	// Watch delivers the present records and every change until ctx ends.
	Watch(ctx context.Context) <-chan Update
	Get(ctx context.Context, id string) (Stored, error)
	// Begin writes the record if it is unchanged and this agent's lease is alive at that moment:
	// for steps towards a libvirt call. ErrConflict, ErrFenced.
	Begin(ctx context.Context, old Stored, m Migration) (Stored, error)
	// Update writes the record if it is unchanged, lease or no lease: for telling what happened.
	Update(ctx context.Context, old Stored, m Migration) (Stored, error)
	// Progress overwrites the volatile part; losing one is no harm.
	Progress(ctx context.Context, p Progress) error
	// Ask puts a question to a host's agent and waits for the answer.
	Ask(ctx context.Context, host string, q Question) (Answer, error)
	// Listing names the hosts whose agents last reported the domain, running or not, and the others that have
	// a living agent.
	Listing(ctx context.Context, id hypervisor.DomainID) (listing, others []string, err error)
}
