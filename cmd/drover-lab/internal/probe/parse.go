package probe

import (
	"bytes"
	"strconv"
	"time"
)

// Sample is one line of counters, every 100 ms of the guest's own time.
type Sample struct {
	Seq       int64
	GuestTime time.Duration // the guest's clock since its boot, which stands still while it is paused
	Work      int64         // pages since boot
	Bad       int64         // corrupt pages since boot
	Disk      int64         // disk writes read back right; -1 without a disk
}

// Tally counts what a stretch of serial output says. Guests restart their counters when they boot.
type Tally struct {
	Beats      int64
	Samples    int64
	Mismatches int64 // pages that did not hold what was written to them
	DiskErrors int64
	Boots      int64
	// Duplicates are samples that were not newer than the one before: two copies of the guest run, or one went back.
	Duplicates int64
	Panicked   bool
	Last       Sample
}

// maxLine bounds what an endless line of rubbish can cost.
const maxLine = 4096

// Parser takes serial output in pieces of any size. The zero value is ready; it is not safe for concurrent use.
type Parser struct {
	Tally Tally

	line    []byte
	seen    bool // Last is of this boot
	badSeen bool // Last.Bad is known, so that a difference means something
}

// Feed takes the next piece and returns the samples that it completed.
func (p *Parser) Feed(data []byte) []Sample {
	var got []Sample
	for _, c := range data {
		if c != '\n' {
			// Beats stand alone, or part a line of figures; the kernel's messages have dots in them.
			if c == '.' && len(p.line) == 0 {
				p.Tally.Beats++
			} else if c != '\r' && len(p.line) < maxLine {
				p.line = append(p.line, c)
			}
			continue
		}
		if s, ok := p.endLine(); ok {
			got = append(got, s)
		}
		p.line = p.line[:0]
	}
	return got
}

func (p *Parser) endLine() (Sample, bool) {
	t := &p.Tally
	line := bytes.ReplaceAll(p.line, []byte("."), nil)
	if bytes.Contains(line, []byte("Kernel panic")) {
		t.Panicked = true
	}
	if len(line) < 2 || line[1] != ' ' {
		return Sample{}, false
	}
	switch line[0] {
	case 'B':
		t.Boots++
		p.seen, p.badSeen = false, true // a fresh guest begins with no corrupt page
		t.Last = Sample{}
	case 'D':
		t.DiskErrors++
	case 'W':
		t.Beats += int64(len(p.line) - len(line))
		return p.sample(line[2:])
	}
	return Sample{}, false
}

func (p *Parser) sample(figures []byte) (Sample, bool) {
	f := bytes.Fields(figures)
	if len(f) != 5 {
		return Sample{}, false
	}
	var n [5]int64
	for i := range n {
		v, err := strconv.ParseInt(string(f[i]), 10, 64)
		if err != nil {
			return Sample{}, false
		}
		n[i] = v
	}
	s := Sample{Seq: n[0], GuestTime: time.Duration(n[1]) * time.Millisecond, Work: n[2], Bad: n[3], Disk: n[4]}
	t := &p.Tally
	t.Samples++
	if p.seen && s.Seq <= t.Last.Seq {
		t.Duplicates++
	}
	if p.badSeen && s.Bad > t.Last.Bad {
		t.Mismatches += s.Bad - t.Last.Bad
	}
	p.seen, p.badSeen, t.Last = true, true, s
	return s, true
}
