package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"drover/hypervisor"
)

// Where labs keep their state, and their bulky files unless told otherwise.
const (
	RunRoot    = "/run/drover-lab"
	DefaultDir = "/var/tmp/drover-lab"
)

// Control is the host that bridges the others and where schedulers, etcd and the command line run; it has no libvirtd.
const Control = "control"

// Errors that callers branch on.
var (
	// ErrNoLab says that no lab of that name is up.
	ErrNoLab = errors.New("no such lab is up")
	// ErrNotFound says that the lab has no host or guest of that name.
	ErrNotFound = errors.New("not found")
	// ErrName says that a lab or guest name is unusable.
	ErrName = errors.New("unusable name")
)

// Lab is what was asked of `up`, and whether it got there.
type Lab struct {
	Name    string                    `json:"name"`
	Dir     string                    `json:"dir"`   // bulky files: PKI, disks, logs
	Cache   string                    `json:"cache"` // kernel and initramfs, shared by labs
	Hosts   []string                  `json:"hosts"` // without the control host
	CPUs    hypervisor.Cores          `json:"cpus,omitempty"`
	Memory  hypervisor.Bytes          `json:"memory,omitempty"`
	Shape   hypervisor.BytesPerSecond `json:"shape,omitempty"`
	Boot    string                    `json:"boot"`  // boot of the machine the lab belongs to
	Ready   bool                      `json:"ready"` // false while `up` is at work, and for ever if it was killed
	Created time.Time                 `json:"created"`
}

// Host is what is known of one host, the control host included.
type Host struct {
	Name  string                    `json:"name"`
	Init  Proc                      `json:"init"` // first process of its namespaces; zero when the host was killed
	Shape hypervisor.BytesPerSecond `json:"shape,omitempty"`
	Cut   []string                  `json:"cut,omitempty"` // networks that are cut off
}

// Store reads and writes one lab's state. It may be used concurrently by several processes; those that change the
// lab must hold the lock.
type Store struct {
	name string
	root string
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?$`)

// CheckName accepts names that serve as directory, cgroup, host and domain names alike.
func CheckName(kind, name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("%s %q: 1 to 31 lower-case letters, digits and dashes: %w", kind, name, ErrName)
	}
	return nil
}

// Open returns the store of the lab with that name, whether it is up or not.
func Open(name string) (*Store, error) {
	if err := CheckName("lab", name); err != nil {
		return nil, err
	}
	return &Store{name: name, root: filepath.Join(RunRoot, name)}, nil
}

// OpenAt is [Open] with another root directory than RunRoot.
func OpenAt(root, name string) (*Store, error) {
	s, err := Open(name)
	if err == nil {
		s.root = filepath.Join(root, name)
	}
	return s, err
}

// Name is the lab's name.
func (s *Store) Name() string { return s.name }

// Socket is where a host's first process takes requests.
func (s *Store) Socket(host string) string { return filepath.Join(s.root, host+".sock") }

// Lab returns the lab's record; [ErrNoLab] when there is none. It may be of an earlier boot or half made: see [Store.Up].
func (s *Store) Lab() (Lab, error) {
	var l Lab
	err := s.read("lab.json", &l)
	if errors.Is(err, fs.ErrNotExist) {
		return Lab{}, fmt.Errorf("lab %s: %w", s.name, ErrNoLab)
	} else if err != nil {
		return Lab{}, fmt.Errorf("lab %s: %w", s.name, err)
	}
	return l, nil
}

// Up returns the record of a lab that is up and whole; [ErrNoLab] otherwise.
func (s *Store) Up() (Lab, error) {
	l, err := s.Lab()
	if err != nil {
		return Lab{}, err
	}
	if !l.Ready || l.Boot != bootID() {
		return Lab{}, fmt.Errorf("lab %s: being made, or left half made (then run down, or up again): %w", s.name, ErrNoLab)
	}
	return l, nil
}

// PutLab stores the lab's record and marks it as of this boot.
func (s *Store) PutLab(l Lab) error {
	l.Boot = bootID()
	return s.write("lab.json", l)
}

// Host returns a host's record; [ErrNotFound] when there is none. A process of an earlier boot comes back as zero.
func (s *Store) Host(name string) (Host, error) {
	var h Host
	err := s.read("host-"+name+".json", &h)
	if errors.Is(err, fs.ErrNotExist) {
		return Host{}, fmt.Errorf("host %s: %w", name, ErrNotFound)
	} else if err != nil {
		return Host{}, fmt.Errorf("host %s: %w", name, err)
	}
	if l, err := s.Lab(); err == nil && l.Boot != bootID() {
		h.Init = Proc{}
	}
	return h, nil
}

// PutHost stores a host's record.
func (s *Store) PutHost(h Host) error { return s.write("host-"+h.Name+".json", h) }

// HostNames lists the recorded hosts, the control host included, sorted.
func (s *Store) HostNames() ([]string, error) { return s.names("host-") }

// Guest reads the record of a guest into v; [ErrNotFound] when there is none.
func (s *Store) Guest(name string, v any) error {
	err := s.read("guest-"+name+".json", v)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guest %s: %w", name, ErrNotFound)
	}
	return err
}

// PutGuest stores the record of a guest.
func (s *Store) PutGuest(name string, v any) error { return s.write("guest-"+name+".json", v) }

// DropGuest forgets a guest; one that is not known is no error.
func (s *Store) DropGuest(name string) error {
	if err := os.Remove(filepath.Join(s.root, "guest-"+name+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guest %s: forget: %w", name, err)
	}
	return nil
}

// GuestNames lists the recorded guests, sorted.
func (s *Store) GuestNames() ([]string, error) { return s.names("guest-") }

// Remove deletes all state of the lab, and the root when no other lab uses it.
func (s *Store) Remove() error {
	if err := os.RemoveAll(s.root); err != nil {
		return fmt.Errorf("lab %s: remove state: %w", s.name, err)
	}
	// Fails while another lab is up, which is the intent.
	_ = os.Remove(filepath.Dir(s.root))
	return nil
}

func (s *Store) names(prefix string) ([]string, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w", s.name, err)
	}
	var names []string
	for _, e := range entries {
		n, isOurs := strings.CutPrefix(e.Name(), prefix)
		n, isJSON := strings.CutSuffix(n, ".json")
		if isOurs && isJSON {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names, nil
}

func (s *Store) read(name string, v any) error {
	data, err := os.ReadFile(filepath.Join(s.root, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (s *Store) write(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// No fsync: the state is worthless after a reboot.
	tmp := filepath.Join(s.root, fmt.Sprintf(".%s.%d", name, os.Getpid()))
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(tmp, filepath.Join(s.root, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Clear forgets everything of the lab but keeps the directory and its lock, which the caller holds.
func (s *Store) Clear() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("lab %s: clear state: %w", s.name, err)
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.root, e.Name())); err != nil {
			return fmt.Errorf("lab %s: clear state: %w", s.name, err)
		}
	}
	return nil
}
