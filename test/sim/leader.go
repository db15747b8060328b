package sim

import (
	"maps"
	"slices"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/scheduler"
	"drover/scheduler/auto"
	"drover/scheduler/budget"
	"drover/scheduler/drain"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
	"drover/scheduler/rolling"
)

// unansweredAfter is how long two agents are given for an answer.
const unansweredAfter = 8 * time.Second

// retireEvery is how often finished migrations are moved to the history.
const retireEvery = time.Minute

// leader is one term: what a leader keeps in memory, and when it looks next.
type leader struct {
	w       *World
	name    string
	fence   int64
	memory  scheduler.Memory
	auto    *auto.Memory
	next    *Event // the pass that a change has asked for
	tick    *Event
	retired time.Duration
	traffic budget.Traffic
	streams budget.Memory
	shared  time.Duration // when shares were changed last
}

// elect begins a term, if nobody leads.
func (w *World) elect() {
	if w.leader != nil {
		return
	}
	l := &leader{
		w: w, name: "sim", fence: w.store.wrote("leader"), retired: w.now,
		memory: scheduler.Memory{Preflights: map[scheduler.Key]scheduler.Result{}, Learned: map[string]bool{}, Profiles: map[hypervisor.DomainID]forecast.Profile{}, Hooks: map[string]*precopy.HookResult{}},
	}
	if w.Auto != nil {
		l.auto = w.recall()
	}
	w.store.leader = &fleet.LeaderInfo{Identity: l.name, Since: w.Time(), Fence: l.fence}
	w.leader = l
	l.look()
}

// kick has the leader look at the fleet soon.
func (w *World) kick() {
	if l := w.leader; l != nil && l.next == nil {
		l.next = w.After(w.Timing.Pass, func() {
			if l.next = nil; w.leader == l {
				l.pass()
			}
		})
	}
}

// look is what a leader does at intervals too, whether anything changed or not.
func (l *leader) look() {
	if l.w.leader != l {
		return
	}
	l.pass()
	l.tick = l.w.After(l.every(), l.look)
}

// every is how often a leader looks: each second while anybody waits for something, and less often while nothing is
// under way, or only an automatic run, which may wait for hours. The real one looks every second.
func (l *leader) every() time.Duration {
	if len(l.w.store.active) > 0 {
		return time.Second
	}
	every := l.w.Timing.Report
	for _, r := range l.w.store.runs {
		switch {
		case r.Phase.Final():
		case auto.Owns(r.Run):
			every = min(every, 5*time.Second)
		default:
			return time.Second
		}
	}
	return every
}

// wake looks at once after a time in which nothing was under way.
func (w *World) wake() {
	if l := w.leader; l != nil {
		l.tick.Stop()
		l.tick = w.After(w.Timing.Pass, l.look)
	}
}

// pass decides once and carries the decisions out.
func (l *leader) pass() {
	w := l.w
	snap := w.Snapshot()
	l.remember(snap)
	in := scheduler.Inputs{
		Fleet: snap, Memory: l.memory, Limits: scheduler.DefaultLimits(), Placer: scheduler.LeastLoaded{},
		Leader: l.name, Fence: l.fence, Now: w.Time(),
	}
	// The rule is given a copy, as the real pass is.
	in.Memory.Preflights, in.Memory.Learned = maps.Clone(l.memory.Preflights), maps.Clone(l.memory.Learned)
	in.Memory.Hooks = maps.Clone(l.memory.Hooks)
	l.traffic.Look(snap, w.Time())
	l.streams.Look(snap, w.Time())
	in.Memory.Traffic, in.Memory.Streams = &l.traffic, &l.streams
	if w.Hooks.Before != nil {
		w.Hooks.Before(w, &in)
	}
	for _, d := range w.Rule.Decide(in) {
		if w.Hooks.Effect == nil || !w.Hooks.Effect(w, d) {
			l.carryOut(d)
		}
	}
	if w.Auto != nil {
		l.automate(snap)
	}
	if w.now-l.retired >= retireEvery {
		l.retired = w.now
		for _, m := range scheduler.Retired(w.Snapshot(), w.Time()) {
			w.store.retire(m)
		}
	}
}

