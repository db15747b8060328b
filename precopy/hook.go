package precopy

import "time"

// HookCall asks for a hook: a command that stands in the settings of the host that runs it, under a name.
type HookCall struct {
	Name string `json:"name"`
	// Attempt is the same when one attempt is asked for twice, which may be after its end.
	Attempt string        `json:"attempt"`
	Timeout time.Duration `json:"timeout"`
	Grace   time.Duration `json:"grace,omitempty"`
	// Env is what the command finds in its environment; all names begin with DROVER_.
	Env map[string]string `json:"env,omitempty"`
}

// HookResult is what became of an attempt.
type HookResult struct {
	// Exit is the command's exit status; -1 when it has none.
	Exit int `json:"exit"`
	// Error says what went wrong, in words; empty when it ended with 0.
	Error string `json:"error,omitempty"`
	// TimedOut says that it was stopped.
	TimedOut bool `json:"timed_out,omitempty"`
	// Lost says that nobody knows how it ended, as when its agent is gone.
	Lost bool `json:"lost,omitempty"`
	// Unasked says that it is lost because it never began: the host had no agent, or the store did not take the question.
	Unasked bool    `json:"unasked,omitempty"`
	Seconds float64 `json:"seconds"`
	// Output is the end of what it wrote.
	Output string `json:"output,omitempty"`
}

// Failed reports whether the hook did not do what it is for.
func (r HookResult) Failed() bool { return r.Exit != 0 || r.Error != "" }
