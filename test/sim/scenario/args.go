package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/hypervisor"
)

// args are a command's, each of which is taken once. The first error is kept.
type args struct {
	Command
	taken map[string]bool
	used  int // of Words
	err   error
}

func (a *args) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

// rest complains about what was not taken.
func (a *args) rest() error {
	for _, k := range slices.Sorted(maps.Keys(a.Args)) {
		if !a.taken[k] {
			a.fail("%s= is not known here", k)
		}
	}
	if a.used < len(a.Words) {
		a.fail("%q is not known here", strings.Join(a.Words[a.used:], " "))
	}
	return a.err
}

// word is the next one; "" and an error when there is none.
func (a *args) word(what string) string {
	if a.used == len(a.Words) {
		a.fail("it needs %s", what)
		return ""
	}
	a.used++
	return a.Words[a.used-1]
}

// words are all that are left, at least one.
func (a *args) words(what string) []string {
	out := a.Words[a.used:]
	if len(out) == 0 {
		a.fail("it needs %s", what)
	}
	a.used = len(a.Words)
	return out
}

// flag reports whether the word is among those left, and takes it.
func (a *args) flag(word string) bool {
	for i := a.used; i < len(a.Words); i++ {
		if a.Words[i] == word {
			a.Words = slices.Delete(slices.Clone(a.Words), i, i+1)
			return true
		}
	}
	return false
}

func (a *args) value(key string) (string, bool) {
	if a.taken == nil {
		a.taken = map[string]bool{}
	}
	a.taken[key] = true
	v, there := a.Args[key]
	return v, there
}

// get reads a value into what is given, which stays as it is when there is none.
func get[T any](a *args, key string, into *T, parse func(string) (T, error)) {
	text, there := a.value(key)
	if !there {
		return
	}
	v, err := parse(text)
	if err != nil {
		a.fail("%s=%s: %w", key, text, err)
		return
	}
	*into = v
}

func parse[T any](a *args, text string, how func(string) (T, error)) T {
	v, err := how(text)
	if err != nil && text != "" {
		a.fail("%q: %w", text, err)
	}
	return v
}

func number(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

func duration(s string) (time.Duration, error) { return time.ParseDuration(s) }

func bytes(s string) (hypervisor.Bytes, error) { return hypervisor.ParseBytes(s) }

func rate(s string) (hypervisor.BytesPerSecond, error) { return hypervisor.ParseRate(s) }

func cores(s string) (hypervisor.Cores, error) {
	v, err := number(s)
	return hypervisor.Cores(v), err
}

func text(s string) (string, error) { return s, nil }
