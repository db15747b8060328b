package kvm

import (
	"sync"

	"drover/hypervisor"
)

// outgoing knows which domains are leaving this host: those whose migrate call is in this process,
// each with a connection of its own, and those that were only seen to leave (adopted after a
// restart, or started by other tools).
type outgoing struct {
	limit int

	mu    sync.Mutex
	own   map[hypervisor.DomainID]*stream
	other map[hypervisor.DomainID]bool
	// watches are the migrations whose source must be known to have run on, or not.
	watches map[*watch]bool
	// unsure is set while domains may be leaving that nobody has told of: at start and after a
	// reset. Dirty-rate probes wait until it is cleared.
	unsure bool
}

// watch notes whether a domain's vCPUs were stopped while it was watched.
type watch struct {
	id hypervisor.DomainID
	// stopped is set by an event, blind when events may have been lost.
	stopped, blind bool
}

// stream is one migrate call in this process. conn is nil until it is connected.
type stream struct {
	conn  *conn
	slots slots
}

func newOutgoing(limit int) *outgoing {
	return &outgoing{
		limit: limit, own: map[hypervisor.DomainID]*stream{}, other: map[hypervisor.DomainID]bool{},
		watches: map[*watch]bool{}, unsure: true,
	}
}

// begin reserves one of the host's outgoing places for the domain.
func (o *outgoing) begin(id hypervisor.DomainID) (*stream, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.own[id] != nil {
		return nil, refuse("migrate", id, hypervisor.ClassInvalid, "this domain is being migrated already")
	}
	if len(o.own) >= o.limit {
		return nil, refuse("migrate", id, hypervisor.ClassBusy, "%d migrations leave this host already, no more are allowed", o.limit)
	}
	s := &stream{slots: newSlots(tuneSlots)}
	o.own[id] = s
	return s, nil
}

// connected gives the stream the connection on which its statistics and limits go from now on.
func (o *outgoing) connected(s *stream, c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.conn = c
}

// end frees the domain's place.
func (o *outgoing) end(id hypervisor.DomainID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.own, id)
	delete(o.other, id)
}

// tuning returns the connection of the domain's own migration, held, and its slots; nil when the
// domain has none.
func (o *outgoing) tuning(id hypervisor.DomainID) (*conn, slots) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.own[id]
	if s == nil || s.conn == nil || !s.conn.hold() {
		return nil, nil
	}
	return s.conn, s.slots
}

// seen notes that a job takes the domain away.
func (o *outgoing) seen(id hypervisor.DomainID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.other[id] = true
}

// gone notes that no job does, or that the domain isn't here any more.
func (o *outgoing) gone(id hypervisor.DomainID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.other, id)
}

// leaving reports whether the domain is known to be leaving.
func (o *outgoing) leaving(id hypervisor.DomainID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.own[id] != nil || o.other[id]
}

// foreign lists the domains that were only seen to leave; someone has to look when they stop.
func (o *outgoing) foreign() []hypervisor.DomainID {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []hypervisor.DomainID
	for id := range o.other {
		if o.own[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// doubt says that domains may have begun or ceased to leave unseen.
func (o *outgoing) doubt() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unsure = true
	for w := range o.watches {
		w.blind = true
	}
}

// watch begins to watch a domain; unwatch ends it and tells what was seen.
func (o *outgoing) watch(id hypervisor.DomainID) *watch {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := &watch{id: id}
	o.watches[w] = true
	return w
}

// unwatch reports whether the domain surely ran on, or surely stood still, all the time.
func (o *outgoing) unwatch(w *watch) (undisturbed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.watches, w)
	return !w.stopped && !w.blind
}

// suspended notes that a domain's vCPUs were stopped.
func (o *outgoing) suspended(id hypervisor.DomainID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for w := range o.watches {
		if w.id == id {
			w.stopped = true
		}
	}
}

// settled clears the doubt: every active domain was looked at.
func (o *outgoing) settled() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unsure = false
}

// sure reports whether every domain that leaves is known.
func (o *outgoing) sure() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.unsure
}
