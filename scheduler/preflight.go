package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

// Unanswered is the blocker for a host that could not be asked.
const Unanswered hypervisor.BlockerCode = "no-answer"

// preflightTime is how long the two hosts have to answer.
const preflightTime = 8 * time.Second

// Asker puts questions to agents.
type Asker interface {
	Ask(ctx context.Context, host string, q precopy.Question) (precopy.Answer, error)
}

// Preflight says what stops the move, from the snapshot and from what both hosts answer now. It
// changes nothing. An empty result means that nothing is known to stop it; a host that does not
// answer is a blocker too, so there is no error.
func Preflight(ctx context.Context, ask Asker, s *fleet.Snapshot, r feasible.Request, host string) []hypervisor.Blocker {
	if b := feasible.Check(s, r, host); len(b) > 0 {
		return b
	}
	b, _ := AskHosts(ctx, ask, r, host)
	return b
}

// AskHosts asks the source to inspect the domain, and the target whether it could run there. Silent is the host
// that did not answer, which is a blocker; empty when none was.
func AskHosts(ctx context.Context, ask Asker, r feasible.Request, host string) (blockers []hypervisor.Blocker, silent string) {
	ctx, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	source := r.Domain.Host.Name
	seen, b := Inspect(ctx, ask, r)
	switch {
	case seen == nil:
		return b, source
	case len(b) > 0:
		return b, ""
	}
	q := precopy.Question{
		Kind: precopy.AskCheckTarget, Domain: r.Domain.Facts.ID,
		Target: &hypervisor.TargetQuestion{Inspection: *seen},
	}
	if r.CopyStorage {
		for _, d := range seen.Facts.Disks {
			if !d.Shared && !d.ReadOnly && d.Source != "" {
				q.Target.CopyDisks = append(q.Target.CopyDisks, d.Target)
			}
		}
	}
	a, err := ask.Ask(ctx, host, q)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return []hypervisor.Blocker{unanswered(host, source, err)}, host
	}
	return a.Blockers, ""
}

// Inspect asks the source about the domain; the blockers are those that hold wherever it goes. Nil when it did
// not answer.
func Inspect(ctx context.Context, ask Asker, r feasible.Request) (*hypervisor.Inspection, []hypervisor.Blocker) {
	source := r.Domain.Host.Name
	a, err := ask.Ask(ctx, source, precopy.Question{Kind: precopy.AskInspect, Domain: r.Domain.Facts.ID})
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err == nil && a.Inspection == nil {
		err = errors.New("the answer is empty")
	}
	if err != nil {
		return nil, []hypervisor.Blocker{unanswered(source, source, err)}
	}
	seen := a.Inspection
	out := feasible.WithoutCopied(seen.Facts.Blockers, r.CopyStorage)
	switch {
	case seen.Sighting.State == hypervisor.StateAbsent:
		out = append(out, hypervisor.Blocker{
			Code: hypervisor.BlockUnknownDomain, Detail: source + " no longer has the VM",
		})
	case seen.Sighting.Job != hypervisor.JobNone && seen.Sighting.Job != "":
		out = append(out, hypervisor.Blocker{
			Code: hypervisor.BlockJob, Detail: fmt.Sprintf("libvirt runs a job on it (%s), started outside drover", seen.Sighting.Job),
			Remedy: "wait for it to end",
		})
	}
	return seen, out
}

func unanswered(host, source string, err error) hypervisor.Blocker {
	role := "target"
	if host == source {
		role = "source"
	}
	return hypervisor.Blocker{
		Code: Unanswered, Detail: fmt.Sprintf("the %s %s did not answer: %v", role, host, err),
		Remedy: "check drover-agent and libvirtd there",
	}
}

// CheckAll runs Preflight against every given host at once.
func CheckAll(ctx context.Context, ask Asker, s *fleet.Snapshot, r feasible.Request, hosts []string) map[string][]hypervisor.Blocker {
	results := AskEach(hosts, func(h string) []hypervisor.Blocker { return Preflight(ctx, ask, s, r, h) })
	out := make(map[string][]hypervisor.Blocker, len(hosts))
	for i, h := range hosts {
		out[h] = results[i]
	}
	return out
}

// AskEach asks about each of many things, some at once, and returns the answers in their order.
func AskEach[T any](about []T, ask func(T) []hypervisor.Blocker) [][]hypervisor.Blocker {
	results := make([][]hypervisor.Blocker, len(about))
	var g errgroup.Group
	g.SetLimit(16)
	for i, x := range about {
		g.Go(func() error {
			results[i] = ask(x)
			return nil
		})
	}
	_ = g.Wait()
	return results
}
