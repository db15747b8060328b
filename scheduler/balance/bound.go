package balance

import "math"

// bound is a limit that the search may exceed on its way, at a price that it learns.
type bound struct {
	limit  float64 // 0 is none
	weight float64 // price units per unit above
	first  float64 // the weight that is tried first
	earned float64 // share of the weight that is earned back per unit below
}

// price is what x costs.
func (b *bound) price(x float64) float64 {
	switch {
	case b.limit <= 0:
		return 0
	case x <= b.limit:
		return b.earned * b.weight * (x - b.limit)
	}
	return b.weight * (x - b.limit)
}

// follow makes the weight more while the bound is exceeded and less otherwise, so much that it pays to keep it.
func (b *bound) follow(x, done, step float64) {
	if b.limit <= 0 {
		return
	}
	off := max(-1, min(1, (x/b.limit-1)/followed))
	b.weight = max(b.first/1000, min(b.weight*math.Exp(step*off), b.first*1000))
	b.earned = max(earnedAtLast, min(1, earnedSlope*(1-done)))
}

// firm makes an exceeded bound weigh more.
func (b *bound) firm(x float64) {
	if b.excess(x) > 0 {
		b.weight *= 2
	}
}

// excess is by which share the bound is exceeded.
func (b *bound) excess(x float64) float64 {
	if b.limit <= 0 {
		return 0
	}
	return max(0, x/b.limit-1)
}
