/*
 * The whole user space of a lab guest: dirties memory in a known way and says on the serial port how it does.
 *
 * Kernel command line: wss=BYTES rate=PAGES_PER_SECOND pattern=word|page|sweep|burst|idle beat=MICROSECONDS
 *
 * Serial protocol, one record per line ("." are beats, anywhere before a line's newline):
 *   B BOOT_ID                       the guest booted
 *   R PAGES                         the working set is filled: the load begins
 *   W SEQ GUEST_MS WORK BAD DISK    every 100 ms: sequence number, guest clock, pages of work done,
 *                                   corrupt pages found so far, disk writes that were read back right (-1: no disk)
 *   X PAGE WANT GOT                 a page did not hold what was written to it (the first ones only)
 *   D SEQ TEXT                      the disk failed or lost a write
 *
 * Every page holds seed[p] in its first word and a sequence derived from base[p] in the others; both are kept a
 * second time, outside the working set. A page that a migration lost or took from an older pass differs from its copy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, TICK_US = 5000, REPORT_US = 100000, SETTLE_US = 1000000, MAX_TOLD = 20, MAX_CPUS = 16, COM1 = 0x3f8 };
#define STEP 0x9e3779b97f4a7c15ull /* odd, so words of a page differ and do not compress */

enum pattern { WORD, PAGES, SWEEP, BURST, IDLE };

