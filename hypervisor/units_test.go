package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Bytes
		ok   bool
	}{
		{"512MiB", 512 * MiB, true},
		{" 2 GiB ", 2 * GiB, true},
		{"1000000", 1_000_000, true},
		{"4G", 4_000_000_000, true},
		{"1.5 KiB", 1536, true},
		{"", 0, false},
		{"much", 0, false},
		{"-1", 0, false},
		{"9 EiB", 0, false},
	} {
		got, err := ParseBytes(tc.in)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d, error %v", tc.in, got, err, tc.want, !tc.ok)
		}
	}
}

func TestParseRate(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want BytesPerSecond
		ok   bool
	}{
		{"400mbit", 50_000_000, true},
		{"10Gbit", 1_250_000_000, true},
		{"10 gbit/s", 1_250_000_000, true},
		{"8kbit", 1000, true},
		{"50MiB/s", 50 << 20, true},
		{"50 MB/s", 50_000_000, true},
		{"0.5gbit", 62_500_000, true},
		{"0mbit", 0, true},
		{"", 0, false},
		{"50", 0, false},
		{"50MiB", 0, false},
		{"-1mbit", 0, false},
		{"fastmbit", 0, false},
		{"mbit", 0, false},
		{"1e30gbit", 0, false},
		{"nanmbit", 0, false},
		{"infmbit", 0, false},
		{"9EiB/s", 0, false},
	} {
		got, err := ParseRate(tc.in)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("ParseRate(%q) = %d, %v; want %d, error %v", tc.in, got, err, tc.want, !tc.ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"400mbit", "1.5GiB", "50MiB/s", "1e9kbit", "nangbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRate(s); err == nil && r < 0 {
			t.Errorf("ParseRate(%q) = %d", s, r)
		}
		if b, err := ParseBytes(s); err == nil && b < 0 {
			t.Errorf("ParseBytes(%q) = %d", s, b)
		}
	})
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		(512 * MiB).String(): "512 MiB", (-2 * GiB).String(): "-2.0 GiB", BytesPerSecond(47 << 20).String(): "47 MiB/s",
		Blocker{Code: BlockCPU, Detail: "lacks avx"}.String(): "cpu-incompatible: lacks avx",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := BytesPerSecond(50_000_000).Mbit(); got != 400 {
		t.Errorf("50 MB/s is %v Mbit/s, want 400", got)
	}
}

// TestTimeAndRate are inverse to each other, and never leave their range.
func TestTimeAndRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := Bytes(rapid.Int64().Draw(t, "bytes"))
		r := BytesPerSecond(rapid.Int64().Draw(t, "rate"))
		d := r.Time(n)
		switch {
		case d < 0:
			t.Fatalf("%d bytes at %d take %s", n, r, d)
		case n <= 0 && d != 0:
			t.Fatalf("nothing takes %s", d)
		case n > 0 && r <= 0 && d != math.MaxInt64:
			t.Fatalf("%d bytes at %d take %s, want for ever", n, r, d)
		}
		if n > 0 && r > 0 && d > time.Millisecond && d < 1e6*time.Hour {
			if back := Rate(n, d); math.Abs(float64(back)-float64(r)) > 1+float64(r)/1e3 {
				t.Fatalf("%d bytes in %s is %d, want about %d", n, d, back, r)
			}
		}
	})
	if got := Rate(1000, 0); got != 0 {
		t.Errorf("1000 bytes in no time is a rate of %d, want 0: not known", got)
	}
}

func TestErrorClass(t *testing.T) {
	lost := &Error{Op: "migrate", Domain: "u", Class: ClassUnknownOutcome, Message: "gone", Err: io.ErrUnexpectedEOF}
	wrapped := fmt.Errorf("drive: %w", lost)
	switch {
	case ClassOf(wrapped) != ClassUnknownOutcome, !IsClass(wrapped, ClassUnknownOutcome), IsClass(wrapped, ClassFailed):
		t.Errorf("class of a wrapped error: %q", ClassOf(wrapped))
	case !errors.Is(wrapped, io.ErrUnexpectedEOF):
		t.Error("the cause is lost")
	case ClassOf(nil) != "", ClassOf(io.EOF) != "", IsClass(nil, ""):
		t.Error("no error, or another's, has a class")
	}
	if got := lost.Error(); got != "migrate u: gone" {
		t.Errorf("text %q", got)
	}
	if got := (&Error{Op: "facts", Message: "away"}).Error(); got != "facts: away" {
		t.Errorf("text %q", got)
	}
}

func TestActive(t *testing.T) {
	for state, want := range map[DomainState]bool{
		StateRunning: true, StatePaused: true, StateCrashed: true, StateOther: true, StateShutoff: false, StateAbsent: false, "": false,
	} {
		if got := (Sighting{State: state}).Active(); got != want {
			t.Errorf("%q is active: %v, want %v", state, got, want)
		}
	}
}

func TestStrategyName(t *testing.T) {
	for want, s := range map[string]Strategy{
		"plain": {}, "xbzrle": {Compression: "xbzrle"}, "multifd": {Connections: 4}, "multifd-zstd": {Connections: 4, Compression: "zstd"},
		"auto-converge": {AutoConverge: true}, "postcopy": {PostCopy: true},
	} {
		if got := s.Name(); got != want {
			t.Errorf("%+v is named %q, want %q", s, got, want)
		}
	}
}
