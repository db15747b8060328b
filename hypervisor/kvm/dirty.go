package kvm

import (
	"context"
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// The windows of the two kinds of dirty-rate sample. Page sampling counts distinct pages, so a short
// window tells how fast they are rewritten and a long one how many there are.
const (
	shortWindow = time.Second
	longWindow  = 5 * time.Second
	// early is the time between the first samples of a domain: at the very first it may still be booting.
	early      = 3 * time.Second
	earlyTimes = 7
	// averaged is how many samples are told as one: QEMU looks at 512 pages of each GiB, of which a second's writes have
	// hit a few, and loads come and go.
	averaged = 3
	// oldest is how old one may be for that, at the time of the newest.
	oldest = 15 * time.Minute
)

// dirtySampler has QEMU estimate the dirty rates of idle domains, one domain at a time and each at
// most once per period, but for its first ones. It never blocks a load sample: those only offer candidates and read results.
type dirtySampler struct {
	period time.Duration // negative: never
	wake   chan struct{}

	mu         sync.Mutex
	candidates []hypervisor.DomainID
	domains    map[hypervisor.DomainID]*dirtyState
	// asked counts the domain's questions that libvirt has not answered, waited for or not.
	asked map[hypervisor.DomainID]int
}

type dirtyState struct {
	tried       time.Time
	times       int
	short, long []dirtySample // the latest few
}

// dirtySample is one with how far it tells what the domain goes on to do: the first, while it may be booting, not at all,
// those soon after it less than later ones.
type dirtySample struct {
	hypervisor.DirtySample
	rank int
}

// rank is that of a domain's sample by its number.
func rank(times int) int {
	switch {
	case times <= 1:
		return 0
	case times <= earlyTimes:
		return 1
	}
	return 2
}

// mean is what the samples say together; nil of none.
func mean(samples []dirtySample) *hypervisor.DirtySample {
	if len(samples) == 0 {
		return nil
	}
	m := samples[len(samples)-1].DirtySample
	m.Rate, m.Times = 0, len(samples)
	for _, s := range samples {
		m.Rate += s.Rate
	}
	m.Rate /= hypervisor.BytesPerSecond(len(samples))
	return &m
}

func newDirtySampler(period time.Duration) *dirtySampler {
	return &dirtySampler{
		period: period, wake: make(chan struct{}, 1), domains: map[hypervisor.DomainID]*dirtyState{},
		asked: map[hypervisor.DomainID]int{},
	}
}

// latest returns what the last estimates over the short and the long window say, nil where there is none.
func (s *dirtySampler) latest(id hypervisor.DomainID) (short, long *hypervisor.DirtySample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.domains[id]; d != nil {
		return mean(d.short), mean(d.long)
	}
	return nil, nil
}

// offer tells which domains could be sampled now, and forgets those that are gone. A silent domain is
// left out: libvirt starts an estimate without a limit on the time that QEMU may take, and one that
// hangs keeps the call for ever.
func (s *dirtySampler) offer(loads []hypervisor.DomainLoad, silent map[hypervisor.DomainID]bool, o *outgoing) {
	sure := o.sure()
	s.mu.Lock()
	s.candidates = s.candidates[:0]
	kept := make(map[hypervisor.DomainID]*dirtyState, len(loads))
	for _, l := range loads {
		if d := s.domains[l.ID]; d != nil {
			kept[l.ID] = d
		}
		if sure && l.State == hypervisor.StateRunning && !l.Migrating && !silent[l.ID] {
			s.candidates = append(s.candidates, l.ID)
		}
	}
	s.domains = kept
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next picks the candidate that waits longest, and its window; false when none is due.
func (s *dirtySampler) next(now time.Time) (hypervisor.DomainID, time.Duration, bool) {
	if s.period < 0 {
		return "", 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var best hypervisor.DomainID
	var oldest time.Time
	for _, id := range s.candidates {
		if s.asked[id] > 0 {
			continue
		}
		var tried time.Time
		due := s.period
		if d := s.domains[id]; d != nil {
			if tried = d.tried; d.times < earlyTimes {
				due = min(due, early)
			}
		}
		if now.Sub(tried) < due {
			continue
		}
		if best == "" || tried.Before(oldest) {
			best, oldest = id, tried
		}
	}
	if best == "" {
		return "", 0, false
	}
	d := s.domains[best]
	if d == nil {
		d = &dirtyState{}
		s.domains[best] = d
	}
	d.tried = now
	d.times++
	if d.times%2 == 1 && d.times > 1 {
		return best, longWindow, true
	}
	return best, shortWindow, true
}

func (s *dirtySampler) put(id hypervisor.DomainID, sample hypervisor.DirtySample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[id]
	if d == nil {
		return // gone in the meantime
	}
	now := dirtySample{sample, rank(d.times)}
	keep := func(list []dirtySample) []dirtySample {
		list = slices.DeleteFunc(list, func(old dirtySample) bool {
			return old.rank < now.rank || now.At.Sub(old.At) > oldest
		})
		list = append(list, now)
		return list[max(0, len(list)-averaged):]
	}
	if sample.Window == shortWindow {
		d.short = keep(d.short)
	} else {
		d.long = keep(d.long)
	}
}

// ask notes a question about the domain; the returned function notes that libvirt has answered it.
func (s *dirtySampler) ask(id hypervisor.DomainID) (answered func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asked[id]--; s.asked[id] == 0 {
			delete(s.asked, id)
		}
	}
}

// run looks after each offer who is leaving and samples one due domain, until ctx ends.
func (s *dirtySampler) run(ctx context.Context, h *Host) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		h.settleForeign(ctx)
		id, window, ok := s.next(time.Now())
		if !ok {
			continue
		}
		sample, err := h.estimateDirty(ctx, id, window)
		if err != nil {
			h.log.Debug("dirty rate not sampled", "domain", id, "err", err)
			continue
		}
		s.put(id, sample)
	}
}

