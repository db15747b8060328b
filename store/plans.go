package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"drover/scheduler/fleet"
	"drover/store/kv"
)

// Plans is the table of plans that have not ended, and of some that have lately, by ID. People approve and
// withdraw them, and the leader does the rest.
func (s *Store) Plans() Table[fleet.Plan] { return Table[fleet.Plan]{s, plansPrefix, "plan"} }

// PauseID is the ID of the one record of [Store.Pauses].
const PauseID = "paused"

// Pauses is the table with the record that stops automatic moves while it is there.
func (s *Store) Pauses() Table[fleet.Pause] { return Table[fleet.Pause]{s, fleetPrefix, "pause"} }

const (
	// inputPart is the size of a part of a plan's input, in bytes: well below what a value may be.
	inputPart = 512 << 10
	// inputMost bounds an input, compressed; one that is larger is not kept.
	inputMost = 16 << 20
	// PlanLife is how long a plan stays after its end, InputLife its input after it was made.
	PlanLife  = 30 * 24 * time.Hour
	InputLife = 7 * 24 * time.Hour
	// plansKept and inputsKept bound how many there are, and inputBytes what inputs take together.
	plansKept  = 1000
	inputsKept = 200
	inputBytes = 32 << 20
)

// ErrInput: what a plan was made from is not there, or can't be read.
var ErrInput = errors.New("the plan's input is not there")

