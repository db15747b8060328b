package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"drover/precopy"
	"drover/store"
	"drover/store/memstore"
)

// Without a scheduler a command takes back what it has asked for itself, unless it was queued; what others have asked
// for is not its to end, however long it looks on.
func TestWithdrawsOnlyItsOwn(t *testing.T) {
	for _, c := range []struct {
		name      string
		own       bool
		code      string
		withdrawn bool
	}{
		{"its own", true, "", true},
		{"its own in the queue", true, waiting, false},
		{"another's", false, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := store.New(memstore.New().Client())
				defer st.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				m, err := st.CreateMigration(ctx, precopy.Migration{
					Schema: precopy.Schema, ID: "01970000-0000-7000-8000-000000000001", Domain: "web", UUID: "6c1f0000-0000-4000-8000-000000000001", Source: "kvm1",
					Phase: precopy.Requested, ReasonCode: c.code, Reason: "as asked", RequestedBy: "ada", Created: time.Now(),
				})
				if err != nil {
					t.Fatal(err)
				}
				s := &session{Store: st}
				if c.own {
					s.asked = m.ID
				}
				_, err = s.until(ctx, m, func(m precopy.Migration) bool { return m.Phase.Final() }, nil)
				if got := errors.Is(err, errNoScheduler); got != c.withdrawn {
					t.Errorf("withdrawn: %t (%v), want %t", got, err, c.withdrawn)
				}
				m, err = st.GetMigration(t.Context(), m.ID)
				if err != nil || m.Phase.Final() != c.withdrawn {
					t.Errorf("the record is %s, %v", m.Phase, err)
				}
			})
		})
	}
}
