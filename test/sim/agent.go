package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/throttle"
	"drover/precopy"
	"drover/precopy/tune"
	"drover/scheduler/fleet"
	"drover/test/sim/flow"
	"drover/test/sim/guest"
)

// What the real agent does at which intervals.
const (
	pollFast      = 100 * time.Millisecond // in the first seconds
	pollSlow      = 250 * time.Millisecond
	fastFor       = 5 * time.Second
	progressEvery = time.Second
	abortTakes    = 50 * time.Millisecond
	replyTakes    = 5 * time.Millisecond
)

// startAgent starts a host's agent, or brings its network back: it takes up its name, reports, ends what has
// ended meanwhile, goes on with what runs, and looks for orders.
func (h *Host) startAgent() {
	if !h.on || h.cut {
		return
	}
	h.agent = true
	h.lapse.Stop()
	if h.session == nil {
		h.w.store.wrote("session")
		h.session = &fleet.Session{Schema: 1, Host: h.Name, LibvirtUUID: "sim-" + h.Name, Instance: fmt.Sprint(h.Name, "-", h.w.store.rev), Version: "sim", Started: h.w.Time()}
	}
	h.known = ""
	h.publish()
	for _, tell := range h.spooled() {
		tell()
	}
	for _, id := range sortedKeys(h.drives) {
		h.drives[id].adopt()
	}
	for _, id := range sortedKeys(h.w.store.migrations) {
		if m := h.w.store.migrations[id]; m.Source == h.Name && h.drives[id] == nil && !m.Phase.Final() {
			h.look(id)
		}
	}
	h.w.kick()
}

// spooled takes what was kept for when the store is there again.
func (h *Host) spooled() []func() {
	out := h.spool
	h.spool = nil
	return out
}

// connected reports whether the agent lives and reaches the store.
func (h *Host) connected() bool { return h.on && h.agent && !h.cut }

// publish reports, and will again.
func (h *Host) publish() {
	h.report.Stop()
	h.report = h.w.After(h.w.Timing.Report, h.publish)
	if !h.connected() || h.session == nil {
		return
	}
	now := h.w.now
	guests := h.Guests()
	asked := hypervisor.Cores(0)
	for _, g := range guests {
		asked += g.Asked(now)
	}
	// More is asked for than there is: what runs gets what there is.
	part := hypervisor.Cores(1)
	if asked > h.Cores {
		part = h.Cores / asked
	}
	l := &hypervisor.HostLoad{At: h.w.Time(), CPU: min(asked, h.Cores), Memory: h.Reserved}
	if asked > h.Cores {
		l.Pressure.CPU = 100 * float64(1-part)
	}
	l.Tx, l.Rx = hypervisor.BytesPerSecond(h.w.net.Used(h.out))+h.tenants[0], hypervisor.BytesPerSecond(h.w.net.Used(h.in))+h.tenants[1]
	l.Domains = make([]hypervisor.DomainLoad, 0, len(guests))
	var known strings.Builder
	for _, g := range guests {
		known.WriteString(g.Name)
		known.WriteByte('\n')
		d := hypervisor.DomainLoad{
			ID: g.ID, State: hypervisor.StateRunning, CPU: part * g.Asked(now), Memory: g.Memory.Resident(), Migrating: g.move != nil,
			Dirty:     &hypervisor.DirtySample{Rate: g.dirty[0], Window: windows[0], At: l.At},
			DirtyLong: &hypervisor.DirtySample{Rate: g.dirty[1], Window: windows[1], At: l.At},
		}
		l.Memory += d.Memory
		l.Domains = append(l.Domains, d)
	}
	if known.String() != h.known || h.facts == nil {
		h.known = known.String()
		h.facts = h.tell(guests)
		h.factsRev = h.w.store.wrote("report")
	}
	h.loadAsOf = h.loadRev
	h.load, h.loadRev = l, h.w.store.wrote("report")
}

// windows are those of the two dirty-rate samples.
var windows = [2]time.Duration{time.Second, 5 * time.Second}

