package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
	"drover/precopy/forecast"
	"drover/store/kv"
)

const (
	// ProfileLife is how long a profile stays after its domain was last reported.
	ProfileLife = 30 * 24 * time.Hour
	// seenEvery is how exactly a profile knows when that was.
	seenEvery = 24 * time.Hour
)

func (s *Store) profiles() Table[forecast.Profile] {
	return Table[forecast.Profile]{s, profilesPrefix, "profile"}
}

// Profile reads what is known of a domain from its earlier migrations: nothing, if it has no profile.
func (s *Store) Profile(ctx context.Context, id hypervisor.DomainID) (forecast.Profile, error) {
	r, err := s.profiles().Get(ctx, string(id))
	if errors.Is(err, kv.ErrNotFound) {
		err = nil
	}
	return r.Value, err
}

// Learn adds receipts to a domain's profile, for the leader, and reports whether any of them is new there.
// A receipt that was learned before, or that newer ones have displaced, changes nothing. A profile that
// can't be read is begun anew.
func (s *Store) Learn(ctx context.Context, fence Fence, id hypervisor.DomainID, receipts []forecast.Receipt) (bool, error) {
	was, err := s.Profile(ctx, id)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	if _, isNew := was.Learn(receipts...); err == nil && !isNew {
		return false, nil
	}
	t, isNew := s.profiles(), false
	_, err = t.change(ctx, &fence, t.op("learn", string(id)), string(id), func(p *forecast.Profile, _ int64) error {
		*p, isNew = p.Learn(receipts...)
		p.Schema, p.UUID, p.Seen = max(p.Schema, Schema), id, time.Now().UTC()
		return nil
	}, true)
	return isNew && err == nil, err
}

// TendProfiles notes which profiles' domains are still reported, and removes those whose domains were not
// for [ProfileLife], for the leader.
func (s *Store) TendProfiles(ctx context.Context, fence Fence, reported map[hypervisor.DomainID]bool) error {
	rows, err := s.profiles().List(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, r := range rows {
		age, here := now.Sub(r.Value.Seen), reported[hypervisor.DomainID(r.ID)]
		switch {
		case here && age > seenEvery:
			_, err = s.profiles().Update(ctx, &fence, r.ID, func(p *forecast.Profile) error {
				p.Seen = now.UTC()
				return nil
			})
			if errors.Is(err, kv.ErrNotFound) {
				err = nil
			}
		case !here && age > ProfileLife:
			err = s.forgetProfile(ctx, fence, r)
		}
		if err != nil {
			return fmt.Errorf("tend profiles: %w", err)
		}
	}
	return nil
}

// forgetProfile removes a profile that is as it was read.
func (s *Store) forgetProfile(ctx context.Context, fence Fence, r Row[forecast.Profile]) error {
	key := profilesPrefix + r.ID
	held, _, err := s.kv.Txn(ctx, []kv.Cond{fence.cond(), kv.IfMod(key, r.Revision)}, []kv.Op{kv.Delete(key)})
	if err != nil || held {
		return err
	}
	return s.checkFence(ctx, &fence)
}
