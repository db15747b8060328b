package hypervisor

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Bytes is an amount of memory, disk or traffic.
type Bytes int64

// Binary multiples of a byte.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// String renders b with a binary unit ("512 MiB").
func (b Bytes) String() string {
	if b < 0 {
		return "-" + humanize.IBytes(uint64(-b))
	}
	return humanize.IBytes(uint64(b))
}

// ParseBytes reads "512MiB", "2 GiB", "1000000" (bytes) or "4G"; units without the "i" are decimal,
// as everywhere in go-humanize.
func ParseBytes(s string) (Bytes, error) {
	n, err := humanize.ParseBytes(strings.TrimSpace(s))
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("size %q: want a number with a unit, such as 512MiB", s)
	}
	return Bytes(n), nil
}

// BytesPerSecond is a rate of transfer or of dirtying memory.
type BytesPerSecond int64

// String renders the rate with a binary unit ("47 MiB/s").
func (r BytesPerSecond) String() string { return Bytes(r).String() + "/s" }

// Mbit returns the rate in decimal megabits per second, the unit of network links.
func (r BytesPerSecond) Mbit() float64 { return float64(r) * 8 / 1e6 }

// Time returns how long n bytes take at rate r; a rate of zero or less means for ever and gives the
// largest duration.
func (r BytesPerSecond) Time(n Bytes) time.Duration {
	if n <= 0 {
		return 0
	}
	if r <= 0 {
		return 1<<63 - 1
	}
	d := float64(n) / float64(r) * float64(time.Second)
	if d >= 1<<62 {
		return 1<<63 - 1
	}
	return time.Duration(d)
}

// Rate returns n bytes over d; zero when d is not positive.
func Rate(n Bytes, d time.Duration) BytesPerSecond {
	if d <= 0 {
		return 0
	}
	return BytesPerSecond(float64(n) / d.Seconds())
}

// ParseRate reads a link rate as networks give it ("400mbit", "10Gbit", decimal bits per second) or
// as storage does ("50MiB/s", bytes per second).
func ParseRate(s string) (BytesPerSecond, error) {
	t := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), " ", ""))
	bad := fmt.Errorf("rate %q: want bits such as 400mbit or 10gbit, or bytes such as 50MiB/s", s)
	if b, ok := strings.CutSuffix(t, "/s"); ok {
		if n, err := humanize.ParseBytes(b); err == nil && n < 1<<62 {
			return BytesPerSecond(n), nil
		}
		// "10gbit/s" means what "10gbit" does.
		t = b
	}
	for suffix, factor := range map[string]float64{"kbit": 1e3, "mbit": 1e6, "gbit": 1e9} {
		num, ok := strings.CutSuffix(t, suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(num, 64)
		if err != nil || !(f >= 0 && f*factor <= 1e18) { // NaN compares false
			return 0, bad
		}
		return BytesPerSecond(f * factor / 8), nil
	}
	return 0, bad
}

// Cores is an amount of CPU: 1 is one host core (hardware thread) used all the time.
type Cores float64