func (h *Host) tell(guests []*Guest) *hypervisor.HostFacts {
	f := &hypervisor.HostFacts{
		Name: h.Name, LibvirtUUID: "sim-" + h.Name, AgentVersion: "sim", ProtocolMin: 1, ProtocolMax: 1,
		LibvirtVersion: 11_003_000, QEMUVersion: 10_002_000, Arch: "x86_64", CPUModel: "sim",
		MachineTypes: []string{"q35"}, VirtTypes: []string{"kvm"}, Capabilities: []string{"multifd-zstd", "postcopy", "tls", "xbzrle"},
		Capacity: hypervisor.Capacity{Cores: h.Cores, Memory: h.Memory, Reserved: h.Reserved, VCPUs: h.VCPUs, Bandwidth: h.Link},
		PeerURI:  "sim://" + h.Name,
	}
	for _, g := range guests {
		f.Domains = append(f.Domains, g.facts)
	}
	return f
}

// look takes an order up.
func (h *Host) look(id string) {
	m, there := h.w.store.migrations[id]
	switch {
	case !there || !h.connected() || h.session == nil || h.drives[id] != nil:
		return
	case m.Phase == precopy.Queued && h.w.Time().After(m.Order.NotAfter):
		return // too old: the leader will take it back
	case m.Phase == precopy.Queued && len(h.drives) >= precopy.MaxOutgoing:
		h.waiting = append(h.waiting, id)
		return
	}
	r := &Running{w: h.w, ID: id, source: h, target: h.w.hosts[m.Target], guest: h.w.byID[m.UUID], share: 1, asked: 1}
	switch m.Phase {
	case precopy.Queued:
		h.drives[id] = r
		r.claim(m)
	case precopy.Requested:
	default:
		// Nothing of it runs here any more: it ended, or never began, while nobody was there to say so.
		h.drives[id] = r
		r.resolve()
	}
}

// Running is a migration on its source's agent. Its fields are for reading.
type Running struct {
	ID             string
	w              *World
	source, target *Host
	guest          *Guest

	called  bool // libvirt was: memory counts on both hosts
	began   time.Duration
	job     *guest.Job
	stream  *flow.Stream
	next    *Event // of the job
	step    *Event // of the agent
	tuner   tune.Tuner
	least   float64
	share   float64 // of its speed that the guest runs at
	asked   float64
	limit   time.Duration
	cap     hypervisor.BytesPerSecond // as ordered, or as the tuner wants it
	granted hypervisor.BytesPerSecond // by an arbiter; 0 is that there is none
	told    time.Duration             // progress
	given   precopy.Share
	serial  int64 // of the share that is in force
	sent    hypervisor.Bytes
	sentAt  time.Duration
	carried hypervisor.BytesPerSecond // over the last second or so
	near    bool
	lost    float64 // seconds of guest work, as the record was told
	slowed  float64 // seconds of guest work lost
	polled  time.Duration
	reason  *tune.Decision // why it was given up
	arrived time.Duration  // when the guest ran on the target
	// followed says that post-copy ended it, anew that another agent has it than began it, ended that libvirt's
	// call is over.
	followed, anew, ended bool
}

// Guest, Source and Target are what moves, and where.
func (r *Running) Guest() *Guest { return r.guest }

// Source is where it comes from.
func (r *Running) Source() *Host { return r.source }

// Target is where it goes.
func (r *Running) Target() *Host { return r.target }

// Rate is what its stream has now, 0 before the first page.
func (r *Running) Rate() hypervisor.BytesPerSecond {
	if r.stream == nil {
		return 0
	}
	return hypervisor.BytesPerSecond(r.stream.Rate)
}

// Remaining is what is to be sent.
func (r *Running) Remaining() hypervisor.Bytes {
	if r.job == nil {
		return r.guest.Memory.Total
	}
	r.job.Advance(r.w.now)
	return r.job.Remaining()
}

// Running are the migrations that agents have taken up, by ID.
func (w *World) Running() []*Running {
	all := map[string]*Running{}
	for _, h := range w.hosts {
		for id, r := range h.drives {
			all[id] = r
		}
	}
	out := make([]*Running, 0, len(all))
	for _, id := range sortedKeys(all) {
		out = append(out, all[id])
	}
	return out
}

// Streams is how many migrations send memory at this moment.
func (w *World) Streams() int { return len(w.owners) }

