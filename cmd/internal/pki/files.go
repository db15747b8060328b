package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// tempPrefix marks what an interrupted write may leave; nothing reads it.
const tempPrefix = ".new-"

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// createDir makes path with the given files and links, whole or not at all; [ErrExists] when it is there.
func createDir(path string, files []file, links map[string]string) error {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	tmp, err := os.MkdirTemp(parent, tempPrefix)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer os.RemoveAll(tmp) // after the rename there is nothing under this name
	for _, f := range files {
		f.name = filepath.Join(tmp, f.name)
		if err := writeFile(f); err != nil {
			return fmt.Errorf("create %s: %w", path, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(tmp, name)); err != nil {
			return fmt.Errorf("create %s: %w", path, err)
		}
	}
	// rename(2) takes the place of an empty directory but never of one with files in it.
	err = os.Rename(tmp, path)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("create %s: %w", path, ErrExists)
	} else if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return syncDir(parent)
}

// replaceFile changes a file's content in one step; a crash leaves the old or the new content.
func replaceFile(f file) error {
	tmp := f
	tmp.name = filepath.Join(filepath.Dir(f.name), tempPrefix+filepath.Base(f.name))
	// Left by an interrupted replacement; nothing reads it.
	if err := os.Remove(tmp.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace %s: %w", f.name, err)
	}
	if err := writeFile(tmp); err != nil {
		return fmt.Errorf("replace %s: %w", f.name, err)
	}
	if err := os.Rename(tmp.name, f.name); err != nil {
		return fmt.Errorf("replace %s: %w", f.name, err)
	}
	return syncDir(filepath.Dir(f.name))
}

// writeFile creates f and puts it on stable storage; it fails when the name is taken.
func writeFile(f file) error {
	w, err := os.OpenFile(f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
	if err != nil {
		return err
	}
	_, err = w.Write(f.data)
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: no PEM block of type %s", path, kind)
	}
	return block.Bytes, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an ECDSA key", path)
	}
	return ec, nil
}
