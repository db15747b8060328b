package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"drover/hypervisor"
	"drover/test/sim/guest"
	"drover/test/sim/load"
)

// Fleet is what [World.Make] makes: hosts that are alike, and guests spread over them.
type Fleet struct {
	Hosts, VMs int
	Host       HostConfig // Name is set; zero fields take 32 cores, 256 GiB of which 8 are the host's, 10 Gbit/s
	// Fill is the part of the hosts' memory that guests take in all (0.6).
	Fill float64
	// Hot is the part of guests that rewrite memory at a pace that makes pre-copy hard (0.1).
	Hot float64
	// Load is what kind of load guests have (load.Kinds); "" is mixed. Trace is used instead where it has rows.
	Load  string
	Trace []load.Row
	Racks int // hosts are dealt to so many racks; 0 is none
	// Uneven puts a second share of the guests on the first of every so many hosts; 0 spreads them evenly.
	Uneven int
}

func (f Fleet) withDefaults() Fleet {
	if f.Host.Cores == 0 {
		f.Host.Cores = 32
	}
	if f.Host.Memory == 0 {
		f.Host.Memory = 256 * hypervisor.GiB
	}
	if f.Host.Reserved == 0 {
		f.Host.Reserved = f.Host.Memory / 32
	}
	if f.Host.Link == 0 {
		f.Host.Link = 10e9 / 8
	}
	if f.Fill == 0 {
		f.Fill = 0.6
	}
	if f.Hot == 0 {
		f.Hot = 0.1
	}
	if f.Load == "" {
		f.Load = "mixed"
	}
	return f
}

// Make adds a fleet: the same for the same seed, whatever else was added.
func (w *World) Make(f Fleet) error {
	f = f.withDefaults()
	if f.Hosts < 1 || f.VMs < 0 {
		return fmt.Errorf("make a fleet of %d hosts and %d VMs", f.Hosts, f.VMs)
	}
	random := rand.New(rand.NewPCG(w.Seed, 2))
	names := make([]string, f.Hosts)
	for i := range names {
		c := f.Host
		c.Name = fmt.Sprintf("h%03d", i+1)
		if f.Racks > 0 {
			c.Rack = fmt.Sprintf("rack%d", i%f.Racks+1)
		}
		names[i] = c.Name
		if _, err := w.AddHost(c); err != nil {
			return err
		}
	}
	// Sizes in proportion 1, 2, 2, 4, 8, scaled so that all together fill what they are to.
	room := float64(f.Host.Memory-f.Host.Reserved) * float64(f.Hosts) * f.Fill
	sizes, sum := make([]float64, f.VMs), 0.0
	for i := range sizes {
		sizes[i] = []float64{1, 2, 2, 4, 8}[random.IntN(5)]
		sum += sizes[i]
	}
	for i := range sizes {
		memory := hypervisor.Bytes(sizes[i]*room/sum) / (64 * hypervisor.MiB) * (64 * hypervisor.MiB)
		if f.Trace != nil && f.Trace[i%len(f.Trace)].MemoryMiB > 0 {
			memory = hypervisor.Bytes(f.Trace[i%len(f.Trace)].MemoryMiB) * hypervisor.MiB
		}
		c := GuestConfig{Name: fmt.Sprintf("vm%05d", i+1), VCPUs: int(max(1, sizes[i])), Memory: behaviour(random, max(memory, 128*hypervisor.MiB), f.Hot)}
		if f.Trace != nil {
			row := f.Trace[i%len(f.Trace)]
			c.Load = row.Series
			c.VCPUs = max(row.VCPUs, 1)
			if row.VCPUs == 0 {
				c.VCPUs = int(max(1, sizes[i]))
			}
		} else {
			series, err := load.Make(f.Load, w.Seed, i)
			if err != nil {
				return err
			}
			c.Load = series
		}
		host := w.hosts[names[i%f.Hosts]]
		if f.Uneven > 0 && i%3 == 0 {
			host = w.hosts[names[i/3%f.Hosts/f.Uneven*f.Uneven]]
		}
		if host = w.roomFor(host, c.Memory.Total); host == nil {
			return fmt.Errorf("make a fleet: VM %d of %d fits on no host", i+1, f.VMs)
		}
		if _, err := w.AddGuest(host.Name, c); err != nil {
			return err
		}
	}
	return nil
}

// roomFor is the host, or the one with the most room if the guest does not fit there; nil if it fits nowhere.
func (w *World) roomFor(h *Host, need hypervisor.Bytes) *Host {
	free := func(h *Host) hypervisor.Bytes { return h.Memory - h.Reserved - h.committed }
	if free(h) >= need {
		return h
	}
	for _, o := range w.Hosts() {
		if free(o) > free(h) {
			h = o
		}
	}
	if free(h) < need {
		return nil
	}
	return h
}

// behaviour is how a guest writes its memory: most rewrite a little slowly, some hardly any, and hot ones a
// large part fast.
func behaviour(random *rand.Rand, memory hypervisor.Bytes, hot float64) guest.Memory {
	m := guest.Memory{Total: memory, Compression: 1 + 2*random.Float64()}
	m.Used = hypervisor.Bytes((0.4 + 0.6*random.Float64()) * float64(memory))
	part := func(share float64) hypervisor.Bytes {
		return max(hypervisor.Bytes(share*float64(m.Used)), 16*guest.PageSize)
	}
	const mib = float64(hypervisor.MiB)
	rate := func(low, high float64) hypervisor.BytesPerSecond {
		return hypervisor.BytesPerSecond((low + (high-low)*random.Float64()) * mib)
	}
	m.Regions = []guest.Region{guest.Idle()}
	switch x := random.Float64(); {
	case x < hot/2:
		m.Regions = append(m.Regions, guest.Region{Size: part(0.2), Rate: rate(200, 900)})
	case x < hot:
		m.Regions = append(m.Regions, guest.Region{Size: part(0.3), Rate: rate(100, 600), On: 4 * time.Second, Off: 6 * time.Second})
	case x < hot+0.1:
		m.Regions = append(m.Regions, guest.Region{Size: part(0.25), Rate: rate(20, 80), Sweep: true})
	case x < 0.7:
		m.Regions = append(m.Regions,
			guest.Region{Size: part(0.02), Rate: rate(5, 60)}, guest.Region{Size: part(0.2), Rate: rate(0.5, 8)})
	}
	return m
}