// Grant caps a migration's stream from now on, as an arbiter's share does; 0 takes that back. It counts as a
// write, and takes a write's time to be obeyed.
func (w *World) Grant(id string, share hypervisor.BytesPerSecond) {
	w.store.wrote("grant")
	w.After(w.Timing.Write, func() {
		for _, h := range w.hosts {
			if r := h.drives[id]; r != nil && h.connected() {
				r.granted = share
				r.capStream()
			}
		}
	})
}

// write changes the record on top of what others wrote. What no longer fits it is left.
func (r *Running) write(change func(*precopy.Migration)) bool {
	s, there := r.w.store.migrations[r.ID]
	if !there || !r.source.connected() {
		return false
	}
	m := s.Migration
	change(&m)
	if precopy.CheckTransition(s.Phase, m.Phase, precopy.ActorSource) != nil {
		return false
	}
	_, ok := r.w.store.put("agent", precopy.ActorSource, s.Revision, m)
	if ok && m.Phase.Final() {
		r.w.over(r.w.store.migrations[r.ID])
	}
	return ok
}

// claim is the first step towards libvirt.
func (r *Running) claim(m precopy.Stored) {
	if m.Cancel != nil {
		r.endUnstarted(precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By+" before it began")
		return
	}
	if r.guest == nil || r.guest.Host != r.source || r.guest.move != nil {
		r.endUnstarted(precopy.Failed, "unknown-vm", "the VM is not running here")
		return
	}
	r.write(func(m *precopy.Migration) {
		m.Phase, m.Reason, m.ReasonCode, m.Agent = precopy.Claimed, "claimed by the source's agent", "", r.source.session.Instance
	})
	r.step = r.w.After(r.w.Timing.Write, r.prepare)
}

// prepare is the last one.
func (r *Running) prepare() {
	m := r.w.store.migrations[r.ID]
	switch {
	case m.Phase != precopy.Claimed:
		r.drop()
		return
	case m.Cancel != nil:
		r.endUnstarted(precopy.Aborted, "cancelled", "cancelled by "+m.Cancel.By+" before it began")
		return
	case !r.source.connected() || r.source.session == nil:
		r.drop() // the claim is given up when the agent is back
		return
	}
	r.tuner = precopy.TunerFor(m.Migration, r.guest.Memory.Total)
	r.given = r.w.store.shares[r.ID].Share
	r.tuner.Allow(r.allowed(m.Migration), r.given.Alone)
	r.limit, r.cap = r.tuner.Limit(), r.allowed(m.Migration)
	now := r.w.Time()
	r.write(func(m *precopy.Migration) {
		m.Phase, m.Reason, m.Started, m.Persistent = precopy.Preparing, "handing over to libvirt", &now, true
		m.Attempts = append(slices.Clone(m.Attempts), precopy.Attempt{
			Number: len(m.Attempts) + 1, Strategy: r.tuner.Strategy().Name(), Started: now,
			DowntimeMS: r.limit.Milliseconds(), Agent: r.source.session.Instance,
		})
	})
	r.called, r.guest.move = true, r
	r.target.incoming(r.guest)
	r.step = r.w.After(r.w.Timing.Write+r.w.Timing.Connect, func() {
		r.began = r.w.now
		r.step = r.w.After(r.w.Timing.Setup, r.copy)
	})
}

// copy sends the first page.
func (r *Running) copy() {
	if !r.target.on {
		r.fail("rolled-back", "libvirt took the migration back: the target is gone")
		return
	}
	r.job = guest.NewJob(r.guest.Memory, r.tuner.Strategy(), r.limit, r.w.now, r.w.now)
	r.stream = r.w.net.Add(flow.Unlimited, r.w.path(r.source, r.target)...)
	r.w.owners[r.stream] = r
	r.capStream()
	r.polled = r.w.now
	r.step = r.w.After(pollFast, r.poll)
}

// capStream brings the cap in force: whole MiB/s, as libvirt takes it, and none once the vCPUs stand still.
func (r *Running) capStream() {
	if r.stream == nil {
		return
	}
	limit := flow.Unlimited
	if r.job.Stage() == guest.Copying {
		c := r.cap
		if r.granted > 0 {
			c = min(c, r.granted)
		}
		const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
		limit = float64(max(c/mib, 1) * mib)
	}
	r.w.net.SetCap(r.stream, limit)
	r.w.reshare()
}

