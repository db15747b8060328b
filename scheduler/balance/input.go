package balance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"

	"drover/hypervisor"
)

// Input is the planner's input as a document, which "drover snapshot" writes. Its names are a contract
// with outside tools; names that are not known are ignored.
type Input struct {
	Hosts        []InputHost  `json:"hosts"`
	VMs          []InputVM    `json:"vms"`
	AntiAffinity []InputGroup `json:"anti_affinity,omitempty"`
	Affinity     []InputGroup `json:"affinity,omitempty"`
	Drain        []string     `json:"drain,omitempty"` // hosts to be emptied
}

// InputHost is one host.
type InputHost struct {
	Name        string            `json:"name"`
	Cores       float64           `json:"cores"`
	MemMiB      float64           `json:"mem_mib"`
	ReservedMiB float64           `json:"reserved_mib"` // the host's own
	NetGbit     float64           `json:"net_gbit"`
	VCPUs       int               `json:"vcpus,omitempty"` // that its VMs may have together; 0: no limit
	Cordoned    bool              `json:"cordoned"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// InputVM is one VM.
type InputVM struct {
	Name      string            `json:"name"`
	UUID      string            `json:"uuid"`
	Host      string            `json:"host"`
	VCPUs     int               `json:"vcpus"`
	MemMiB    float64           `json:"mem_mib"`
	CPULoad   float64           `json:"cpu_load"`           // cores in use
	CPUPeak   float64           `json:"cpu_peak,omitempty"` // 95th percentile of it; 0: not known
	DirtyMiBs float64           `json:"dirty_mib_s"`
	NetMiBs   float64           `json:"net_mib_s"`
	DiskGiB   float64           `json:"disk_gib"`
	Pinned    bool              `json:"pinned"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// InputGroup is a rule about VMs; it is required unless it says that it is not.
type InputGroup struct {
	Name     string   `json:"name"`
	VMs      []string `json:"vms"`
	Required *bool    `json:"required,omitempty"`
}

// defaultLink is reckoned with where the speed of a host's link is not given.
const defaultLink = 1.0 // Gbit/s

// ReadInput reads a document. Errors wrap ErrProblem and say where.
func ReadInput(r io.Reader) (*Input, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	// A VM takes about 160 bytes of text: growing the list of thousands step by step would take as long as reading.
	in := Input{VMs: make([]InputVM, 0, min(len(data)/160, 100_000))}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProblem, located(err, data))
	}
	if in.Hosts == nil {
		return nil, fmt.Errorf("%w: it has no \"hosts\"", ErrProblem)
	}
	return &in, nil
}

// located says in which line of the data decoding failed, and of a value of another kind what it is.
func located(err error, data []byte) error {
	line := func(offset int64) int { return 1 + bytes.Count(data[:min(int(offset), len(data))], []byte{'\n'}) }
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("line %d: %w", line(syntax.Offset), err)
	}
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return err
	}
	want := map[reflect.Kind]string{
		reflect.Slice: "a list", reflect.Map: "an object", reflect.Struct: "an object", reflect.String: "a string",
		reflect.Bool: "true or false", reflect.Float64: "a number", reflect.Int: "a whole number",
	}[kind.Type.Kind()]
	where := kind.Field
	if where != "" {
		where += ": "
	}
	return fmt.Errorf("line %d: %s%s where %s is expected", line(kind.Offset), where, kind.Value, want)
}

