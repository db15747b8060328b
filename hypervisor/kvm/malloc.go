package kvm

/*
#include <malloc.h>

static void use_one_arena(void) { mallopt(M_ARENA_MAX, 1); }
static void trim(void) { malloc_trim(0); }
*/
import "C"

// glibc gives each thread that allocates an arena of its own, up to eight per core, and keeps them.
// libvirt's calls come from ever other threads of Go's, so that the agent would grow for hours
// without a leak.
func init() { C.use_one_arena() }

// TrimMemory gives memory that libvirt's client no longer uses back to the kernel.
func TrimMemory() { C.trim() }
