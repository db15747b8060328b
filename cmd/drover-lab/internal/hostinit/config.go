package hostinit

import (
	"io/fs"

	"drover/cmd/drover-lab/internal/cgroup"
)

// File descriptors that stage one is started with.
const (
	fdConfig = 3 // read end: the configuration, then end of file
	fdSocket = 4 // listening control socket
	fdReady  = 5 // write end: one [ready] as JSON once the host is set up, or why it is not
)

// configEnv carries the configuration from stage one to stage two.
const configEnv = "DROVER_LAB_INIT"

// Config is what makes a host out of a bare set of namespaces.
type Config struct {
	Hostname string `json:"hostname"`
	// Overlays are directories of which the host has a private, writable copy.
	Overlays []Overlay `json:"overlays,omitempty"`
	// Tmpfs are directories that are empty at each start of the host.
	Tmpfs []string `json:"tmpfs,omitempty"`
	// Binds put private directories over shared ones; targets are made if missing.
	Binds []Bind `json:"binds,omitempty"`
	Files []File `json:"files,omitempty"`
	Links []Link `json:"links,omitempty"`
	// Cgroups is mounted under a fresh /sys.
	Cgroups []cgroup.Mount `json:"cgroups,omitempty"`
	// V2Leaf moves the first process into the leaf "init" once its cgroup namespace is made.
	V2Leaf bool `json:"v2_leaf,omitempty"`
	// LogDir takes the output of daemons, one file each.
	LogDir  string   `json:"log_dir"`
	Daemons []Daemon `json:"daemons,omitempty"`
}

// Overlay is a private copy of Dir, kept in Upper; Work is scratch space on the same file system.
type Overlay struct {
	Dir   string `json:"dir"`
	Upper string `json:"upper"`
	Work  string `json:"work"`
}

// Bind shows Source at Target.
type Bind struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// File is written at each start of the host, in its private mounts.
type File struct {
	Path    string      `json:"path"`
	Content string      `json:"content"`
	Mode    fs.FileMode `json:"mode"`
}

// Link is a symbolic link made at each start of the host.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Daemon is a supervised process.
type Daemon struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"` // Argv[0] is an absolute path
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	// Restart starts it again a second after it dies, as systemd would.
	Restart bool `json:"restart,omitempty"`
}

// Status is a daemon as `ps` shows it.
type Status struct {
	Name     string   `json:"name"`
	PID      int      `json:"pid,omitempty"` // inside the host; 0 when it is not running
	Running  bool     `json:"running"`
	Restart  bool     `json:"restart"`
	Restarts int      `json:"restarts"`
	Exit     string   `json:"exit,omitempty"` // how it last ended
	Argv     []string `json:"argv"`
	Log      string   `json:"log"`
}

// ready is the last word of a host's start.
type ready struct {
	Error string `json:"error,omitempty"`
}