// Problem returns what the document says, checked. Errors wrap ErrProblem and name what is wrong.
func (in *Input) Problem() (*Problem, error) {
	p := &Problem{Hosts: make([]Host, 0, len(in.Hosts)), VMs: make([]VM, 0, len(in.VMs))}
	hosts := make(map[string]int, len(in.Hosts))
	for i, h := range in.Hosts {
		hosts[h.Name] = i
		link := h.NetGbit
		if link == 0 {
			link = defaultLink
		}
		var bad error
		number := func(what string, x, unit float64) float64 {
			y, err := quantity(x, unit)
			if err != nil && bad == nil {
				bad = fmt.Errorf("%w: host %s: %s %v: %w", ErrProblem, h.Name, what, x, err)
			}
			return y
		}
		p.Hosts = append(p.Hosts, Host{
			Name: h.Name, Cores: hypervisor.Cores(number("cores", h.Cores, 1)),
			Memory:   hypervisor.Bytes(number("mem_mib", h.MemMiB, mib)),
			Reserved: hypervisor.Bytes(number("reserved_mib", h.ReservedMiB, mib)),
			Link:     hypervisor.BytesPerSecond(number("net_gbit", link, 1e9/8)), Cordoned: h.Cordoned, VCPUs: h.VCPUs,
		})
		if bad != nil {
			return nil, bad
		}
	}
	names := make(map[string]int, len(in.VMs))
	ids := make(map[string]string, len(in.VMs))
	for i, v := range in.VMs {
		at, ok := hosts[v.Host]
		if !ok {
			return nil, fmt.Errorf("%w: VM %s is on %q, which is not among the hosts", ErrProblem, v.Name, v.Host)
		}
		if _, twice := names[v.Name]; twice {
			names[v.Name] = -1
		} else {
			names[v.Name] = i
		}
		if other, twice := ids[v.UUID]; twice && v.UUID != "" {
			return nil, fmt.Errorf("%w: VMs %s and %s have the same uuid %s", ErrProblem, other, v.Name, v.UUID)
		}
		if v.UUID != "" {
			names[v.UUID], ids[v.UUID] = i, v.Name
		}
		var bad error
		number := func(what string, x, unit float64) float64 {
			y, err := quantity(x, unit)
			if err != nil && bad == nil {
				bad = fmt.Errorf("%w: VM %s: %s %v: %w", ErrProblem, v.Name, what, x, err)
			}
			return y
		}
		p.VMs = append(p.VMs, VM{
			Name: v.Name, UUID: v.UUID, Host: at, VCPUs: v.VCPUs, Pinned: v.Pinned,
			Memory: hypervisor.Bytes(number("mem_mib", v.MemMiB, mib)),
			Mean: Load{
				CPU: hypervisor.Cores(number("cpu_load", v.CPULoad, 1)),
				Net: hypervisor.BytesPerSecond(number("net_mib_s", v.NetMiBs, mib)),
			},
			Peak:  Load{CPU: hypervisor.Cores(number("cpu_peak", v.CPUPeak, 1))},
			Dirty: hypervisor.BytesPerSecond(number("dirty_mib_s", v.DirtyMiBs, mib)),
		})
		if bad != nil {
			return nil, bad
		}
	}
	for _, name := range in.Drain {
		h, ok := hosts[name]
		if !ok {
			return nil, fmt.Errorf("%w: drain: no host is called %q", ErrProblem, name)
		}
		p.Hosts[h].Draining = true
	}
	for _, kind := range []struct {
		what   string
		groups []InputGroup
		apart  bool
	}{{"anti_affinity", in.AntiAffinity, true}, {"affinity", in.Affinity, false}} {
		for _, g := range kind.groups {
			out := Group{Name: g.Name, Apart: kind.apart, Required: g.Required == nil || *g.Required}
			for _, name := range g.VMs {
				i, ok := names[name]
				if !ok {
					return nil, fmt.Errorf("%w: %s group %s: no VM is called %q", ErrProblem, kind.what, g.Name, name)
				}
				if i < 0 {
					return nil, fmt.Errorf("%w: %s group %s: several VMs are called %s: name it by its uuid", ErrProblem, kind.what, g.Name, name)
				}
				out.VMs = append(out.VMs, i)
			}
			p.Groups = append(p.Groups, out)
		}
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if all := p.contradictions(); len(all) > 0 {
		c := all[0]
		return nil, fmt.Errorf("%w: VMs %s and %s have to be apart (anti_affinity group %s) and together (affinity)", ErrProblem, p.VMs[c.a].Name, p.VMs[c.b].Name, c.group)
	}
	return p, nil
}

// quantity is x units as a number that fits an int64.
func quantity(x, unit float64) (float64, error) {
	switch y := x * unit; {
	case math.IsNaN(x) || x < 0:
		return 0, errors.New("want 0 or more")
	case y > 1<<56:
		return 0, errors.New("too much to be true")
	default:
		return y, nil
	}
}
