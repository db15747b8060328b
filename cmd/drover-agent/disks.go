package main

import (
	"context"
	"fmt"
	"sync"

	"drover/hypervisor"
	"drover/precopy"
)

// diskHost makes and discards the files that storage copies fill.
type diskHost interface {
	CreateDisks(ctx context.Context, migration string, disks []hypervisor.Disk) error
	RemoveDisks(ctx context.Context, migration string) error
}

// records reads migrations from the store.
type records interface {
	GetMigration(ctx context.Context, id string) (precopy.Stored, error)
}

// disks answers the questions about disks, those of one migration in turn. A question can be served
// long after it was put, and after the migration ended; then no files are made, since nobody would
// discard them. Safe for concurrent use.
type disks struct {
	name    string // the host's
	host    diskHost
	records records

	mu    sync.Mutex
	turns map[string]*turn // by migration, while there is a question
}

// turn is held by the one question of a migration that is being answered.
type turn struct {
	held  chan struct{}
	users int
}

func newDisks(name string, host diskHost, records records) *disks {
	return &disks{name: name, host: host, records: records, turns: map[string]*turn{}}
}

// create makes the files if the record, read now, says that the migration is still to come here. The
// record is read within the turn: whoever discards asks after the record became final, so that either
// this sees it, or the discarding finds what this made.
func (d *disks) create(ctx context.Context, q precopy.Question) error {
	end, err := d.take(ctx, q.Migration)
	if err != nil {
		return err
	}
	defer end()
	rec, err := d.records.GetMigration(ctx, q.Migration)
	switch {
	case err != nil:
		return fmt.Errorf("create disks: whether migration %s goes on: %w", q.Migration, err)
	case rec.Phase.Final():
		return fmt.Errorf("create disks: migration %s is over (%s)", q.Migration, rec.Phase)
	case rec.Target != d.name:
		return fmt.Errorf("create disks: migration %s goes to %q, this is %s", q.Migration, rec.Target, d.name)
	}
	return d.host.CreateDisks(ctx, q.Migration, q.Disks)
}

// discard removes the files that were made for the migration.
func (d *disks) discard(ctx context.Context, q precopy.Question) error {
	end, err := d.take(ctx, q.Migration)
	if err != nil {
		return err
	}
	defer end()
	return d.host.RemoveDisks(ctx, q.Migration)
}

// take waits for the migration's turn, as long as ctx allows; end gives it on.
func (d *disks) take(ctx context.Context, migration string) (end func(), err error) {
	d.mu.Lock()
	t := d.turns[migration]
	if t == nil {
		t = &turn{held: make(chan struct{}, 1)}
		d.turns[migration] = t
	}
	t.users++
	d.mu.Unlock()
	leave := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(d.turns, migration)
		}
	}
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("disks of migration %s are being worked on: %w", migration, ctx.Err())
	}
}