// reshare divides the links anew.
func (w *World) reshare() {
	w.net.Share(func(s *flow.Stream, rate float64) {
		r := w.owners[s]
		r.job.SetRate(w.now, rate)
		r.schedule()
	})
}

func (r *Running) schedule() {
	r.next.Stop()
	r.next = nil
	if at := r.job.Next(); at < 1<<62 {
		r.next = r.w.At(at, r.fire)
	}
}

// fire is called when the job has come to something.
func (r *Running) fire() {
	if r.job.Fire(r.w.now) {
		switch r.job.Stage() {
		case guest.Stopped:
			r.write(func(m *precopy.Migration) {
				m.Phase, m.Reason = precopy.Switching, "the guest is paused, control passes to the target"
			})
			r.capStream()
		case guest.Sent:
			r.unstream()
			if r.followed {
				r.w.After(replyTakes, r.succeed)
			} else {
				r.w.After(r.w.Timing.Overhead, r.arrive)
			}
			return
		case guest.Copying, guest.Following:
		}
	}
	r.schedule()
}

func (r *Running) unstream() {
	if r.stream == nil {
		return
	}
	r.w.net.Remove(r.stream)
	delete(r.w.owners, r.stream)
	r.stream = nil
	r.next.Stop()
	r.w.reshare()
}

// arrive lets the guest run on the target.
func (r *Running) arrive() {
	if r.ended {
		return
	}
	if !r.target.on {
		r.w.After(r.w.Timing.Notice, func() { r.fail("rolled-back", "libvirt took the migration back: the target is gone") })
		return
	}
	r.arrived = r.w.now
	r.w.relocate(r.guest, r.target)
	if !r.followed {
		r.w.After(replyTakes, r.succeed)
	}
}

// poll is the agent's look at the job.
func (r *Running) poll() {
	if r.ended || r.job.Stage() == guest.Sent {
		return
	}
	every := pollSlow
	if r.w.now-r.began < fastFor {
		every = pollFast
	}
	r.step = r.w.After(every, r.poll)
	if !r.source.agent {
		return
	}
	rec, now := r.w.store.migrations[r.ID], r.w.now
	if r.source.connected() && r.job.Stage() == guest.Copying && (rec.Cancel != nil || rec.Phase.Final()) {
		r.abort()
		return
	}
	s := r.job.Stats(now, r.began)
	s.At = r.w.Time()
	r.slowed += (1 - r.share) * (now - r.polled).Seconds()
	r.polled = now
	if rec.Phase == precopy.Preparing || rec.Phase == precopy.Unknown {
		r.write(func(m *precopy.Migration) {
			m.Phase, m.Reason, m.ReasonCode = precopy.Copying, "memory is being copied", ""
		})
	}
	r.brake(rec.Migration)
	r.tuner.Allow(r.allowed(rec.Migration), r.given.Alone)
	dec := r.tuner.Step(tune.Reading{JobStats: s, Share: r.share, Least: r.least, Now: s.At})
	if r.w.Hooks.Poll != nil {
		r.w.Hooks.Poll(r.w, r)
	}
	if r.job.Stage() != guest.Copying {
		r.tell(s, dec)
		return
	}
	r.apply()
	r.tell(s, dec)
	switch dec.Action {
	case tune.Abort:
		r.reason = &dec
		r.write(func(m *precopy.Migration) { m.Reason, m.ReasonCode = dec.Text, string(dec.Reason) })
		r.abort()
	case tune.StartPostCopy:
		r.job.Follow(now)
		r.followed = true
		r.write(func(m *precopy.Migration) {
			m.Phase, m.Reason = precopy.Postcopy, "the guest runs on the target, the rest of its memory follows"
		})
		r.capStream()
		r.schedule()
		r.w.After(r.w.Timing.Overhead, r.arrive)
	case tune.Wait:
	}
}

// allowed is the bandwidth that the stream may use by its share, or by its order while none is known.
func (r *Running) allowed(m precopy.Migration) hypervisor.BytesPerSecond {
	switch {
	case r.given.Bandwidth > 0:
		return min(r.given.Bandwidth, m.Order.Bandwidth)
	case m.Order.Share > 0:
		return min(m.Order.Share, m.Order.Bandwidth)
	}
	return m.Order.Bandwidth
}

