package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/digitalocean/go-qemu/qmp"

	"drover/hypervisor"
)

// Limit bounds every command: a QEMU that doesn't answer by then has other troubles.
const Limit = 5 * time.Second

// allowed are the commands that may be sent. All of them only read.
var allowed = []string{
	"query-migrate",
	"query-migrate-capabilities",
	"query-migrate-parameters",
	"query-status",
	"query-version",
	"query-cpus-fast",
	"query-memory-size-summary",
	"query-named-block-nodes",
	"query-block-jobs",
	"query-vcpu-dirty-limit",
	"query-kvm",
	"query-name",
	"query-uuid",
}

// Commander passes a QMP command to one domain's QEMU and returns QEMU's reply, an error reply as
// well. The kvm Host is one.
type Commander interface {
	MonitorCommand(ctx context.Context, id hypervisor.DomainID, command string) (string, error)
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // QEMU's error class, such as "CommandNotFound"
	Desc    string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s: %s", e.Command, e.Class, e.Desc) }

// NotAllowedError says that a command is not on the list of queries.
type NotAllowedError struct{ Command string }

// Error implements error.
func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("qmp %q: not on the list of read-only commands", e.Command)
}

// Monitor is go-qemu's monitor for one domain over libvirt. It keeps no connection of its own, and
// may be used from several goroutines.
type Monitor struct {
	to  Commander
	id  hypervisor.DomainID
	ctx context.Context // go-qemu's interface has no place for one in Run
}

var _ qmp.Monitor = (*Monitor)(nil)

// NewMonitor returns a monitor for the domain whose commands end with ctx.
func NewMonitor(ctx context.Context, to Commander, id hypervisor.DomainID) *Monitor {
	return &Monitor{to: to, id: id, ctx: ctx}
}

// Connect does nothing: libvirt is connected.
func (m *Monitor) Connect() error { return nil }

// Disconnect does nothing.
func (m *Monitor) Disconnect() error { return nil }

// Events returns qmp.ErrEventsNotSupported: libvirt's own events say all that drover needs, without
// tainting the domain.
func (m *Monitor) Events(context.Context) (<-chan qmp.Event, error) {
	return nil, qmp.ErrEventsNotSupported
}

// Run sends one command and returns QEMU's whole reply. QEMU's refusal is an *Error, a command that
// isn't on the list a *NotAllowedError.
func (m *Monitor) Run(command []byte) ([]byte, error) {
	var c qmp.Command
	if err := json.Unmarshal(command, &c); err != nil {
		return nil, fmt.Errorf("qmp command: %w", err)
	}
	if !slices.Contains(allowed, c.Execute) {
		return nil, &NotAllowedError{Command: c.Execute}
	}
	// Encoded anew, so that only what was checked is sent: a text with two "execute" keys could
	// mean one thing here and another to QEMU.
	clean, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", c.Execute, err)
	}
	ctx, cancel := context.WithTimeout(m.ctx, Limit)
	defer cancel()
	reply, err := m.to.MonitorCommand(ctx, m.id, string(clean))
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", c.Execute, err)
	}
	// Libvirt passes QEMU's refusal on as a reply like any other.
	var outcome struct {
		Error *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(reply), &outcome); err != nil {
		return nil, fmt.Errorf("qmp %s: reply: %w", c.Execute, err)
	}
	if outcome.Error != nil {
		return nil, &Error{Command: c.Execute, Class: outcome.Error.Class, Desc: outcome.Error.Desc}
	}
	return []byte(reply), nil
}

// query runs a command without arguments and decodes its "return".
func query(ctx context.Context, to Commander, id hypervisor.DomainID, command string, into any) error {
	text, err := json.Marshal(qmp.Command{Execute: command})
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	reply, err := NewMonitor(ctx, to, id).Run(text)
	if err != nil {
		return err
	}
	envelope := struct {
		Return any `json:"return"`
	}{into}
	if err := json.Unmarshal(reply, &envelope); err != nil {
		return fmt.Errorf("qmp %s: reply: %w", command, err)
	}
	return nil
}
