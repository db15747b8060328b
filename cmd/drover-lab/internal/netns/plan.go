package netns

import (
	"fmt"
	"net/netip"
	"strings"

	"drover/hypervisor"
)

// Network is one of a lab's two networks.
type Network struct {
	Name   string
	Bridge string // in the control host
	Iface  string // in each host
	prefix netip.Prefix
}

// The lab's networks.
var (
	Mgmt      = Network{Name: "mgmt", Bridge: "br-mgmt", Iface: "mgmt0", prefix: netip.MustParsePrefix("10.77.0.0/24")}
	Migration = Network{Name: "migration", Bridge: "br-mig", Iface: "mig0", prefix: netip.MustParsePrefix("10.78.0.0/24")}
)

// Networks lists both networks.
func Networks() []Network { return []Network{Mgmt, Migration} }

// firstHost is the last octet of host number 1 less one; lower ones are the control host's.
const firstHost = 10

// MaxHosts is how many hosts fit the address plan; far above what one machine can run.
const MaxHosts = 99

// Addr is the address of host number n, 1 and up; 0 is the control host.
func (n Network) Addr(host int) netip.Addr {
	a := n.prefix.Addr().As4()
	a[3] = 1
	if host > 0 {
		a[3] = byte(firstHost + host)
	}
	return netip.AddrFrom4(a)
}

// Port is the name of a host's end in the control host's namespace; at most 15 characters as the kernel wants.
func (n Network) Port(host string) string {
	if n.Name == Mgmt.Name {
		return host + "-mgmt"
	}
	return host + "-mig"
}

// HostsFile returns what /etc/hosts says in every host of a lab: mgmt addresses under the plain name,
// migration addresses under NAME-mig.
func HostsFile(hosts []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	fmt.Fprintf(&b, "%s control\n", Mgmt.Addr(0))
	for i, h := range hosts {
		fmt.Fprintf(&b, "%s %s\n%s %s-mig\n", Mgmt.Addr(i+1), h, Migration.Addr(i+1), h)
	}
	return b.String()
}

// controlBatch is what ip(8) does once in the control host.
func controlBatch() string {
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, n := range Networks() {
		fmt.Fprintf(&b, "link add %s type bridge forward_delay 0 stp_state 0\n", n.Bridge)
		fmt.Fprintf(&b, "addr add %s/%d dev %s\n", n.Addr(0), n.prefix.Bits(), n.Bridge)
		fmt.Fprintf(&b, "link set %s up\n", n.Bridge)
	}
	return b.String()
}

// attachBatch is what ip(8) does in the control host to give the host whose first process is pid its interfaces.
func attachBatch(host string, pid int) string {
	var b strings.Builder
	for _, n := range Networks() {
		fmt.Fprintf(&b, "link add %s mtu 1500 type veth peer name %s mtu 1500 netns %d\n", n.Port(host), n.Iface, pid)
		fmt.Fprintf(&b, "link set %s master %s up\n", n.Port(host), n.Bridge)
	}
	return b.String()
}

// hostBatch is what ip(8) does in host number num.
func hostBatch(num int) string {
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, n := range Networks() {
		fmt.Fprintf(&b, "addr add %s/%d dev %s\n", n.Addr(num), n.prefix.Bits(), n.Iface)
		fmt.Fprintf(&b, "link set %s up\n", n.Iface)
	}
	return b.String()
}

// minBurst lets a queue pass whole offloaded segments (64 KiB) at any rate.
const minBurst = 512 * hypervisor.KiB

// shapeBatch is what tc(8) does on one end of a pair; a rate of zero removes the limit.
func shapeBatch(iface string, rate hypervisor.BytesPerSecond) string {
	if rate <= 0 {
		return fmt.Sprintf("qdisc del dev %s root\n", iface)
	}
	// A token bucket is filled at timer ticks: it must hold what passes in one (4 ms at 250 Hz), with room.
	burst := max(minBurst, hypervisor.Bytes(rate/100))
	return fmt.Sprintf("qdisc replace dev %s root tbf rate %dbit burst %d latency 100ms\n", iface, int64(rate)*8, int64(burst))
}
