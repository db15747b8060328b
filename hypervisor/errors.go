package hypervisor

import (
	"errors"
	"fmt"
)

// Class sorts a hypervisor's errors into the few kinds that callers branch on.
type Class string

// The classes of error. Only ClassUnknownOutcome leaves the question open whether the call took
// effect; all others mean that it did not.
const (
	// ClassNoDomain: the hypervisor answered that it has no such domain (or no longer).
	ClassNoDomain Class = "no-domain"
	// ClassInvalid: the domain is in no state for the call (no job, a job, a snapshot).
	ClassInvalid Class = "invalid"
	// ClassAborted: the migration was aborted on request; the guest runs on the source.
	ClassAborted Class = "aborted"
	// ClassFailed: QEMU or the target failed; the message carries both sides' text.
	ClassFailed Class = "failed"
	// ClassBusy: another call holds the domain; try again later.
	ClassBusy Class = "busy"
	// ClassUnsafe: libvirt's own storage preflight refused.
	ClassUnsafe Class = "unsafe"
	// ClassIncompatible: CPU or configuration does not fit the target.
	ClassIncompatible Class = "incompatible"
	// ClassUnsupported: this version lacks it; do not try again.
	ClassUnsupported Class = "unsupported"
	// ClassArgument: wrong parameters, a defect of drover's.
	ClassArgument Class = "argument"
	// ClassDenied: credentials.
	ClassDenied Class = "denied"
	// ClassUnavailable: the hypervisor can't be reached now; nothing was asked of it.
	ClassUnavailable Class = "unavailable"
	// ClassUnknownOutcome: the connection broke or the call timed out; evidence must decide.
	ClassUnknownOutcome Class = "unknown-outcome"
)

// Error is a failed call to a hypervisor.
type Error struct {
	Op      string   // "migrate", "abort", "job stats" …
	Domain  DomainID // empty for calls about the host
	Class   Class
	Code    int    // libvirt's error number, 0 when it is not libvirt's
	Message string // libvirt's text, for people
	Err     error  // what lies below, if anything
}

// Error implements error.
func (e *Error) Error() string {
	if e.Domain == "" {
		return fmt.Sprintf("%s: %s", e.Op, e.Message)
	}
	return fmt.Sprintf("%s %s: %s", e.Op, e.Domain, e.Message)
}

// Unwrap returns the error below.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns err's class, "" when it is not a hypervisor's error.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ""
}

// IsClass reports whether err is a hypervisor error of the class.
func IsClass(err error, c Class) bool { return err != nil && ClassOf(err) == c }
