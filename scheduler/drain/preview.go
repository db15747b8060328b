package drain

import (
	"slices"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

// Question is whether a domain can move to a host, for both hosts' libvirt to answer.
type Question struct {
	Domain fleet.Domain
	To     string
}

// previewRounds is how often a preview looks for other targets.
const previewRounds = 4

// Preview returns what a drain that is asked for would do, whatever is blocked, with what is to be said against
// it in Blocked. ask answers all questions of a round with what speaks against each; VMs that can't go where
// they were to are planned elsewhere. A run that can't begin is refused.
func Preview(in Input, ask func([]Question) [][]hypervisor.Blocker) fleet.Run {
	in.Run.OnBlocked = fleet.BlockedSkip
	s := &step{Input: in, r: in.Run.Run, where: locate(in.Fleet, nil)}
	if why := s.closed(); why != "" {
		s.end(fleet.RunRefused, why)
		return s.r
	}
	s.gather()
	s.plan()
	asked := map[place]bool{}
	for range previewRounds {
		moves, questions := s.questions(asked)
		if len(questions) == 0 {
			break
		}
		for k, blockers := range ask(questions) {
			if len(blockers) > 0 {
				s.elsewhere(moves[k], blockers[0])
			}
		}
		s.plan()
	}
	s.refused()
	s.r.Phase = fleet.RunRunning
	s.look()
	return s.r
}

type place struct {
	vm   hypervisor.DomainID
	host string
}

// questions are those that were not put yet, with the moves that they are about.
func (s *step) questions(asked map[place]bool) (moves []int, out []Question) {
	for i, m := range s.r.Moves {
		d, q := s.where.domain[m.UUID], place{m.UUID, m.To}
		if m.State != fleet.MovePlanned || m.To == "" || asked[q] || d.Host == nil || d.Host.Name != m.From {
			continue
		}
		asked[q] = true
		moves, out = append(moves, i), append(out, Question{d, m.To})
	}
	return moves, out
}

// refused blocks the moves whose target has refused them: the planner had no other one.
func (s *step) refused() {
	for i := range s.r.Moves {
		m := &s.r.Moves[i]
		k := slices.IndexFunc(m.Tries, func(t fleet.RunTry) bool { return t.To == m.To })
		if m.State != fleet.MovePlanned || k < 0 {
			continue
		}
		s.giveUp(i, hypervisor.Blocker{
			Code: hypervisor.BlockerCode(m.Tries[k].Code), Detail: m.Tries[k].Reason,
			Remedy: "drover vm check " + m.VM + " shows what each host says",
		})
	}
}

// elsewhere has a move planned anew without the host that refuses it; with none left it is blocked.
func (s *step) elsewhere(i int, b hypervisor.Blocker) {
	m := &s.r.Moves[i]
	m.Tries = append(slices.Clone(m.Tries), fleet.RunTry{To: m.To, Code: string(b.Code), Reason: b.Detail})
	s.anew(m)
}