// remember brings the leader's memory up to date.
func (l *leader) remember(snap *fleet.Snapshot) {
	now := l.w.Time()
	for k, res := range l.memory.Preflights {
		m, there := snap.Migrations[k.Migration]
		_, source := l.memory.DownSince[m.Source]
		_, target := l.memory.DownSince[k.Target]
		if !there || m.Phase.Final() || (source || target) && !res.At.IsZero() {
			delete(l.memory.Preflights, k)
		}
	}
	maps.DeleteFunc(l.memory.Learned, func(id string, _ bool) bool { _, there := snap.Migrations[id]; return !there })
	away, down := map[string]time.Time{}, map[string]time.Time{}
	since := func(old map[string]time.Time, host string) time.Time {
		if at, known := old[host]; known {
			return at
		}
		return now
	}
	for name, h := range snap.Hosts {
		if h.Session == nil {
			away[name] = since(l.memory.AwaySince, name)
		}
		if feasible.Up(snap, h) != nil {
			down[name] = since(l.memory.DownSince, name)
		}
	}
	l.memory.AwaySince, l.memory.DownSince = away, down
}

func (l *leader) carryOut(d scheduler.Decision) {
	s := l.w.store
	switch {
	case d.Ask != nil:
		l.ask(*d.Ask)
	case d.Learn != nil:
		p, isNew := s.profiles[d.Learn.Domain].Learn(d.Learn.Receipts...)
		if isNew {
			s.profiles[d.Learn.Domain] = p
			s.wrote("profile")
		}
		for _, r := range d.Learn.Receipts {
			l.memory.Learned[r.ID] = true
		}
	case d.Write != nil:
		l.write(*d.Write)
	case d.Shares != nil:
		l.share(d.Shares)
	case d.Run != nil:
		if s.putRun(d.Run.Old.Revision, d.Run.New) && d.Run.Old.Phase != d.Run.New.Phase {
			l.w.kick()
		}
	case d.Start != nil:
		if _, there := s.runs[d.Start.ID]; !there {
			s.putRun(0, *d.Start)
			l.w.kick()
		}
	case d.Hook != nil:
		l.hook(*d.Hook)
	case d.Cordon != nil:
		l.w.cordon(d.Cordon.Host, *d.Cordon)
	case d.Fetch != nil:
		for _, id := range d.Fetch {
			l.memory.Profiles[id] = s.profiles[id]
		}
		l.w.kick()
	case d.Create != nil:
		if s.create("run", *d.Create) {
			l.w.kick()
		}
	}
}

// hook has a hook run, which does nothing and takes a second.
func (l *leader) hook(o rolling.HookOrder) {
	l.memory.Hooks[o.Call.Attempt] = nil
	l.w.After(time.Second, func() {
		l.memory.Hooks[o.Call.Attempt] = &precopy.HookResult{Seconds: 1}
		l.w.kick()
	})
}

// write changes a migration's record, if neither it nor its target's changed since.
func (l *leader) write(d scheduler.Write) {
	if d.Host != "" {
		if h := l.w.hosts[d.Host]; h == nil || h.revision != d.HostRevision {
			return
		}
	}
	kind := "leader"
	if d.New.Phase == precopy.Queued && d.Old.Phase == precopy.Requested {
		kind = "order"
	}
	m, ok := l.w.store.put(kind, precopy.ActorLeader, d.Old.Revision, d.New)
	if !ok {
		return
	}
	if d.Share != nil { // in the same transaction
		l.w.store.share(0, *d.Share, m.Revision)
	}
	if m.Phase.Final() {
		l.w.over(m)
	}
	if m.Phase == precopy.Queued {
		l.w.After(l.w.Timing.Write, func() { l.w.hosts[m.Source].look(m.ID) })
	}
}

// shareGap is the least time between two changes of shares.
const shareGap = 150 * time.Millisecond

