package guest

import (
	"fmt"
	"io"
)

// cpioFile is one regular file of an initramfs, at the root.
type cpioFile struct {
	name string
	data []byte
}

// writeCPIO writes an archive in the kernel's "newc" format. Same files, same bytes: no times, no owners.
func writeCPIO(w io.Writer, files []cpioFile) error {
	for i, f := range append(files, cpioFile{name: "TRAILER!!!"}) {
		mode := 0o100755
		if i == len(files) {
			mode = 0
		}
		// magic, inode, mode, uid, gid, links, mtime, size, device x2, rdevice x2, name length, checksum
		header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			i+1, mode, 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(f.name)+1, 0)
		if err := writePadded(w, append([]byte(header+f.name), 0)); err != nil {
			return err
		}
		if err := writePadded(w, f.data); err != nil {
			return err
		}
	}
	return nil
}

// writePadded writes data up to the next multiple of four bytes.
func writePadded(w io.Writer, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, -len(data)&3))
	return err
}
