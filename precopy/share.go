package precopy

import (
	"sync"
	"time"

	"drover/hypervisor"
)

// Share is what the leader lets one migration's stream use of the links that it crosses. It is made with the
// order and dies with the migration.
type Share struct {
	Schema    int                       `json:"schema"`
	ID        string                    `json:"id"` // the migration's
	Domain    hypervisor.DomainID       `json:"domain"`
	Source    string                    `json:"source"` // whose agent applies it
	Bandwidth hypervisor.BytesPerSecond `json:"bandwidth"`
	// From is the most that may be in force until the agent has applied this share: what it replaced, if
	// that was more.
	From hypervisor.BytesPerSecond `json:"from,omitempty"`
	// Alone is the most that it could be if nobody else used the links: more is to be waited for only up to that. 0 is
	// not known.
	Alone hypervisor.BytesPerSecond `json:"alone,omitempty"`
	// Serial counts the migration's shares; [Progress] says which one is in force.
	Serial int64     `json:"serial"`
	At     time.Time `json:"at"` // by the leader's clock
	// Limit names what keeps it from being more: a link, or why its own cap is what it is.
	Limit string `json:"limit,omitempty"`
	Why   string `json:"why,omitempty"` // for people
}

// InForce is the most that the stream may use at present, given the serial that its agent acknowledged.
func (s Share) InForce(serial int64) hypervisor.BytesPerSecond {
	if serial >= s.Serial {
		return s.Bandwidth
	}
	return max(s.Bandwidth, s.From)
}

// Next is the share that replaces this one, given the serial that the agent acknowledged.
func (s Share) Next(bandwidth hypervisor.BytesPerSecond, serial int64, now time.Time) Share {
	next := s
	next.Bandwidth, next.From, next.Serial, next.At = bandwidth, 0, s.Serial+1, now
	if before := s.InForce(serial); before > bandwidth {
		next.From = before
	}
	return next
}

// ShareUpdate is what the store tells of shares.
type ShareUpdate struct {
	// Reset says that Shares are all there are.
	Reset  bool
	Shares []Share
	// Removed are the migrations whose shares are gone.
	Removed []string
}

// hold is what one migration's driver knows of its share. It is safe for concurrent use.
type hold struct {
	mu    sync.Mutex
	share Share
	known bool
}

// take notes a newer share and reports whether it is one.
func (h *hold) take(s Share) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known && s.Serial <= h.share.Serial || s.Bandwidth <= 0 {
		return false
	}
	h.share, h.known = s, true
	return true
}

func (h *hold) get() (Share, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.share, h.known
}

// takeShares hands shares on to the drives that they concern, and keeps those of orders to come.
func (w *Worker) takeShares(u ShareUpdate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.Reset {
		clear(w.shares)
	}
	for _, id := range u.Removed {
		delete(w.shares, id)
	}
	for _, s := range u.Shares {
		if s.Source != w.Host {
			continue
		}
		w.shares[s.ID] = s
		if d := w.drives[s.ID]; d != nil && d.hold.take(s) {
			d.wake()
		}
	}
}

// allowed is the bandwidth that the stream may use by its share, or by its order as long as none is known.
func (d *drive) allowed() hypervisor.BytesPerSecond {
	o := d.rec.current().Order
	if s, known := d.hold.get(); known {
		return min(s.Bandwidth, o.Bandwidth)
	}
	if o.Share > 0 {
		return min(o.Share, o.Bandwidth)
	}
	return o.Bandwidth
}

// alone is the most that could be allowed if nobody else used the links; 0 is not known.
func (d *drive) alone() hypervisor.BytesPerSecond {
	s, _ := d.hold.get()
	return s.Alone
}

// perStream is the cap by which the migration keeps to a bandwidth: libvirt applies it to each disk's copy.
func (d *drive) perStream(all hypervisor.BytesPerSecond) hypervisor.BytesPerSecond {
	return max(all/d.streams(), 1)
}

// streams is how many copies of disks are under way, or the memory's stream alone.
func (d *drive) streams() hypervisor.BytesPerSecond {
	if d.last.MemTotal > 0 {
		return 1
	}
	return hypervisor.BytesPerSecond(max(d.mirrors, 1))
}

// canCap reports whether the migration would keep to another cap: copies of disks keep the one that they began with. An
// agent that takes over leaves what is in force alone until it knows what is allowed now: what was ordered may be more.
func (d *drive) canCap() bool {
	_, known := d.hold.get()
	return (d.mirrors == 0 || d.last.MemTotal > 0) && (known || d.cap > 0 || !d.rec.current().attempt().Adopted)
}

// acknowledge notes which share is in force, once libvirt has taken a cap that keeps to it.
func (d *drive) acknowledge() {
	s, known := d.hold.get()
	if !known || d.cap <= 0 || d.cap > max(d.perStream(s.Bandwidth), hypervisor.BytesPerSecond(hypervisor.MiB)) || s.Serial == d.serial {
		return
	}
	d.serial = s.Serial
	d.bar.At = time.Time{} // tell it now
}

// pace measures what was sent over the last second or so.
type pace struct {
	at    time.Time
	sent  hypervisor.Bytes
	last  hypervisor.BytesPerSecond
	moved time.Time // when total last grew
	total hypervisor.Bytes
}

func (p *pace) note(now time.Time, sent hypervisor.Bytes) {
	const window = 900 * time.Millisecond
	if p.moved.IsZero() || sent != p.total {
		p.moved, p.total = now, sent
	}
	switch took := now.Sub(p.at); {
	case p.at.IsZero() || sent < p.sent:
		p.at, p.sent = now, sent
	case took >= window:
		p.last = hypervisor.Rate(sent-p.sent, took)
		p.at, p.sent = now, sent
	}
}

// silent is for how long nothing has got through; 0 while that is no longer than a poll or two.
func (p *pace) silent(now time.Time) time.Duration {
	if d := now.Sub(p.moved); !p.moved.IsZero() && d >= 3*time.Second {
		return d
	}
	return 0
}
