package netns

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"drover/hypervisor"
)

// Counters are an interface's totals since it was made.
type Counters struct {
	RxBytes   hypervisor.Bytes `json:"rx_bytes"`
	RxPackets int64            `json:"rx_packets"`
	RxDropped int64            `json:"rx_dropped"`
	TxBytes   hypervisor.Bytes `json:"tx_bytes"`
	TxPackets int64            `json:"tx_packets"`
	TxDropped int64            `json:"tx_dropped"`
}

// ReadCounters returns the counters of iface as the process pid sees it.
func ReadCounters(pid int, iface string) (Counters, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return Counters{}, fmt.Errorf("counters of %s: %w", iface, err)
	}
	return parseCounters(string(data), iface)
}

// parseCounters reads the table of /proc/net/dev: eight receive columns, then eight transmit columns.
func parseCounters(table, iface string) (Counters, error) {
	for line := range strings.Lines(table) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || name != iface {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 16 {
			return Counters{}, fmt.Errorf("counters of %s: %d columns, want 16", iface, len(f))
		}
		var n [16]int64
		for i := range n {
			v, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				return Counters{}, fmt.Errorf("counters of %s: column %d: %w", iface, i+1, err)
			}
			n[i] = v
		}
		return Counters{
			RxBytes: hypervisor.Bytes(n[0]), RxPackets: n[1], RxDropped: n[3],
			TxBytes: hypervisor.Bytes(n[8]), TxPackets: n[9], TxDropped: n[11],
		}, nil
	}
	return Counters{}, fmt.Errorf("counters of %s: no such interface", iface)
}
