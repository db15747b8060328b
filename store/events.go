package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"drover/store/kv"
)

// Event is one line of the audit: who did what to whom.
type Event struct {
	Schema int `json:"schema"`
	// ID is set by Record; it sorts by age.
	ID string `json:"id"`
	// At is when it happened, by the clock of who recorded it; now when zero.
	At time.Time `json:"at"`
	// Actor is a person, "leader NAME" or "agent HOST".
	Actor string `json:"actor"`
	// Kind is a stable word such as "host-cordoned"; tools branch on it.
	Kind string `json:"kind"`
	// Subject is a host's name, or the ID of a migration, run or domain.
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

// Record adds an event to the audit. After an answer that got lost it may stand there twice.
func (s *Store) Record(ctx context.Context, e Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	e.Schema, e.ID = Schema, id.String()
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	value, err := encode(e)
	if err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	_, _, err = s.kv.Txn(ctx, nil, []kv.Op{kv.Put(eventsPrefix+e.ID, value)})
	if err != nil {
		return fmt.Errorf("record event %s: %w", e.Kind, err)
	}
	return nil
}

// Events returns the newest events, newest first, at most limit.
func (s *Store) Events(ctx context.Context, limit int) ([]Event, error) {
	entries, err := s.kv.Last(ctx, eventsPrefix, limit)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	var out []Event
	for _, e := range entries {
		var ev Event
		if err := decode(e.Value, &ev); err != nil {
			s.log.Error("event left out", "key", e.Key, "err", err)
			continue
		}
		out = append(out, ev)
	}
	return out, nil
}
