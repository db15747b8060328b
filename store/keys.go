package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"drover/hypervisor"
	"drover/store/kv"
)

// The roots. What the fleet's picture is made of is apart from what only grows and from what is read one
// at a time, so that a reader of the picture, at its start and after each cut, does not get these too.
const (
	// Root is the prefix of everything that drover keeps; an etcd role needs it.
	Root = "/drover/"
	live = Root + "v1/"
	past = Root + "log/v1/"
	lore = Root + "lore/v1/"
)

// The kinds of records below the live root.
const (
	hostsPrefix      = live + "hosts/"
	reportsPrefix    = live + "reports/"
	vmsPrefix        = live + "vm/"
	policyKey        = live + "policy"
	migrationsPrefix = live + "migrations/"
	progressPrefix   = live + "progress/"
	activePrefix     = live + "active/"
	sharesPrefix     = live + "shares/"
	runsPrefix       = live + "runs/"
	plansPrefix      = live + "plans/"
	fleetPrefix      = live + "fleet/"
	asksPrefix       = live + "ask/"
	answersPrefix    = live + "answer/"
	leaderKey        = live + "leader"
	historyPrefix    = past + "history/"
	eventsPrefix     = past + "events/"
	// pastPlansPrefix has plans that have ended, inputsPrefix what plans were made from: ID/PART.
	pastPlansPrefix = past + "plans/"
	inputsPrefix    = past + "inputs/"
	// profilesPrefix has what earlier migrations have shown of a domain, by UUID. It is written by the
	// leader, and goes when no host has reported the domain for [ProfileLife].
	profilesPrefix = lore + "profiles/"
	// loadPrefix has what the leader knows of VMs' load, in parts by number.
	loadPrefix = lore + "load/"
)

// The parts of a host's reports. All but partSeen are under the agent's lease.
const (
	partSession = "session"
	partFacts   = "facts"
	partLoad    = "load"
	// partLink is a sample of the migration network, while a stream comes or goes.
	partLink = "link"
	// partSeen stays when the agent goes: which domains it reported last.
	partSeen = "seen"
	// partHolder is the directory of the session's fence: one key per lease. The session key itself
	// can't be the fence: taking it over must not leave a moment in which the host has no agent.
	partHolder = "holder/"
)

// ErrBadName: a name or an ID can't be part of a key.
var ErrBadName = errors.New("not usable as a name")

// checkName refuses what would break the layout.
func checkName(what, s string) error {
	bad := s == "" || len(s) > 253 || strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || unicode.IsControl(r) || r == unicode.ReplacementChar
	})
	if bad {
		return fmt.Errorf("%s %q: %w", what, s, ErrBadName)
	}
	return nil
}

func hostKey(name string) string         { return hostsPrefix + name }
func reportKey(host, part string) string { return reportsPrefix + host + "/" + part }
func migrationKey(id string) string      { return migrationsPrefix + id }
func progressKey(id string) string       { return progressPrefix + id }
func shareKey(id string) string          { return sharesPrefix + id }
func historyKey(id string) string        { return historyPrefix + id }

func holderKey(host string, lease kv.LeaseID) string {
	return reportKey(host, partHolder) + fmt.Sprintf("%016x", uint64(lease))
}

func activeKey(id hypervisor.DomainID) string { return activePrefix + string(id) }
func askKey(host, nonce string) string        { return asksPrefix + host + "/" + nonce }
func answerKey(host, nonce string) string     { return answersPrefix + host + "/" + nonce }