// estimateDirty has QEMU sample one domain's pages over the window. It waits for the result, gives
// up when the domain begins to leave, and asks nothing of one that does: a probe would wait for the
// migration's lock and hold one of libvirtd's workers for 30 s.
func (h *Host) estimateDirty(ctx context.Context, id hypervisor.DomainID, window time.Duration) (hypervisor.DirtySample, error) {
	none := hypervisor.DirtySample{}
	leaving := func() error {
		if h.outgoing.leaving(id) {
			return refuse("dirty rate", id, hypervisor.ClassInvalid, "the domain is leaving")
		}
		return nil
	}
	if err := leaving(); err != nil {
		return none, err
	}
	r := request{op: "dirty rate", domain: id, limit: 2 * time.Second, quiet: true, slots: h.probeSlots}
	if err := h.startEstimate(ctx, r, window); err != nil {
		return none, err
	}
	wait := window + 200*time.Millisecond
	for range 5 {
		select {
		case <-ctx.Done():
			return none, gaveUp("dirty rate", id, ctx.Err())
		case <-time.After(wait):
		}
		if err := leaving(); err != nil {
			return none, err
		}
		rate, done, err := h.dirtyRate(ctx, r)
		if err != nil {
			return none, err
		}
		if done {
			return hypervisor.DirtySample{Rate: rate, Window: window, At: time.Now()}, nil
		}
		wait = 500 * time.Millisecond
	}
	return none, refuse("dirty rate", id, hypervisor.ClassBusy, "QEMU did not finish its estimate")
}

// startEstimate begins an estimate, on the probes' own connection: QEMU may never answer.
func (h *Host) startEstimate(ctx context.Context, r request, window time.Duration) error {
	r.release = h.dirty.ask(r.domain)
	seconds := int(window / time.Second)
	_, err := onLink(ctx, h, h.probe, r, func(lv *libvirt.Connect) (struct{}, error) {
		return withDomain(lv, r.domain, func(d *libvirt.Domain) (struct{}, error) {
			return struct{}{}, d.StartDirtyRateCalc(seconds, libvirt.DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING)
		})
	})
	return err
}

// dirtyRate reads the result of the last estimate; false while QEMU still samples.
func (h *Host) dirtyRate(ctx context.Context, r request) (rate hypervisor.BytesPerSecond, done bool, err error) {
	r.release = h.dirty.ask(r.domain)
	measured, err := onLink(ctx, h, h.probe, r, func(lv *libvirt.Connect) (*libvirt.DomainStatsDirtyRate, error) {
		return withDomain(lv, r.domain, func(d *libvirt.Domain) (*libvirt.DomainStatsDirtyRate, error) {
			stats, err := lv.GetAllDomainStats([]*libvirt.Domain{d}, libvirt.DOMAIN_STATS_DIRTYRATE, libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
			if err != nil {
				return nil, err
			}
			var found *libvirt.DomainStatsDirtyRate
			for i := range stats {
				found = stats[i].DirtyRate
				_ = stats[i].Domain.Free()
			}
			return found, nil
		})
	})
	if err != nil || measured == nil || !measured.CalcStatusSet || !measured.MegabytesPerSecondSet {
		return 0, false, err
	}
	if measured.CalcStatus != int(libvirt.DOMAIN_DIRTYRATE_MEASURED) || measured.MegabytesPerSecond < 0 {
		return 0, false, nil
	}
	// Libvirt calls them megabytes; QEMU counts in MiB.
	return hypervisor.BytesPerSecond(hypervisor.Bytes(measured.MegabytesPerSecond) * hypervisor.MiB), true, nil
}

// settleForeign looks at the domains that were seen to leave by another's hand: whether they still
// do. There are seldom any. At start and after a reset it finds out who is leaving.
func (h *Host) settleForeign(ctx context.Context) {
	if !h.outgoing.sure() {
		if _, err := h.Migrations(ctx); err == nil {
			h.outgoing.settled()
		}
		return
	}
	for _, id := range h.outgoing.foreign() {
		stats, err := h.JobStats(ctx, id)
		if err == nil && stats.Kind != hypervisor.JobOutgoing || hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
			h.outgoing.gone(id)
		}
	}
}
