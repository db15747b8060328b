package forecast

import (
	"cmp"
	"slices"

	"drover/hypervisor"
)

// The strategies to choose from, by their names in receipts.
const (
	plain  = "plain"
	xbzrle = "xbzrle"
	zstd   = "multifd-zstd"
)

// What is assumed of a strategy that this domain was never moved by: bytes sent for each byte. Measured
// with QEMU 10, one vCPU and 400 Mbit/s: XBZRLE, which has nothing to compare with in the first pass, takes
// 0.75 to 1.0 of a plain stream's time where whole pages are rewritten at random, 0.84 to 0.9 for sweeps
// and wide sets, and a fraction where single words are. Two streams with zstd take 0.75 to 0.93 and fail
// where single words are rewritten; they cost CPU. Which of these a guest is shows only when it is moved:
// XBZRLE loses next to nothing where it does not help, and most is gained by it where it does. Kernels, programs
// and files shrink to about 0.7 under zstd in the first pass.
const (
	unseenXBZRLE    = 0.6
	unseenZstd      = 0.93
	unseenZstdFirst = 0.7
)

const (
	// leastCache is QEMU's own size of the XBZRLE cache.
	leastCache = 64 * hypervisor.MiB
	// cacheShare is the share of the source's free memory that a cache may take.
	cacheShare = 4
	// zstdStreams is QEMU's own number of multifd channels, and zstdSpeed what they can take in together
	// beside a guest that needs its CPU: on faster links a plain stream is sooner over.
	zstdStreams = 2
	zstdSpeed   = 300 * hypervisor.BytesPerSecond(hypervisor.MiB)
	// zstdTries is the share of the link that a guest may dirty, as a sample says, for parallel streams to be
	// tried on it before anything is known of how its pages change: where single words are rewritten they do
	// worse than any other. What XBZRLE sends for each byte of pages that change as a whole is wholePages at
	// least.
	zstdTries  = 0.4
	wholePages = 0.5
)

// candidate is a strategy with what is known of it.
type candidate struct {
	strategy hypervisor.Strategy
	name     string
	tried    bool    // receipts of it say what it sends
	first    float64 // bytes sent for each byte in the first pass
	ratio    float64 // bytes sent for each byte dirtied after it
}

// candidates are the strategies that both hosts can do, the simplest first.
func (k *known) candidates() []candidate {
	list := []candidate{k.candidate(hypervisor.Strategy{}, 1, 1)}
	if cache := k.cache(); k.Can.XBZRLE && cache > 0 {
		list = append(list, k.candidate(hypervisor.Strategy{Compression: xbzrle, XBZRLECache: cache}, 1, unseenXBZRLE))
	}
	if k.Can.Zstd && float64(k.Bandwidth) < unseenZstdFirst*float64(zstdSpeed) && !k.needsNet() && !k.risky() {
		list = append(list, k.candidate(hypervisor.Strategy{Compression: "zstd", Connections: zstdStreams}, unseenZstdFirst, unseenZstd))
	}
	return list
}

// needsNet reports whether a migration by parallel streams, which exclude post-copy, would give away the
// way that the intent allows where nothing else ends it: unless they have moved the domain before.
func (k *known) needsNet() bool {
	return k.Intent.PostCopy && k.Can.PostCopy &&
		!slices.ContainsFunc(k.receipts, func(r Receipt) bool { return r.Strategy == zstd && r.Done })
}

// risky reports whether parallel streams are too much of a guess: of a guest that dirties much, while
// nothing shows that its pages change as a whole.
func (k *known) risky() bool {
	if float64(k.growth.Rate) <= zstdTries*float64(k.speed(k.Bandwidth)) || !k.Can.XBZRLE || k.cache() == 0 {
		return false
	}
	return !slices.ContainsFunc(k.receipts, func(r Receipt) bool {
		return r.Strategy == zstd || r.Strategy == xbzrle && r.Ratio >= wholePages
	})
}

func (k *known) candidate(s hypervisor.Strategy, first, ratio float64) candidate {
	c := candidate{strategy: s, name: s.Name(), first: first, ratio: ratio}
	for _, r := range k.receipts {
		c.tried = c.tried || r.Strategy == c.name
	}
	c.ratio = medianOf(k.receipts, ratio, func(r Receipt) (float64, bool) {
		return min(max(r.Ratio, 0.001), 2), r.Strategy == c.name && r.Ratio > 0
	})
	if c.name == zstd {
		whole := k.firstPass()
		c.first = medianOf(k.receipts, first, func(r Receipt) (float64, bool) {
			return min(float64(r.FirstPass)/float64(cmp.Or(r.FirstWhole, whole)), 1), r.Strategy == zstd && r.FirstPass > 0
		})
	}
	return c
}

// cache is the size of XBZRLE's cache: a power of two that holds the working set and takes no more than
// its share of what is free on the source; 0 when there is none. A smaller one throws out what it will
// need, and gains nothing.
func (k *known) cache() hypervisor.Bytes {
	size := leastCache
	for size < k.growth.Set {
		size *= 2
	}
	if size > k.CacheFree/cacheShare {
		return 0
	}
	return size
}
