package main

import (
	"testing"
	"time"

	"drover/hypervisor"
)

// Samples go on for a few seconds after the last stream, and until other traffic has calmed down, but not for
// as long as that takes.
func TestWhenTheLinkIsSampled(t *testing.T) {
	busy := hypervisor.LinkLoad{Rx: 50 * quietLink, Streams: true}
	for _, tc := range []struct {
		name  string
		calms time.Duration // after the stream
		want  time.Duration // after the stream
	}{
		{"nobody else is there", 0, linkAfter},
		{"the others go on for a while", 8 * time.Second, 8*time.Second - linkEvery + linkAfter},
		{"the others go on for ever", time.Hour, linkBusy - linkEvery + linkAfter},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var w linkWatch
			ended := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			w.wanted(ended, true)
			last := time.Duration(0)
			for after := linkEvery; after < time.Minute; after += linkEvery {
				if !w.wanted(ended.Add(after), false) {
					continue
				}
				last = after
				load := hypervisor.LinkLoad{Streams: true}
				if after < tc.calms {
					load = busy
				}
				load.At = ended.Add(after)
				w.saw(load)
			}
			if last != tc.want {
				t.Errorf("sampled until %s after the stream, want %s", last, tc.want)
			}
		})
	}
}
