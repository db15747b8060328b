// Package load is how much CPU guests ask for over time: made patterns, and traces from files.
//
// A [Series] is a function of the time since the beginning: the same twice, whoever asks and in what order.
// Values are shares of the guest's own vCPUs, 0 to 1.
package load

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Series is the load of one guest.
type Series interface {
	// At is the share of its vCPUs that the guest asks for at a time since the beginning.
	At(t time.Duration) float64
}

// Steady is a level with noise.
type Steady struct {
	Level float64
	Noise Noise
}

// At implements Series.
func (s Steady) At(t time.Duration) float64 { return within(s.Level + s.Noise.at(t)) }

// Daily swings between two levels once a day.
type Daily struct {
	Low, High float64
	Peak      time.Duration // of the day
	Noise     Noise
}

// At implements Series.
func (d Daily) At(t time.Duration) float64 {
	turn := 2 * math.Pi * float64(t-d.Peak) / float64(24*time.Hour)
	return within(d.Low + (d.High-d.Low)*(1+math.Cos(turn))/2 + d.Noise.at(t))
}

// Bursts is at one level for a while, and at another for a while.
type Bursts struct {
	Low, High float64
	On, Off   time.Duration
	Shift     time.Duration
	Noise     Noise
}

// At implements Series.
func (b Bursts) At(t time.Duration) float64 {
	level := b.Low
	if (t+b.Shift)%max(b.On+b.Off, 1) < b.On {
		level = b.High
	}
	return within(level + b.Noise.at(t))
}

// Step goes from one level to another, once.
type Step struct {
	Before, After float64
	When          time.Duration
	Noise         Noise
}

// At implements Series.
func (s Step) At(t time.Duration) float64 {
	if t < s.When {
		return within(s.Before + s.Noise.at(t))
	}
	return within(s.After + s.Noise.at(t))
}

// Recorded is a row of a trace. It begins anew when it is over.
type Recorded struct {
	Every  time.Duration
	Values []float64
}

// At implements Series.
func (r Recorded) At(t time.Duration) float64 { return r.Values[int(t/r.Every)%len(r.Values)] }

// Noise is normal about zero, another value every minute.
type Noise struct {
	SD   float64
	Seed uint64
}

func (n Noise) at(t time.Duration) float64 {
	if n.SD == 0 {
		return 0
	}
	x := mix(n.Seed ^ mix(uint64(t/time.Minute)+1))
	// The sum of four uniform figures is near enough to normal.
	sum := 0.0
	for range 4 {
		sum += float64(x&0xffff) / 0xffff
		x >>= 16
	}
	return n.SD * (sum - 2) * math.Sqrt(3)
}

// mix is splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func within(x float64) float64 { return min(max(x, 0), 1) }

// Kinds are the patterns that [Make] knows.
func Kinds() []string { return []string{"steady", "daily", "bursts", "step", "mixed"} }

// Make makes the n-th guest's load of a kind. Levels differ from guest to guest; mixed takes the kinds in turn.
func Make(kind string, seed uint64, n int) (Series, error) {
	x := mix(seed ^ mix(uint64(n)+77))
	u := func() float64 {
		x = mix(x)
		return float64(x>>11) / (1 << 53)
	}
	level := 0.05 + 0.5*u()*u()
	noise := Noise{SD: 0.02 + 0.1*level, Seed: x}
	if kind == "mixed" {
		kind = []string{"steady", "steady", "daily", "bursts"}[n%4]
	}
	switch kind {
	case "steady":
		return Steady{level, noise}, nil
	case "daily":
		return Daily{level / 2, min(2*level, 0.9), time.Duration((10 + 8*u()) * float64(time.Hour)), noise}, nil
	case "bursts":
		on := time.Duration((10 + 50*u()) * float64(time.Minute))
		return Bursts{level / 2, min(3*level, 0.95), on, 3 * on, time.Duration(u() * float64(4*on)), noise}, nil
	case "step":
		if u() > 0.15 {
			return Steady{level, noise}, nil
		}
		return Step{level, min(4*level, 0.95), time.Duration((1 + 3*u()) * float64(time.Hour)), noise}, nil
	}
	return nil, fmt.Errorf("load %q is not known: want one of %v", kind, slices.Clip(Kinds()))
}
