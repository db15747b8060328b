package embed

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	etcdembed "go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"drover/hypervisor"
	"drover/store/zapslog"
)

// Errors that callers branch on.
var (
	// ErrConfig: the configuration can't work.
	ErrConfig = errors.New("embedded etcd configuration")
	// ErrDirNotWritable: the data directory can't be made or written to.
	ErrDirNotWritable = errors.New("data directory is not writable")
	// ErrDirLocked: another process runs a store in the directory.
	ErrDirLocked = errors.New("data directory is in use by another process")
	// ErrAddressInUse: something listens on the address already.
	ErrAddressInUse = errors.New("address is in use")
	// ErrDiskFull: there is too little room on the data directory's disk.
	ErrDiskFull = errors.New("too little disk space")
	// ErrFatal: etcd met a fault that it can't survive.
	ErrFatal = errors.New("embedded etcd failed")
)

// DefaultQuota is the size at which the store takes no more writes.
const DefaultQuota = 2 * hypervisor.GiB

// Config says where the server keeps its data and where it listens. Dir and ListenURL are required.
type Config struct {
	Dir string
	// ListenURL is https://ADDRESS:PORT; http:// only with Insecure. Port 0 takes a free one.
	ListenURL string
	// AdvertiseURL is how clients on other hosts reach the server; empty means the listen address.
	AdvertiseURL string
	// CA, Cert and Key are PEM files. A client must show a certificate that CA has signed.
	CA   string
	Cert string
	Key  string
	// Insecure allows http://: whoever reaches the port rules the fleet.
	Insecure bool
	// Name is the member's name; empty means "drover".
	Name string
	// Quota bounds the store's file; 0 means DefaultQuota.
	Quota hypervisor.Bytes
	// Retention is how much history is kept for watchers that were away, one to two times this; 0 means
	// 1 min. All of it is on disk, with an index in memory, and a large fleet writes gigabytes an hour,
	// while a watcher that was away for longer reads the present state anew, which is little.
	Retention time.Duration
	// DefragInterval is how often the file is looked at for holes; 0 means 24 h.
	DefragInterval time.Duration
	// NoSync leaves out fsync: for tests only, a crash then loses data.
	NoSync bool
	// Log gets what etcd logs at warn and above; nil discards it.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "drover"
	}
	if c.Quota <= 0 {
		c.Quota = DefaultQuota
	}
	if c.Retention <= 0 {
		c.Retention = time.Minute
	}
	if c.DefragInterval <= 0 {
		c.DefragInterval = 24 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// check returns all faults of the configuration at once.
func (c Config) check() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no data directory"))
	}
	u, err := url.Parse(c.ListenURL)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("listen URL: %w", err))
	case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "":
		errs = append(errs, fmt.Errorf("listen URL %q: want https://ADDRESS:PORT", c.ListenURL))
	case u.Scheme == "http" && !c.Insecure:
		errs = append(errs, fmt.Errorf("listen URL %q: plain text needs --insecure; use https://", c.ListenURL))
	case u.Scheme == "https":
		for name, file := range map[string]string{"CA": c.CA, "certificate": c.Cert, "key": c.Key} {
			if file == "" {
				errs = append(errs, fmt.Errorf("%s: required for https", name))
			} else if _, err := os.Stat(file); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", ErrConfig, errors.Join(errs...))
	}
	return nil
}

// etcd returns etcd's configuration. The hook gets etcd's fatal entries.
func (c Config) etcd(hook fatalHook, level slog.Leveler) (*etcdembed.Config, error) {
	listen, err := url.Parse(c.ListenURL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	advertise := listen
	if c.AdvertiseURL != "" {
		if advertise, err = url.Parse(c.AdvertiseURL); err != nil {
			return nil, fmt.Errorf("%w: advertise URL: %w", ErrConfig, err)
		}
	}
	// A lone member never talks to its peer address: it is only part of its identity.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}

	e := etcdembed.NewConfig()
	e.Name = c.Name
	e.Dir = c.Dir
	e.ListenPeerUrls = nil
	e.AdvertisePeerUrls = []url.URL{peer}
	e.ListenClientUrls = []url.URL{*listen}
	e.AdvertiseClientUrls = []url.URL{*advertise}
	e.InitialCluster = c.Name + "=" + peer.String()
	e.InitialClusterToken = "drover"
	if listen.Scheme == "https" {
		e.ClientTLSInfo = transport.TLSInfo{
			CertFile: c.Cert, KeyFile: c.Key, TrustedCAFile: c.CA, ClientCertAuth: true,
		}
	}
	e.QuotaBackendBytes = int64(c.Quota)
	// The raft log is held in memory until the next snapshot: the default of 10,000 entries would be
	// tens of MiB of reports. There is no follower that could need the entries after it.
	e.SnapshotCount, e.SnapshotCatchUpEntries = 250, 50
	e.AutoCompactionMode = etcdembed.CompactorModePeriodic
	e.AutoCompactionRetention = c.Retention.String()
	e.BootstrapDefragThresholdMegabytes = uint(defragMinimum / hypervisor.MiB)
	e.WatchProgressNotifyInterval = 10 * time.Second
	e.EnableGRPCGateway = false
	e.UnsafeNoFsync = c.NoSync
	e.ZapLoggerBuilder = etcdembed.NewZapLoggerBuilder(zapslog.New(
		c.Log.With("component", "etcd"), level, zap.WithFatalHook(hook), zap.WithPanicHook(hook)))
	return e, nil
}

// lockDir makes the directory ready and takes it for this process; the lock goes with the file.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirNotWritable, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "drover.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirNotWritable, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrDirLocked, dir)
		}
		return nil, fmt.Errorf("%w: lock: %w", ErrDirNotWritable, err)
	}
	if err := checkRoom(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// checkRoom refuses to start where etcd's first write would fail: it allots its log in pieces of
// 64 MB.
func checkRoom(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%w: %w", ErrDirNotWritable, err)
	}
	free := hypervisor.Bytes(st.Bavail) * hypervisor.Bytes(st.Bsize)
	need := 160 * hypervisor.MiB
	if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
		need = 16 * hypervisor.MiB
	}
	if free < need {
		return fmt.Errorf("%w: %s has %s free, the store needs %s", ErrDiskFull, dir, free, need)
	}
	return nil
}
