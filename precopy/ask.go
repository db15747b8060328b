package precopy

import (
	"time"

	"drover/hypervisor"
)

// QuestionKind is what an agent is asked.
type QuestionKind string

// The questions that only a host's libvirt can answer. Those about disks change something on
// the target's disk store: they are idempotent, and take back only what they made. A hook runs once for
// each attempt, however often it is asked for, unless the agent starts anew in between.
const (
	AskSight        QuestionKind = "sight"         // what do you see of this domain now
	AskInspect      QuestionKind = "inspect"       // facts and blockers of a domain that is to leave
	AskCheckTarget  QuestionKind = "check-target"  // would this domain run here
	AskCreateDisks  QuestionKind = "create-disks"  // make the files for a storage copy
	AskDiscardDisks QuestionKind = "discard-disks" // remove the files made for that migration
	AskShutDown     QuestionKind = "shut-down"     // ask this domain's guest to shut down: a drain that was told to
	AskPeerCheck    QuestionKind = "peer-check"    // what would stop migrations from here to these hosts
	AskHook         QuestionKind = "hook"          // run a command that the host's settings allow
)

// Question is put to one host's agent through the store.
type Question struct {
	Schema int `json:"schema"`
	// Nonce is quoted by the answer, so that no old answer is taken for a new one.
	Nonce     string                     `json:"nonce"`
	Kind      QuestionKind               `json:"kind"`
	Domain    hypervisor.DomainID        `json:"domain,omitempty"`
	Target    *hypervisor.TargetQuestion `json:"target,omitempty"`
	Migration string                     `json:"migration,omitempty"` // for disks: who they are made for
	Disks     []hypervisor.Disk          `json:"disks,omitempty"`
	Peers     []hypervisor.Peer          `json:"peers,omitempty"` // for a peer check; none: only the host itself
	Hook      *HookCall                  `json:"hook,omitempty"`
}

// Answer is an agent's answer; it was sampled after the question was seen.
type Answer struct {
	Schema    int       `json:"schema"`
	Nonce     string    `json:"nonce"`
	Host      string    `json:"host"`
	SampledAt time.Time `json:"sampled_at"`
	// Libvirt is the version of the host's libvirt, in its own notation; 0 if it is not known. It is there
	// with an Error too.
	Libvirt    uint32                 `json:"libvirt,omitempty"`
	Sighting   *hypervisor.Sighting   `json:"sighting,omitempty"`
	Inspection *hypervisor.Inspection `json:"inspection,omitempty"`
	Blockers   []hypervisor.Blocker   `json:"blockers,omitempty"`
	PeerReport *hypervisor.PeerReport `json:"peer_report,omitempty"`
	Hook       *HookResult            `json:"hook,omitempty"`
	// Error is set when the agent could not find out; the other fields then mean nothing.
	Error string `json:"error,omitempty"`
}
