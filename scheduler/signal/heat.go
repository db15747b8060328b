package signal

import "time"

// Latch says when a figure is high for long enough to act, and when that is over. A figure between Off and On
// changes nothing.
type Latch struct {
	On, Off float64
	// Hold is for how long the figure must be at On or above, or below Off, before that counts.
	Hold time.Duration
}

// Heat is a latch's memory of one figure.
type Heat struct {
	Hot bool `json:"hot,omitempty"`
	// Since is since when the figure has been beyond the other mark without a break; zero when it is not.
	Since time.Time `json:"since,omitzero"`
}

// Step takes the figure of now. Times must not go back; after a break in the reports, begin anew.
func (l Latch) Step(h Heat, figure float64, now time.Time) Heat {
	against := figure >= l.On
	if h.Hot {
		against = figure < l.Off
	}
	switch {
	case !against:
		h.Since = time.Time{}
	case h.Since.IsZero():
		h.Since = now
	}
	if against && now.Sub(h.Since) >= l.Hold {
		return Heat{Hot: !h.Hot}
	}
	return h
}
