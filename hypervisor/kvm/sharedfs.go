package kvm

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sharedMagic are the file systems that libvirt takes for shared between hosts.
var sharedMagic = map[int64]string{
	0x6969:     "nfs",
	0x01161970: "gfs2",
	0x7461636f: "ocfs2",
	0x5346414f: "afs",
	0x517b:     "smb",
	0xff534d42: "cifs",
	0xfe534d42: "smb2",
	0x00c36400: "ceph",
	0x47504653: "gpfs",
	0x61636673: "acfs",
	0x19830326: "beegfs",
}

const fuseMagic = 0x65735546

// sharedDir returns the judgement whether a path is reachable from other hosts: by the file system
// it lies on, or because the host's libvirt was told so.
func (h *Host) sharedDir() func(path string) bool {
	declared := h.qemuConf.get("shared_filesystems")
	return func(path string) bool { return isShared(path, declared, h.cfg.ProcRoot) }
}

func isShared(path string, declared []string, procRoot string) bool {
	path = filepath.Clean(path)
	for _, dir := range declared {
		dir = filepath.Clean(dir)
		if path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	// The file itself may not exist yet, or be gone: its directory tells as well.
	for p := path; ; p = filepath.Dir(p) {
		var fs unix.Statfs_t
		err := unix.Statfs(p, &fs)
		if err == nil {
			magic := int64(uint32(fs.Type))
			if magic == fuseMagic {
				return sharedFuse(procfs{root: procRoot}, p)
			}
			return sharedMagic[magic] != ""
		}
		if p == "/" || p == "." {
			return false
		}
	}
}

// sharedFuse tells the cluster file systems among those in user space by the mount's type.
func sharedFuse(proc procfs, path string) bool {
	mounts, err := proc.mounts()
	if err != nil {
		return false
	}
	best, kind := "", ""
	for _, m := range mounts {
		inside := path == m.dir || m.dir == "/" || strings.HasPrefix(path, m.dir+"/")
		if inside && len(m.dir) >= len(best) {
			best, kind = m.dir, m.kind
		}
	}
	return kind == "fuse.glusterfs" || kind == "fuse.quobyte"
}
