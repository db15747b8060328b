//go:build cgo

package throttle

/*
#cgo LDFLAGS: -pthread
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
	pthread_t thread;
	atomic_int stop;
	int stat; // the vCPU thread's file
	int cpu;  // where the metronome is
	long every;
} metronome;

// Which CPU the thread of that file last ran on; -1 when it ended.
static int processor(int stat) {
	char text[1024];
	ssize_t n = pread(stat, text, sizeof text - 1, 0);
	if (n <= 0)
		return -1;
	text[n] = 0;
	// The command's name stands in parentheses and may hold anything, parentheses too.
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -1;
}

static int move(metronome *m) {
	int cpu = processor(m->stat);
	if (cpu < 0)
		return ESRCH;
	if (cpu == m->cpu)
		return 0;
	size_t size = CPU_ALLOC_SIZE(cpu + 1);
	cpu_set_t *set = CPU_ALLOC(cpu + 1);
	if (!set)
		return ENOMEM;
	CPU_ZERO_S(size, set);
	CPU_SET_S(cpu, size, set);
	int failed = sched_setaffinity(0, size, set) ? errno : 0;
	CPU_FREE(set);
	if (!failed)
		m->cpu = cpu;
	return failed;
}

static void *beat(void *arg) {
	metronome *m = arg;
	struct timespec wait = {0, m->every};
	// Where it may not follow, the tick does what it can.
	while (!atomic_load(&m->stop) && move(m) != ESRCH)
		clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
	return NULL;
}

static int spawn(metronome *m, void *(*run)(void *)) {
	pthread_attr_t attr;
	struct sched_param first = {.sched_priority = 1};
	int failed = pthread_attr_init(&attr);
	if (failed)
		return failed;
	failed = pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	if (!failed)
		failed = pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	if (!failed)
		failed = pthread_attr_setschedparam(&attr, &first);
	if (!failed)
		failed = pthread_attr_setstacksize(&attr, 256 * 1024);
	// Signals are for Go's own threads.
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (!failed)
		failed = pthread_create(&m->thread, &attr, run, m);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return failed;
}

static void *nothing(void *arg) { return arg; }

// Whether this process may schedule in real time: 0, or why not.
static int metronome_may(void) {
	metronome m;
	int failed = spawn(&m, nothing);
	if (!failed)
		pthread_join(m.thread, NULL);
	return failed;
}

static int metronome_start(metronome *m, int pid, int thread, long every) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, thread);
	m->stat = open(path, O_RDONLY | O_CLOEXEC);
	if (m->stat < 0)
		return errno;
	m->cpu = -1;
	m->every = every;
	atomic_init(&m->stop, 0);
	int failed = spawn(m, beat);
	if (failed)
		close(m->stat);
	return failed;
}

static void metronome_stop(metronome *m) {
	atomic_store(&m->stop, 1);
	pthread_join(m->thread, NULL);
	close(m->stat);
}
*/
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

// realTime are metronomes of threads that come before all that is not scheduled in real time: one for each vCPU,
// which follows it from CPU to CPU and wakes up there for some microseconds at each beat.
//
// The scheduler takes a running thread's time off the quota of its group at the tick, or when another thread takes its
// place (put_prev_entity and check_cfs_rq_runtime in kernel/sched/fair.c). The threads are no threads of Go: its
// scheduler would have them wait for threads that do not come first.
type realTime struct{}

func newMetronomes() (metronomes, error) {
	if failed := C.metronome_may(); failed != 0 {
		return nil, fmt.Errorf("real-time scheduling: %w", syscall.Errno(failed))
	}
	return realTime{}, nil
}

func (realTime) start(pid int, threads []int) (func(), error) {
	size := C.size_t(unsafe.Sizeof(C.metronome{}))
	all := make([]*C.metronome, 0, len(threads))
	stop := func() {
		for _, m := range all {
			C.metronome_stop(m)
			C.free(unsafe.Pointer(m))
		}
	}
	for _, thread := range threads {
		m := (*C.metronome)(C.calloc(1, size))
		if failed := C.metronome_start(m, C.int(pid), C.int(thread), C.long(beatEvery.Nanoseconds())); failed != 0 {
			C.free(unsafe.Pointer(m))
			stop()
			return nil, fmt.Errorf("metronome of thread %d: %w", thread, syscall.Errno(failed))
		}
		all = append(all, m)
	}
	return stop, nil
}
