//go:build cgo

package throttle

/*
#cgo LDFLAGS: -pthread
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// How many times as long a beat is while the vCPU stands still.
enum { STANDING = 3 };

typedef struct {
	pthread_t thread;
	sem_t tried;     // posted once it is known whether it can follow
	atomic_int stop;
	atomic_int lost; // an error: it can't follow the vCPU any more
	int vcpu;        // the thread that it follows
	int stat;        // that thread's file
	int runs;        // and the one that says how long it has run, below 0 where there is none
	int cpu;         // where the metronome is
	long every;
} metronome;

// Which CPU the thread of that file last ran on, or an error below 0.
static int processor(int stat) {
	char text[1024];
	ssize_t n = pread(stat, text, sizeof text - 1, 0);
	if (n < 0)
		return -errno;
	text[n] = 0;
	// The command's name stands in parentheses and may hold anything, parentheses too.
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -EINVAL;
}

// For how many nanoseconds the thread of that file has run, as far as the scheduler has noticed; 0 if that can't be told.
static unsigned long long runtime(int runs) {
	char text[64];
	ssize_t n = runs < 0 ? -1 : pread(runs, text, sizeof text - 1, 0);
	if (n <= 0)
		return 0;
	text[n] = 0;
	return strtoull(text, NULL, 10);
}

static int move(metronome *m) {
	int cpu = processor(m->stat);
	if (cpu < 0)
		return -cpu;
	// Another hand may have changed where this thread may be.
	if (cpu == m->cpu && cpu == sched_getcpu())
		return 0;
	size_t size = CPU_ALLOC_SIZE(cpu + 1);
	cpu_set_t *set = CPU_ALLOC(cpu + 1);
	if (!set)
		return ENOMEM;
	CPU_ZERO_S(size, set);
	CPU_SET_S(cpu, size, set);
	int failed = sched_setaffinity(0, size, set) ? errno : 0;
	CPU_FREE(set);
	m->cpu = failed ? -1 : cpu;
	return failed;
}

// Whether this thread may go wherever the vCPU may: the kernel leaves out silently what the control group forbids.
static int may_follow(metronome *m) {
	enum { MOST = 1 << 16 };
	size_t size = CPU_ALLOC_SIZE(MOST);
	cpu_set_t *want = CPU_ALLOC(MOST), *have = CPU_ALLOC(MOST);
	int failed = 0;
	if (!want || !have)
		failed = ENOMEM;
	else {
		CPU_ZERO_S(size, want);
		CPU_ZERO_S(size, have);
		if (sched_getaffinity(m->vcpu, size, want) || sched_setaffinity(0, size, want) || sched_getaffinity(0, size, have))
			failed = errno;
		else if (!CPU_EQUAL_S(size, want, have))
			failed = EXDEV;
	}
	CPU_FREE(want);
	CPU_FREE(have);
	return failed;
}

static void *beat(void *arg) {
	metronome *m = arg;
	struct timespec wait = {0, m->every};
	int failed = may_follow(m);
	if (!failed)
		failed = move(m);
	atomic_store(&m->lost, failed);
	sem_post(&m->tried);
	for (unsigned long long before = 0; !failed && !atomic_load(&m->stop);) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
		// One that runs here was just noticed to. One that stands still, as it does most of the time, needs to be caught only
		// before it has used up what it may; and it may run elsewhere.
		unsigned long long ran = runtime(m->runs);
		int here = ran && ran != before;
		before = ran;
		wait.tv_nsec = here || !ran ? m->every : STANDING * m->every;
		if (here)
			continue;
		failed = move(m);
		if (failed == ENOMEM || failed == EINTR)
			failed = 0;
	}
	if (failed && failed != ESRCH) // which says that the guest has ended
		atomic_store(&m->lost, failed);
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

static void discard(metronome *m) {
	sem_destroy(&m->tried);
	close(m->stat);
	if (m->runs >= 0)
		close(m->runs);
}

static void metronome_stop(metronome *m) {
	atomic_store(&m->stop, 1);
	pthread_join(m->thread, NULL);
	discard(m);
}

static int metronome_start(metronome *m, int pid, int vcpu, long every) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, vcpu);
	m->stat = open(path, O_RDONLY | O_CLOEXEC);
	if (m->stat < 0)
		return errno;
	snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", pid, vcpu);
	m->runs = open(path, O_RDONLY | O_CLOEXEC);
	m->vcpu = vcpu;
	m->cpu = -1;
	m->every = every;
	atomic_init(&m->stop, 0);
	atomic_init(&m->lost, 0);
	sem_init(&m->tried, 0, 0);
	int failed = spawn(m, beat);
	if (failed) {
		discard(m);
		return failed;
	}
	while (sem_wait(&m->tried) && errno == EINTR)
		;
	failed = atomic_load(&m->lost);
	if (failed)
		metronome_stop(m);
	return failed;
}

static int metronome_lost(metronome *m) { return atomic_load(&m->lost); }
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

func (realTime) start(pid int, threads []int) (metronome, error) {
	size := C.size_t(unsafe.Sizeof(C.metronome{}))
	all := make(beats, 0, len(threads))
	for _, thread := range threads {
		m := (*C.metronome)(C.calloc(1, size))
		if failed := C.metronome_start(m, C.int(pid), C.int(thread), C.long(beatEvery.Nanoseconds())); failed != 0 {
			C.free(unsafe.Pointer(m))
			all.stop()
			return nil, fmt.Errorf("metronome of thread %d: %w", thread, syscall.Errno(failed))
		}
		all = append(all, m)
	}
	return all, nil
}

// beats are a metronome: its threads.
type beats []*C.metronome

func (b beats) stop() {
	for _, m := range b {
		C.metronome_stop(m)
		C.free(unsafe.Pointer(m))
	}
}

func (b beats) lost() error {
	for _, m := range b {
		if failed := C.metronome_lost(m); failed != 0 {
			return fmt.Errorf("metronome: %w", syscall.Errno(failed))
		}
	}
	return nil
}
