package main

import (
	"context"
	"fmt"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
)

// plans writes plans as the leader.
type plans struct {
	store *store.Store
	fence store.Fence
}

// Write implements scheduler.Plans. The audit has how a plan was made, approved and ended.
func (p plans) Write(ctx context.Context, plan fleet.StoredPlan, run *fleet.Run) error {
	if err := p.store.PutPlan(ctx, &p.fence, plan.Revision, plan.Plan, run); err != nil {
		return err
	}
	kind, text := "plan-"+string(plan.Ending), joinNotes(plan.Reason, plan.Why)
	switch {
	case plan.Ended != nil:
	case run != nil:
		kind, text = "run-begun", joinNotes(plan.Reason, "approved by "+plan.Approved.By)
	case plan.Approved != nil:
		kind, text = "plan-approved", joinNotes(plan.Reason, plan.Approved.Reason)
	default:
		kind = "plan-made"
	}
	return p.store.Record(ctx, store.Event{Actor: "leader", Kind: kind, Subject: plan.ID, Text: text})
}

// SaveInput implements scheduler.Plans.
func (p plans) SaveInput(ctx context.Context, id string, input []byte) error {
	return p.store.SaveInput(ctx, &p.fence, id, input)
}

// Retire implements scheduler.Plans.
func (p plans) Retire(ctx context.Context, plan fleet.StoredPlan) error {
	return p.store.RetirePlan(ctx, p.fence, plan.ID, plan.Revision)
}

// Prune implements scheduler.Plans.
func (p plans) Prune(ctx context.Context) error { return p.store.PrunePlans(ctx, p.fence) }

// Since implements scheduler.Plans. Records sort by when they were made: it reads more and more of the newest
// until there are older ones among them.
func (p plans) Since(ctx context.Context, then time.Time) ([]precopy.Migration, error) {
	for limit := 256; ; limit *= 4 {
		list, err := p.store.History(ctx, limit)
		if err != nil {
			return nil, fmt.Errorf("since %s: %w", then.UTC().Format(time.RFC3339), err)
		}
		if len(list) < limit || list[len(list)-1].Created.Before(then) || limit > store.DefaultRetention().HistoryKeep {
			return list, nil
		}
	}
}

// Load implements scheduler.Plans.
func (p plans) Load(ctx context.Context) ([][]byte, error) { return p.store.Load(ctx) }

// SaveLoad implements scheduler.Plans.
func (p plans) SaveLoad(ctx context.Context, part int, text []byte) error {
	return p.store.SaveLoad(ctx, p.fence, part, text)
}