// PutPlan writes a plan that is as it was at the revision, 0 for one that is not there, together with the run
// that begins with it, if any. ErrConflict when the plan is otherwise, or the run is there.
func (s *Store) PutPlan(ctx context.Context, fence *Fence, revision int64, p fleet.Plan, run *fleet.Run) error {
	op := "write plan " + p.ID
	if err := checkName("plan", p.ID); err != nil {
		return err
	}
	key := plansPrefix + p.ID
	e, exists, err := s.get(ctx, key)
	if err == nil && e.Mod != revision {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	value, err := s.Plans().changed(e, exists, func(out *fleet.Plan, _ int64) error { *out = p; return nil })
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	conds, ops := fenced([]kv.Cond{unchanged(key, e, exists)}, fence), []kv.Op{kv.Put(key, value)}
	if run != nil {
		text, err := encode(run)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		conds, ops = append(conds, kv.IfAbsent(runsPrefix+run.ID)), append(ops, kv.Put(runsPrefix+run.ID, text))
	}
	return s.commit(ctx, op, fence, conds, ops)
}

// commit writes; ErrConflict when a condition does not hold, ErrFenced when that is the fence's.
func (s *Store) commit(ctx context.Context, op string, fence *Fence, conds []kv.Cond, ops []kv.Op) error {
	held, _, err := s.kv.Txn(ctx, conds, ops)
	if err == nil && !held {
		if err = s.checkFence(ctx, fence); err == nil {
			err = ErrConflict
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// RetirePlan moves a plan that has ended out of the fleet's picture, for the leader.
func (s *Store) RetirePlan(ctx context.Context, fence Fence, id string, revision int64) error {
	op, key := "move plan "+id+" to the past", plansPrefix+id
	e, exists, err := s.get(ctx, key)
	if err == nil && (!exists || e.Mod != revision) {
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return s.commit(ctx, op, &fence, []kv.Cond{fence.cond(), kv.IfMod(key, revision)}, []kv.Op{
		kv.Put(pastPlansPrefix+id, pack(e.Value)), kv.Delete(key),
	})
}

// PastPlans returns plans that have ended and left the fleet's picture, newest first, at most limit.
func (s *Store) PastPlans(ctx context.Context, limit int) ([]fleet.Plan, error) {
	entries, err := s.kv.Last(ctx, pastPlansPrefix, limit)
	if err != nil {
		return nil, fmt.Errorf("past plans: %w", err)
	}
	var out []fleet.Plan
	for _, e := range entries {
		var p fleet.Plan
		if err := decode(e.Value, &p); err != nil {
			s.log.Error("record left out", "key", e.Key, "err", err)
			continue
		}
		out = append(out, p)
	}
	return out, nil
}

// SaveInput keeps what a plan was made from, compressed and in parts. The last part that is written is the
// first one, which says how many there are: an input that was written in part is none.
func (s *Store) SaveInput(ctx context.Context, fence *Fence, id string, input []byte) error {
	op := "keep the input of plan " + id
	if err := checkName("plan", id); err != nil {
		return err
	}
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed) // fails only for unknown levels
	_, _ = w.Write(input)                             // a bytes.Buffer takes everything
	_ = w.Close()
	if buf.Len() > inputMost {
		return fmt.Errorf("%s: %w: %d bytes", op, kv.ErrTooLarge, buf.Len())
	}
	parts := slices.Collect(slices.Chunk(buf.Bytes(), inputPart))
	for i := len(parts) - 1; i >= 0; i-- {
		value := fmt.Appendf(nil, "%d\n", len(parts))
		err := s.commit(ctx, op, fence, fenced(nil, fence), []kv.Op{kv.Put(inputKey(id, i), append(value, parts[i]...))})
		if err != nil {
			return err
		}
	}
	return nil
}

func inputKey(id string, part int) string { return fmt.Sprintf("%s%s/%03d", inputsPrefix, id, part) }

// Input reads what a plan was made from. The error matches ErrInput when that is not kept any more.
func (s *Store) Input(ctx context.Context, id string) ([]byte, error) {
	op := "input of plan " + id
	if err := checkName("plan", id); err != nil {
		return nil, err
	}
	entries, _, err := s.kv.List(ctx, inputsPrefix+id+"/")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	var text []byte
	for i, e := range entries {
		head, part, ok := bytes.Cut(e.Value, []byte("\n"))
		if !ok || string(head) != fmt.Sprint(len(entries)) || e.Key != inputKey(id, i) {
			return nil, fmt.Errorf("%s: %w: it is not whole", op, ErrInput)
		}
		text = append(text, part...)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s: %w: inputs are kept for %g days", op, ErrInput, InputLife.Hours()/24)
	}
	r, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", op, ErrInput, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, 32*inputMost))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", op, ErrInput, err)
	}
	return out, nil
}

// PrunePlans deletes what is too old, or too much, of past plans and inputs, for the leader. It reads all of it.
func (s *Store) PrunePlans(ctx context.Context, fence Fence) error {
	return errors.Join(
		s.prunePast(ctx, fence, pastPlansPrefix, time.Now().Add(-PlanLife), plansKept, 1<<40),
		s.prunePast(ctx, fence, inputsPrefix, time.Now().Add(-InputLife), inputsKept, inputBytes))
}

// madeAt is when an ID of version 7 was made.
func madeAt(id string) (time.Time, bool) {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return time.Time{}, false
	}
	sec, nsec := u.Time().UnixTime()
	return time.Unix(sec, nsec), true
}

// prunePast keeps the newest of what is under a prefix by IDs that begin with a time.
func (s *Store) prunePast(ctx context.Context, fence Fence, prefix string, since time.Time, keep, size int) error {
	entries, _, err := s.kv.List(ctx, prefix)
	if err != nil {
		return fmt.Errorf("prune %s: %w", prefix, err)
	}
	var ops []kv.Op
	last, kept, bytes := "", 0, 0
	for _, e := range slices.Backward(entries) {
		id, _, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		if id != last {
			last, kept = id, kept+1
		}
		bytes += len(e.Value)
		if made, ok := madeAt(id); kept > keep || bytes > size || ok && made.Before(since) {
			ops = append(ops, kv.Delete(e.Key))
		}
	}
	for part := range slices.Chunk(ops, kv.MaxOps/2) {
		if err := s.commit(ctx, "prune "+prefix, &fence, []kv.Cond{fence.cond()}, part); err != nil {
			return err
		}
	}
	return nil
}
