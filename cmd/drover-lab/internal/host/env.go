package host

import (
	"fmt"
	"strings"

	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

// Env is what programs that run in the lab need to know. All paths are the same in every host.
type Env struct {
	Lab    string    `json:"lab"`
	Dir    string    `json:"dir"`
	PKI    string    `json:"pki"`
	CA     string    `json:"ca"`
	Admin  string    `json:"admin"`  // directory of the administrator's certificate
	Viewer string    `json:"viewer"` // and of one who may only look
	Shared string    `json:"shared"`
	Logs   string    `json:"logs"`
	Hosts  []HostEnv `json:"hosts"` // the control host comes first
}

// HostEnv is one host's part of [Env].
type HostEnv struct {
	Name          string                    `json:"name"`
	State         string                    `json:"state"` // running or down
	PID           int                       `json:"pid,omitempty"`
	UUID          string                    `json:"uuid,omitempty"`
	URI           string                    `json:"uri,omitempty"` // how other hosts reach its libvirtd
	MgmtAddr      string                    `json:"mgmt_address"`
	MigrationAddr string                    `json:"migration_address"`
	PKI           string                    `json:"pki"` // ca-cert.pem, cert.pem, key.pem and libvirt's names for them
	Logs          string                    `json:"logs"`
	Images        string                    `json:"images,omitempty"` // its private disks, seen from outside
	CPUs          hypervisor.Cores          `json:"cpus,omitempty"`
	Memory        hypervisor.Bytes          `json:"memory,omitempty"`
	Shape         hypervisor.BytesPerSecond `json:"shape_bytes_per_second,omitempty"`
	Limit         string                    `json:"shape"`
	Cut           []string                  `json:"cut,omitempty"`
}

// CutText names the networks the host is cut off from, or says none.
func (h HostEnv) CutText() string {
	if len(h.Cut) == 0 {
		return "-"
	}
	return strings.Join(h.Cut, ",")
}

// Env describes a lab that is up.
func (m *Manager) Env() (Env, error) {
	l, err := m.store.Up()
	if err != nil {
		return Env{}, err
	}
	p := PathsOf(l)
	e := Env{
		Lab: l.Name, Dir: l.Dir, PKI: p.PKI, CA: p.PKI + "/ca/ca-cert.pem",
		Admin: p.Admin(), Viewer: p.Viewer(), Shared: p.Shared, Logs: p.Logs,
	}
	for _, name := range append([]string{state.Control}, l.Hosts...) {
		h, err := m.HostEnv(name)
		if err != nil {
			return e, err
		}
		e.Hosts = append(e.Hosts, h)
	}
	return e, nil
}

// HostEnv describes one host; [state.ErrNotFound] when the lab has none of that name.
func (m *Manager) HostEnv(name string) (HostEnv, error) {
	l, err := m.store.Up()
	if err != nil {
		return HostEnv{}, err
	}
	rec, err := m.store.Host(name)
	if err != nil {
		return HostEnv{}, err
	}
	p, num := PathsOf(l), number(l, name)
	e := HostEnv{
		Name: name, State: "down", PKI: p.Identity(name), Logs: p.Logs + "/" + name,
		MgmtAddr: netns.Mgmt.Addr(num).String(), MigrationAddr: netns.Migration.Addr(num).String(),
		Shape: rec.Shape, Limit: "none", Cut: rec.Cut,
	}
	if rec.Shape > 0 {
		e.Limit = fmt.Sprintf("%gmbit", rec.Shape.Mbit())
	}
	if rec.Init.Alive() {
		e.State, e.PID = "running", rec.Init.PID
	}
	if num > 0 {
		e.URI, e.UUID, e.Images = URI(name), HostUUID(l.Name, name).String(), p.PrivateImages(name)
		e.CPUs, e.Memory = l.CPUs, l.Memory
	}
	return e, nil
}
