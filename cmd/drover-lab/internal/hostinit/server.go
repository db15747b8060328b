package hostinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// request is one line of JSON on the control socket; each connection carries one request and one answer.
type request struct {
	Op     string         `json:"op"`
	Daemon *Daemon        `json:"daemon,omitempty"`
	Name   string         `json:"name,omitempty"`
	Signal syscall.Signal `json:"signal,omitempty"`
}

type answer struct {
	Error   string   `json:"error,omitempty"`
	Code    string   `json:"code,omitempty"` // names one of the errors in codes
	Daemons []Status `json:"daemons,omitempty"`
}

var codes = map[string]error{"unknown": ErrUnknown, "running": ErrRunning, "not-running": ErrNotRunning}

// run serves requests until the listener fails; it also reaps.
func (s *supervisor) run(_ context.Context, l net.Listener) error {
	go s.reap()
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("host-init: accept: %w", err)
		}
		go s.serve(c)
	}
}

func (s *supervisor) serve(c net.Conn) {
	defer c.Close()
	var req request
	if err := json.NewDecoder(c).Decode(&req); err != nil {
		s.log.Warn("request is not readable", "err", err)
		return
	}
	var ans answer
	err := s.handle(req, &ans)
	if err != nil {
		ans.Error = err.Error()
		for code, e := range codes {
			if errors.Is(err, e) {
				ans.Code = code
			}
		}
	}
	s.log.Info("request", "op", req.Op, "daemon", req.Name, "err", err)
	if err := json.NewEncoder(c).Encode(ans); err != nil {
		s.log.Warn("answer was not taken", "op", req.Op, "err", err)
	}
}

func (s *supervisor) handle(req request, ans *answer) error {
	switch req.Op {
	case "spawn":
		if req.Daemon == nil || len(req.Daemon.Argv) == 0 {
			return errors.New("spawn: no command")
		}
		return s.spawn(*req.Daemon)
	case "signal":
		return s.signal(req.Name, req.Signal)
	case "restart":
		return s.restart(req.Name, req.Signal)
	case "unspawn":
		return s.unspawn(req.Name)
	case "ps":
		ans.Daemons = s.list()
		return nil
	}
	return fmt.Errorf("unknown request %q", req.Op)
}

// Client talks to a host's first process. It is safe for concurrent use.
type Client struct{ socket string }

// NewClient returns a client of the host with that control socket.
func NewClient(socket string) *Client { return &Client{socket: socket} }

// requestTimeout covers the slowest request, an unspawn that must kill.
const requestTimeout = killDelay + 10*time.Second

func (c *Client) call(ctx context.Context, req request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return answer{}, fmt.Errorf("%s: host does not answer: %w", req.Op, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var ans answer
	if err := errors.Join(json.NewEncoder(conn).Encode(req), json.NewDecoder(conn).Decode(&ans)); err != nil {
		return answer{}, fmt.Errorf("%s: host does not answer: %w", req.Op, err)
	}
	if ans.Error == "" {
		return ans, nil
	}
	return ans, &RequestError{Text: ans.Error, Class: codes[ans.Code]}
}

// RequestError is a refusal by the host's first process.
type RequestError struct {
	Text  string
	Class error // one of this package's errors, or nil
}

// Error returns the host's own words.
func (e *RequestError) Error() string { return e.Text }

// Unwrap returns the class, for errors.Is.
func (e *RequestError) Unwrap() error { return e.Class }

// Spawn starts a supervised daemon; [ErrRunning] when one of that name exists.
func (c *Client) Spawn(ctx context.Context, d Daemon) error {
	_, err := c.call(ctx, request{Op: "spawn", Name: d.Name, Daemon: &d})
	return err
}

// Signal sends a signal to the daemon's process.
func (c *Client) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	_, err := c.call(ctx, request{Op: "signal", Name: name, Signal: sig})
	return err
}

// Restart ends the daemon with sig and starts it again at once.
func (c *Client) Restart(ctx context.Context, name string, sig syscall.Signal) error {
	_, err := c.call(ctx, request{Op: "restart", Name: name, Signal: sig})
	return err
}

// Unspawn ends the daemon and forgets it.
func (c *Client) Unspawn(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{Op: "unspawn", Name: name})
	return err
}

// List returns the host's daemons by name.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	ans, err := c.call(ctx, request{Op: "ps"})
	return ans.Daemons, err
}
