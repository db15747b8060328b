package order_test

import (
	"testing"

	"pgregory.net/rapid"

	"drover/scheduler/order"
	"drover/scheduler/order/ordertest"
)

// Whatever the fleet: a feasible schedule that has every move or says why not, and an end of the search.
func FuzzSchedule(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		in := inputs(t)
		res, err := order.Schedule(in, order.Options{Evaluations: 30})
		if err != nil {
			t.Fatal(err)
		}
		if err := ordertest.Check(in, res, 1); err != nil {
			t.Fatal(err)
		}
	}))
}
