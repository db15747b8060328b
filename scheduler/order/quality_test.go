package order_test

import (
	"testing"
	"time"

	"drover/hypervisor"
	"drover/scheduler/order"
	"drover/scheduler/order/ordertest"
)

// Where there is room, links are kept busy up to their bound, with equal links and unequal ones.
func TestNearTheBound(t *testing.T) {
	for name, links := range map[string][]hypervisor.BytesPerSecond{
		"equal": {1250e6}, "unequal": {125e6, 1250e6, 3125e6},
	} {
		for seed := range uint64(10) {
			in := ordertest.Generate(ordertest.Shape{Hosts: 100, Moves: 500, Links: links}, seed)
			res, err := order.Schedule(in, order.Options{})
			if err != nil || len(res.Steps) != 500 || res.Makespan > res.Bound*101/100 {
				t.Errorf("%s links, seed %d: %d steps in %s, bound %s, %v", name, seed, len(res.Steps), res.Makespan, res.Bound, err)
			}
		}
	}
}

// More schedules tried end sooner. By rule there are fewer than 400, so that the rest is the search by change.
func TestSearchPays(t *testing.T) {
	ends := func(evaluations int) (sum time.Duration) {
		for seed := range uint64(8) {
			in := ordertest.Generate(ordertest.Shape{Hosts: 11, Moves: 40, Links: []hypervisor.BytesPerSecond{62.5e6, 125e6}, Slack: 32 * hypervisor.GiB}, seed)
			res, err := order.Schedule(in, order.Options{Evaluations: evaluations})
			if err != nil {
				t.Fatal(err)
			}
			if err := ordertest.Check(in, res, seed); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			sum += res.Makespan
		}
		return sum
	}
	first, few, many := ends(1), ends(400), ends(3000)
	if few >= first || many >= few {
		t.Errorf("makespans add up to %s with one schedule tried, %s with 400, %s with 3000: want them to shrink", first, few, many)
	}
}
