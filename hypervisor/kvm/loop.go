package kvm

/*
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static int (*run_once)(void);

static void *run_events(void *unused)
{
	// An error here is one bad poll; the loop must outlive it, but not spin on it.
	for (;;)
		if (run_once() < 0)
			usleep(100000);
	return unused;
}

// The library is loaded already: by the binding, or with the program.
static const char *start_events(void)
{
	void *library = dlopen("libvirt.so.0", RTLD_NOW | RTLD_NOLOAD);
	if (library == NULL || (run_once = dlsym(library, "virEventRunDefaultImpl")) == NULL)
		return "libvirt.so.0 has no event loop";
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all); // signals are for Go's threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, NULL, run_events, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed ? "no thread for libvirt's event loop" : NULL;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"libvirt.org/go/libvirt"
)

// loopOnce guards the process-wide event loop: libvirt has exactly one, it can't be stopped, and it
// must be registered before the first connection is opened.
//
// It runs on a thread of its own in C. Each call of libvirt wakes it some ten times, and each return to Go would
// have the runtime look for work with what cores there are: that was a third of what an idle agent took.
var loopOnce = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	if problem := C.start_events(); problem != nil {
		return errors.New(C.GoString(problem))
	}
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