// share changes what streams may send, as the arbiter divides the links.
func (l *leader) share(list []budget.Write) {
	w := l.w
	if wait := l.shared + shareGap - w.now; wait > 0 && l.shared > 0 {
		w.After(wait, w.kick)
		return
	}
	l.shared = w.now
	for _, x := range list {
		if w.store.shares[x.New.ID].Revision != x.Old.Revision || x.Old.Revision == 0 {
			continue
		}
		w.store.share(x.Old.Revision, x.New, w.store.wrote("share"))
		w.After(w.Timing.Write, func() {
			if r := w.hosts[x.New.Source].drives[x.New.ID]; r != nil && r.source.connected() {
				r.take(x.New)
			}
		})
	}
}

// ask puts a preflight's questions.
func (l *leader) ask(a scheduler.Ask) {
	since := l.memory.Preflights[a.Key].Since
	if since.IsZero() {
		since = l.w.Time()
	}
	l.memory.Preflights[a.Key] = scheduler.Result{Since: since}
	takes := l.w.Timing.Ask
	found := scheduler.Result{}
	for _, name := range []string{a.Request.Domain.Host.Name, a.Key.Target} {
		if h := l.w.hosts[name]; h == nil || !h.connected() {
			takes = unansweredAfter
			found.Silent, found.Since = name, since
			found.Blockers = []hypervisor.Blocker{{Code: scheduler.Unanswered, Detail: name + " did not answer"}}
			break
		}
	}
	l.w.After(takes, func() {
		if l.w.leader != l {
			return
		}
		found.At, found.Profile = l.w.Time(), l.w.store.profiles[a.Request.Domain.Facts.ID]
		l.memory.Preflights[a.Key] = found
		l.w.kick()
	})
}

// recall is what a new leader knows of what was before it: where guests have been, and their load. The real one
// may have lost the last half an hour of that.
func (w *World) recall() *auto.Memory {
	m := auto.NewMemory(w.Auto.Slot)
	for _, past := range w.Migrations() {
		m.Trail.See(past.Migration, w.Time())
	}
	if w.loads != nil && w.loads.Slot() == w.Auto.Slot {
		m.Load = w.loads
	}
	w.loads = m.Load
	return m
}

// automate takes a pass over automatic moves.
func (l *leader) automate(snap *fleet.Snapshot) {
	w, s := l.w, l.w.store
	if l.auto == nil {
		l.auto = w.recall()
	}
	look := l.auto.See(snap, w.Auto.Rule, w.Time())
	decisions, err := auto.Decide(auto.Inputs{Fleet: snap, Memory: l.auto, Settings: *w.Auto, Look: look, Now: w.Time()})
	if err != nil {
		s.wrongs = append(s.wrongs, "auto: "+err.Error())
	}
	for _, d := range decisions {
		if d.Plan != nil {
			s.putPlan(*d.Plan)
		}
		if d.Run != nil {
			s.putRun(d.Run.Revision, d.Run.Run)
		}
		if d.Create != nil {
			s.create("run", *d.Create)
		}
		if d.Cancel != nil {
			s.put("leader", precopy.ActorLeader, d.Cancel.Revision, d.Cancel.Migration)
		}
		if d.Retire != nil {
			s.plans = maps.Clone(s.plans)
			delete(s.plans, d.Retire.ID)
			s.wrote("plan")
		}
	}
	if len(decisions) > 0 {
		w.wake()
	}
}

// cordon sets or takes away one holder's cordon.
func (w *World) cordon(host string, c drain.Cordon) bool {
	h := w.hosts[host]
	if h == nil {
		return false
	}
	others := slices.DeleteFunc(slices.Clone(h.record.Cordons), func(x fleet.Cordon) bool { return x.Holder == c.Cordon.Holder })
	had := len(others) < len(h.record.Cordons)
	if had != c.Off {
		return false // it is as it should be
	}
	if !c.Off {
		others = append(others, c.Cordon)
	}
	h.record.Cordons = others
	h.revision = w.store.wrote("host")
	w.judge.changed(w)
	w.kick()
	return true
}

// over is called with each migration whose record has become final.
func (w *World) over(m precopy.Stored) {
	w.judge.over(w, m)
	if w.Hooks.Ended != nil {
		w.Hooks.Ended(w, m)
	}
	w.kick()
}
