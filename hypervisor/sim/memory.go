package sim

import (
	"math/bits"
	"time"

	"drover/hypervisor"
)

const (
	pageSize = 4 * hypervisor.KiB
	// header is what the stream spends on each page besides its bytes; a zero page is all header.
	header = 9 * hypervisor.Bytes(1)
	// firmware is memory that libvirt counts besides the domain's own: ROM and video.
	firmware = 16 * hypervisor.MiB
)

// memory is a guest's memory as its migration sees it: a log of what was written since the last
// sync, and what is still to be sent. A coarser model with regions instead of pages can stand in for
// it where thousands of guests are simulated. Implementations are not safe for concurrent use.
type memory interface {
	// write lets the guest run for d at full speed.
	write(d time.Duration)
	// sync moves the log into what is to be sent, and returns the pages that this added.
	sync() int
	// send takes pages out of what is to be sent until their cost, as price gives it for the n-th
	// sending of a page that is not zero, has used up the budget.
	send(budget float64, price func(again bool) hypervisor.Bytes) sent
	// follow takes over a new pattern of writing.
	follow(c DomainConfig)
	// total and remaining are in pages; remaining is what is to be sent.
	total() int
	remaining() int
}

// sent is what one piece of sending did.
type sent struct {
	cost   float64 // bytes on the link
	normal int     // pages
	zero   int
}

// bitmap is one bit a page.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// paged is memory with a bit for each page: 32 KiB of bitmap for a GiB of guest.
type paged struct {
	n, used int // pages; those from used on are zero
	seed    uint64
	w       *writer
	dirty   bitmap // written since the last sync
	todo    bitmap // to be sent
	again   bitmap // sent since the first sync: QEMU keeps nothing of the pass over all memory to compare with
	synced  bool
	count   int // of todo
	cursor  int // word of todo at which sending goes on
}

// newPaged returns memory of which everything is to be sent, as after QEMU's first sync.
func newPaged(c DomainConfig, seed uint64) *paged {
	n := int((c.Memory + firmware) / pageSize)
	p := &paged{
		n: n, used: int(used(c) / pageSize), seed: seed, w: newWriter(c, seed),
		dirty: newBitmap(n), todo: newBitmap(n), again: newBitmap(n), count: n,
	}
	for i := range p.todo {
		p.todo[i] = ^uint64(0)
	}
	if extra := n % 64; extra != 0 {
		p.todo[len(p.todo)-1] = 1<<extra - 1
	}
	return p
}

func (p *paged) total() int            { return p.n }
func (p *paged) remaining() int        { return p.count }
func (p *paged) write(d time.Duration) { p.w.run(d, p.dirty.set) }
func (p *paged) follow(c DomainConfig) { p.w = newWriter(c, p.seed) }

func (p *paged) sync() int {
	added := 0
	for i, w := range p.dirty {
		added += bits.OnesCount64(w &^ p.todo[i])
		p.todo[i] |= w
		p.dirty[i] = 0
	}
	p.count += added
	p.synced = true
	return added
}

func (p *paged) send(budget float64, price func(again bool) hypervisor.Bytes) sent {
	var s sent
	for s.cost < budget && p.count > 0 {
		word := p.todo[p.cursor]
		if word == 0 {
			p.cursor = (p.cursor + 1) % len(p.todo)
			continue
		}
		page := p.cursor*64 + bits.TrailingZeros64(word)
		p.todo[p.cursor] &= word - 1
		p.count--
		if page >= p.used {
			s.zero++
			s.cost += float64(header)
			continue
		}
		s.normal++
		s.cost += float64(header + price(p.again.has(page)))
		if p.synced {
			p.again.set(page)
		}
	}
	return s
}
