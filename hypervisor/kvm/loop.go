package kvm

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
)

// loopOnce guards the process-wide event loop: libvirt has exactly one, it can't be stopped, and it
// must be registered before the first connection is opened.
var loopOnce = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go runLoop()
	return nil
})

// startLoop starts libvirt's event loop unless it runs. Without a running loop libvirt drops
// connections for missing keepalive answers.
func startLoop(log *slog.Logger) error {
	if err := loopOnce(); err != nil {
		log.Error("event loop not registered", "err", err)
		return fmt.Errorf("register libvirt event loop: %w", err)
	}
	return nil
}

func runLoop() {
	for {
		// An error here is one bad poll; the loop must outlive it, but not spin on it.
		if err := libvirt.EventRunDefaultImpl(); err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}
