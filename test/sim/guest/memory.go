package guest

import (
	"fmt"
	"math"
	"time"

	"drover/hypervisor"
)

const (
	// PageSize is what memory is dirtied and sent by.
	PageSize = 4 * hypervisor.KiB
	// header is what the stream spends on each page besides its bytes; a zero page is all header.
	header = 9.0
	// firmware is memory that libvirt counts besides the guest's own: ROM and video.
	firmware = 16 * hypervisor.MiB
	// word is what a page of which one word differs takes under XBZRLE.
	word = 16.0
)

// Region is memory that is written alike.
type Region struct {
	Size hypervisor.Bytes
	// Rate is how many pages' bytes are written in a second at full speed; pages may be written again.
	Rate hypervisor.BytesPerSecond
	// Sweep writes one page after the other, over and over; else pages are picked at random.
	Sweep bool
	// Words says that of each page one word is written only.
	Words bool
	// On and Off are of a region that is written in bursts, beginning with one; both 0 is all the time.
	On, Off time.Duration
}

// Memory is a guest's. What no region is said of is never written.
type Memory struct {
	Total hypervisor.Bytes
	// Used is how much of it was ever written; the rest is zero pages. 0 is all of it.
	Used    hypervisor.Bytes
	Regions []Region
	// Compression is the factor by which a page shrinks under zstd; 0 is 1, not at all.
	Compression float64
}

// Idle is what a guest's kernel writes by itself.
func Idle() Region {
	return Region{Size: 200 * PageSize, Rate: hypervisor.BytesPerSecond(40 * PageSize)}
}

// Check says what is wrong with the figures.
func (m Memory) Check() error {
	sum := hypervisor.Bytes(0)
	for _, r := range m.Regions {
		if r.Size < PageSize || r.Rate < 0 || r.On < 0 || r.Off < 0 || r.Off > 0 && r.On == 0 {
			return fmt.Errorf("memory: a region of %s written at %s in bursts of %s every %s", r.Size, r.Rate, r.On, r.On+r.Off)
		}
		sum += r.Size
	}
	if m.Total < PageSize || m.Used < 0 || m.Used > m.Total || sum > m.used() {
		return fmt.Errorf("memory of %s, of which %s are used and %s written", m.Total, m.used(), sum)
	}
	return nil
}

func (m Memory) used() hypervisor.Bytes {
	if m.Used == 0 {
		return m.Total
	}
	return m.Used
}

// Resident is what the guest holds of its host's memory.
func (m Memory) Resident() hypervisor.Bytes { return m.used() }

// Dirtied is how much is dirtied within d at full speed, from the middle of nowhere: what page sampling sees.
func (m Memory) Dirtied(d time.Duration) hypervisor.Bytes {
	sum := 0.0
	for _, r := range m.Regions {
		active := d
		if r.Off > 0 {
			active = time.Duration(float64(d) * float64(r.On) / float64(r.On+r.Off))
		}
		sum += float64(r.Size) * r.grow(0, active)
	}
	return hypervisor.Bytes(sum)
}

// grow is the share of the region that is dirty after another d of writing, if a share was before.
func (r Region) grow(share float64, d time.Duration) float64 {
	x := float64(r.Rate) * d.Seconds() / float64(r.Size)
	if r.Sweep {
		return min(1, share+x)
	}
	return 1 - (1-share)*math.Exp(-x)
}

// active is how much of the time from a to b the region is written, by the guest's own clock.
func (r Region) active(a, b time.Duration) time.Duration {
	if r.Off <= 0 {
		return b - a
	}
	until := func(t time.Duration) time.Duration {
		period := r.On + r.Off
		return t/period*r.On + min(t%period, r.On)
	}
	return until(b) - until(a)
}

// part is a region while it is being sent, or what is never written.
type part struct {
	Region
	price func(again float64) float64 // bytes on the link for each byte, if a share of it was sent before
	size  float64
	todo  float64 // bytes to be sent
	dirty float64 // share that was dirtied since the last sync
	sent  float64 // bytes in the present round
	// again is the share of the region that XBZRLE has something to compare with, as of the last sync. QEMU keeps
	// nothing of the first round.
	again float64
}

// parts are the memory's, in the order in which they are sent; at the beginning all is to be sent.
func (m Memory) parts(s hypervisor.Strategy) []part {
	zero := func(float64) float64 { return header / float64(PageSize) }
	cache := float64(s.XBZRLECache)
	if cache == 0 {
		cache = float64(64 * hypervisor.MiB)
	}
	written := 1.0
	for _, r := range m.Regions {
		written += float64(r.Size)
	}
	// What does not fit into the cache is sent whole, and only that.
	held := min(1, cache/written)
	full := func(words bool) func(float64) float64 {
		return func(again float64) float64 {
			switch {
			case s.Compression == "zstd" && m.Compression > 1:
				return header/float64(PageSize) + 1/m.Compression
			case s.Compression == "xbzrle" && words:
				short := held * again
				return header/float64(PageSize) + 1 - short + short*word/float64(PageSize)
			}
			return header/float64(PageSize) + 1
		}
	}
	var out []part
	still := float64(m.used())
	for _, r := range m.Regions {
		still -= float64(r.Size)
		out = append(out, part{Region: r, size: float64(r.Size), todo: float64(r.Size), price: full(r.Words)})
	}
	if still > 0 {
		out = append(out, part{size: still, todo: still, price: full(false)})
	}
	if rest := float64(m.Total - m.used() + firmware); rest > 0 {
		out = append(out, part{size: rest, todo: rest, price: zero})
	}
	return out
}
