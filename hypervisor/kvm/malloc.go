package kvm

/*
#include <malloc.h>

// Before main: the Go runtime's first threads would have got arenas of their own by the time that Go
// code runs, for good.
__attribute__((constructor)) static void use_one_arena(void) { mallopt(M_ARENA_MAX, 1); }
static void trim(void) { malloc_trim(0); }
*/
import "C"

// TrimMemory gives memory that libvirt's client no longer uses back to the kernel.
//
// glibc would give each thread that allocates an arena of its own, up to eight per core, and keep them.
// libvirt's calls come from ever other threads of Go's, so that the agent would grow for hours without
// a leak: there is one arena.
func TrimMemory() { C.trim() }
