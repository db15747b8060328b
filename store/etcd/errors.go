package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"drover/store/kv"
)

// Error is a failed call to the store.
type Error struct {
	Op  string // "get KEY", "txn" …
	Err error  // wraps one of kv's sentinels where one fits
	// Endpoints and Cause are set when no member could be reached: who was tried, and what a dial
	// of each found.
	Endpoints string
	Cause     error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Endpoints == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	if e.Cause == nil {
		return fmt.Sprintf("%s: %v: tried %s", e.Op, e.Err, e.Endpoints)
	}
	return fmt.Sprintf("%s: %v: %v", e.Op, e.Err, e.Cause)
}

// Unwrap gives both the sentinel and the cause.
func (e *Error) Unwrap() []error { return []error{e.Err, e.Cause} }

// wrap maps an error of etcd's client to the contract's. sent says whether a write was handed to a
// connection; for reads it is false.
func (c *Client) wrap(ctx context.Context, op string, sent bool, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Err: classify(err, sent)}
	lost := errors.Is(e.Err, kv.ErrUnavailable) || errors.Is(e.Err, kv.ErrMaybeApplied)
	switch {
	case lost && ctx.Err() != nil:
		// The caller gave up: that is the first thing to say, and no reason to look for a fault.
		e.Err = fmt.Errorf("%w: %w", e.Err, ctx.Err())
		e.Endpoints = c.cfg.names()
	case lost:
		e.Endpoints = c.cfg.names()
		e.Cause = c.diagnose(ctx)
	}
	return e
}

// classify maps by etcd's typed errors first, then by gRPC's codes.
func classify(err error, sent bool) error {
	unknown := kv.ErrUnavailable
	if sent {
		unknown = kv.ErrMaybeApplied
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return kv.ErrNoSpace
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return kv.ErrLeaseLost
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return kv.ErrTooLarge
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed),
		errors.Is(err, rpctypes.ErrInvalidAuthToken), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: %w", kv.ErrDenied, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unknown
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		// Refused before it was proposed.
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	switch code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("%w: %w", kv.ErrDenied, err)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Internal, codes.Unknown:
		return unknown
	}
	return err
}

// code returns the gRPC code of an error, whether etcd's client has wrapped it or not.
func code(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}