// take takes another share, and looks at once.
func (r *Running) take(s precopy.Share) {
	if s.Serial <= r.given.Serial || r.ended {
		return
	}
	r.given = s
	if r.stream != nil && r.job.Stage() == guest.Copying {
		r.step.Stop()
		r.poll()
	}
}

// tell publishes progress: every second, and at once when another share is in force or the end is near.
func (r *Running) tell(s hypervisor.JobStats, dec tune.Decision) {
	now := r.w.now
	if took := now - r.sentAt; took >= 900*time.Millisecond {
		if r.sentAt > 0 {
			r.carried = hypervisor.Rate(s.MemProcessed-r.sent, took)
		}
		r.sent, r.sentAt = s.MemProcessed, now
	}
	changed := dec.Near != r.near
	r.near = dec.Near
	if r.given.Serial != r.serial && r.cap <= max(r.given.Bandwidth, hypervisor.BytesPerSecond(hypervisor.MiB)) {
		r.serial, changed = r.given.Serial, true
	}
	if !r.source.connected() || now-r.told < progressEvery && !changed {
		return
	}
	r.told = now
	p := precopy.Progress{
		ID: r.ID, At: r.w.Time(), Elapsed: s.Elapsed, Total: s.MemTotal, Processed: s.MemProcessed, Remaining: s.MemRemaining,
		Rate: s.Bandwidth, DirtyRate: s.DirtyRate, Round: s.Round, Downtime: r.limit, ETA: s.Bandwidth.Time(s.MemRemaining), Why: dec.Text,
		Cap: r.cap, Serial: r.serial, Achieved: r.carried, Need: dec.Need, Near: dec.Near,
	}
	if s.Round > 1 && s.DirtyRate >= s.Bandwidth {
		p.ETA = -1
	}
	store := r.w.store
	store.wrote("progress")
	store.progress = maps.Clone(store.progress)
	store.progress[r.ID] = fleet.SeenProgress{Progress: p, Seen: r.w.Time()}
	if changed {
		r.w.kick()
	}
}

// sampled is what the host says of its migration network, every second while a stream comes or goes.
func (h *Host) sampled() *hypervisor.LinkLoad {
	w := h.w
	out, in := hypervisor.BytesPerSecond(w.net.Used(h.out)), hypervisor.BytesPerSecond(w.net.Used(h.in))
	if w.net.Streams(h.out)+w.net.Streams(h.in) == 0 {
		return nil
	}
	return &hypervisor.LinkLoad{
		At: w.Time().Truncate(time.Second), Rx: in + h.tenants[1], Tx: out + h.tenants[0], StreamsRx: in, StreamsTx: out, Streams: true,
	}
}

// brake is the least share of its own CPU use that the guest can be brought to.
func (r *Running) brake(m precopy.Migration) {
	r.least = 1
	if m.Policy.MaxSlowdown <= 0 || r.w.now-r.began < time.Second {
		return
	}
	use := max(min(r.guest.Asked(r.w.now)/hypervisor.Cores(r.guest.VCPUs), 1), 0.05)
	r.least = min(1, throttle.Least(m.Policy.Silence(), use, r.guest.VCPUs)/float64(use))
}

// apply brings about what the tuner wants.
func (r *Running) apply() {
	now, changed := r.w.now, false
	if share := r.tuner.Share(); share != r.asked {
		r.asked, r.share, changed = share, 1, true
		if share < 1 {
			r.share = max(share, r.least)
		}
		r.job.SetShare(now, r.share)
	}
	if limit := r.tuner.Limit(); limit != r.limit {
		r.limit, changed = limit, true
		r.job.SetLimit(now, limit)
		r.schedule()
	}
	if c := r.tuner.Bandwidth(); c > 0 && c != r.cap {
		r.cap = c
		r.capStream()
	}
	if changed || r.slowed >= r.lost+1 {
		r.lost = r.slowed
		r.write(func(m *precopy.Migration) { m.Attempts = r.noted(m.Attempts) })
	}
}

func (r *Running) noted(list []precopy.Attempt) []precopy.Attempt {
	if len(list) == 0 {
		return list
	}
	list = slices.Clone(list)
	a := &list[len(list)-1]
	a.LimitMS, a.LostSeconds = r.limit.Milliseconds(), r.slowed
	return list
}