static uint64_t *memory, *seed, *base;
static uint64_t pages;
static double rate; /* pages per second, all workers together */
static enum pattern pattern = IDLE;
static uint64_t beat_us = TICK_US;
static int serial, workers = 1;
static _Atomic uint64_t work_done[MAX_CPUS], bad;
static _Atomic long disk_ok = -1;
static _Atomic int begun;

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sleep_until(uint64_t us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* One write(2) per record, so that threads do not mix their lines. */
static void say(const char *fmt, ...)
{
	char line[160];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (n > 0 && write(serial, line, n) != n)
		_exit(1); /* without its voice the guest is worthless: the kernel's panic is seen */
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
	return *s;
}

static void check(uint64_t p, uint64_t i)
{
	uint64_t want = i ? base[p] + i * STEP : seed[p];
	uint64_t got = __atomic_load_n(&memory[p * WORDS + i], __ATOMIC_RELAXED);
	if (want == got)
		return;
	if (atomic_fetch_add(&bad, 1) < MAX_TOLD)
		say("\nX %lu %lx %lx\n", p, want, got);
	seed[p] = memory[p * WORDS]; /* count each loss once */
	base[p] = memory[p * WORDS + 1] - STEP;
}

static void fill(uint64_t p, uint64_t v)
{
	uint64_t *m = memory + p * WORDS;
	seed[p] = base[p] = v;
	for (uint64_t i = 0, x = v; i < WORDS; i++, x += STEP)
		m[i] = x;
}

static void touch(uint64_t p, uint64_t v)
{
	seed[p] = v;
	memory[p * WORDS] = v;
}

/* Ticks of all threads are the same instants: each instant apart would wake an emulated CPU once more. */
static uint64_t tick_before(uint64_t us, uint64_t period)
{
	return us - us % period;
}

/* Each worker owns a slice of the pages, so that copy and page are never written by two. */
static void *worker(void *arg)
{
	uint64_t me = (uintptr_t)arg, lo = pages * me / workers, hi = pages * (me + 1) / workers, size = hi - lo;
	uint64_t period = pattern == IDLE ? beat_us : TICK_US;
	uint64_t rnd = 88172645463325252ull + me, cursor = 0, begin = tick_before(now_us(), period), last = begin;
	double due = 0, per_us = rate / workers / 1e6;

	while (memory == NULL || size == 0)
		sleep_until(now_us() + 100000);
	for (uint64_t tick = begin + period;; tick += period) {
		sleep_until(tick);
		uint64_t now = now_us();
		due += (now - last) * per_us;
		last = now;
		/* Work that a stolen CPU kept back is lost, not done later: that is what is measured. */
		if (due > 4 * period * per_us + 1)
			due = 4 * period * per_us + 1;
		if (now > tick + 4 * period)
			tick = tick_before(now, period);
		int writing = pattern != IDLE && (pattern != BURST || (now - begin) / 2000000 % 2 == 0);
		for (; due >= 1; due -= 1) {
			uint64_t r = next_random(&rnd), p = lo + (pattern == SWEEP ? cursor++ % size : r % size);
			if (writing) {
				check(p, 0);
				check(p, 1 + (r >> 32) % (WORDS - 1));
				if (pattern == WORD)
					touch(p, r);
				else
					fill(p, r);
			}
			work_done[me]++;
		}
		/* Pages that are never written again must arrive as well. */
		for (int i = 0; i < 16; i++) {
			uint64_t r = next_random(&rnd);
			check(lo + r % size, (r >> 32) % WORDS);
		}
	}
	return NULL;
}

/* Writes a numbered block five times a second and reads the one before from the disk, past the cache. */
static void *disk_writer(void *arg)
{
	static _Alignas(4096) uint64_t out[WORDS], in[WORDS];
	int fd = open("/dev/vda", O_RDWR | O_DIRECT | O_SYNC);
	(void)arg;
	if (fd < 0)
		return NULL;
	disk_ok = 0;
	for (uint64_t seq = 1;; seq++) {
		off_t at = (off_t)(seq % 64) * PAGE;
		for (int i = 0; i < WORDS; i++)
			out[i] = seq * STEP + i;
		if (pwrite(fd, out, PAGE, at) != PAGE) {
			say("\nD %lu write: %s\n", seq, strerror(errno));
		} else if (seq > 1) {
			off_t before = (off_t)((seq - 1) % 64) * PAGE;
			if (pread(fd, in, PAGE, before) != PAGE)
				say("\nD %lu read: %s\n", seq, strerror(errno));
			else if (in[0] != (seq - 1) * STEP || in[WORDS - 1] != in[0] + WORDS - 1)
				say("\nD %lu lost: block of write %lu\n", seq, seq - 1);
			else
				disk_ok++;
		}
		sleep_until(now_us() + 200000);
	}
	return NULL;
}

static void *reporter(void *arg)
{
	uint64_t begin = tick_before(now_us(), beat_us), seq = 0;
	uint64_t loaded = 0; /* the first tick under load */
	int direct = 0;
	(void)arg;
	for (uint64_t n = 1;; n++) {
		sleep_until(begin + n * beat_us);
		uint64_t now = now_us();
		if (now > begin + (n + 1) * beat_us) /* ticks slept through are gone */
			n = (now - begin) / beat_us;
		if (begun && !loaded) {
			/* A beat says that the guest runs: it must not wait for what else the guest does, nor for the kernel's
			 * terminal, which is long code to come upon with cold caches. Before, it must not hold up the filling. */
			struct sched_param first = {.sched_priority = 1};
			pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
			direct = ioperm(COM1, 1, 1) == 0;
			loaded = n;
		}
		if (n * beat_us / REPORT_US == seq) {
			/* The line that says that the load begins must be through before a beat could part it. */
			if (direct && n > loaded + SETTLE_US / beat_us)
				outb('.', COM1);
			else
				say(".");
			continue;
		}
		uint64_t sum = 0;
		for (int i = 0; i < workers; i++)
			sum += work_done[i];
		seq = n * beat_us / REPORT_US;
		say(".\nW %lu %lu %lu %lu %ld\n", seq, now / 1000, sum, (uint64_t)bad, (long)disk_ok);
	}
	return NULL;
}

/* Which module needs which differs between kernels: those that lack a symbol are tried again after the others. */
static void load_modules(void)
{
	static const char *names[] = {"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"};
	enum { COUNT = sizeof names / sizeof *names };
	int loaded[COUNT] = {0}, error[COUNT] = {0};
	for (int pass = 0; pass < COUNT; pass++)
		for (int i = 0; i < COUNT; i++) {
			char path[64];
			snprintf(path, sizeof path, "/%s.ko", names[i]);
			int fd = loaded[i] ? -1 : open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				continue; /* loaded, or built into this kernel */
			loaded[i] = syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST;
			error[i] = loaded[i] ? 0 : errno;
			close(fd);
		}
	for (int i = 0; i < COUNT; i++)
		if (error[i])
			say("\nD 0 module %s: %s\n", names[i], strerror(error[i]));
}

static const char *option(const char *cmdline, const char *name, char *out, size_t size)
{
	const char *at = strstr(cmdline, name);
	size_t n = 0;
	if (at)
		for (at += strlen(name); *at && *at != ' ' && *at != '\n' && n + 1 < size; at++)
			out[n++] = *at;
	out[n] = 0;
	return out;
}

static void configure(void)
{
	static char cmdline[4096];
	char text[64];
	int fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, cmdline, sizeof cmdline - 1) <= 0)
		_exit(2);
	close(fd);
	pages = strtoull(option(cmdline, " wss=", text, sizeof text), NULL, 10) / PAGE;
	rate = strtod(option(cmdline, " rate=", text, sizeof text), NULL);
	beat_us = strtoull(option(cmdline, " beat=", text, sizeof text), NULL, 10);
	if (beat_us < 1000 || beat_us > REPORT_US)
		beat_us = TICK_US;
	option(cmdline, " pattern=", text, sizeof text);
	static const char *names[] = {"word", "page", "sweep", "burst", "idle"};
	for (int i = 0; i < 5; i++)
		if (!strcmp(text, names[i]))
			pattern = (enum pattern)i;
	workers = (int)sysconf(_SC_NPROCESSORS_ONLN);
	workers = workers < 1 ? 1 : workers > MAX_CPUS ? MAX_CPUS : workers;
}

static void *anonymous(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		say("\nX 0 memory %s\n", strerror(errno));
		_exit(3);
	}
	/* Huge pages would dirty 2 MiB for each word under KVM and blur what the rate means. */
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

int main(void)
{
	static char boot[64];
	mkdir("/proc", 0755), mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	serial = open("/dev/ttyS0", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	configure();
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, boot, 36);
	boot[n > 0 ? n : 0] = 0;
	say("\nB %s\n", boot);

	pthread_t t;
	pthread_create(&t, NULL, reporter, NULL);
	load_modules();
	uint64_t *m = anonymous(pages * PAGE);
	seed = anonymous(pages * sizeof *seed);
	base = anonymous(pages * sizeof *base);
	memory = m;
	uint64_t rnd = 1181783497276652981ull;
	for (uint64_t p = 0; p < pages; p++)
		fill(p, next_random(&rnd));
	say("\nR %lu\n", pages);
	begun = 1;
	pthread_create(&t, NULL, disk_writer, NULL);
	for (long i = 1; i < workers; i++)
		pthread_create(&t, NULL, worker, (void *)i);
	worker((void *)0);
	return 0;
}
