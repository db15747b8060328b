package store

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"drover/store/kv"
)

// A backup is JSON lines in gzip: a head, a line for each key, and a tail that proves that it is
// whole. It holds keys and values, not etcd's files: it goes from an embedded store to a cluster, and
// from one version of etcd to another.

// Errors about backups.
var (
	// ErrBadBackup: the file is no backup, or not a whole one.
	ErrBadBackup = errors.New("not a whole drover backup")
	// ErrNotEmpty: the store that a backup is to go into has records already.
	ErrNotEmpty = errors.New("the store is not empty")
)

const backupFormat = 1

type backupHead struct {
	Format   int       `json:"drover_backup"`
	Revision int64     `json:"revision"`
	Taken    time.Time `json:"taken"`
}

type backupLine struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

type backupTail struct {
	Keys   int    `json:"keys"`
	SHA256 string `json:"sha256"` // of the lines between
}

// Backup writes all records to w, as of one revision, and returns how many. What stands under a lease
// is left out: sessions, reports, questions and leadership are of the moment.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int, error) {
	entries, rev, err := s.kv.List(ctx, Root)
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	zw := gzip.NewWriter(w)
	if err := json.NewEncoder(zw).Encode(backupHead{backupFormat, rev, time.Now().UTC()}); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	sum := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(zw, sum))
	tail := backupTail{}
	for _, e := range entries {
		if e.Lease != 0 {
			continue
		}
		if err := enc.Encode(backupLine{e.Key, e.Value}); err != nil {
			return 0, fmt.Errorf("backup: %w", err)
		}
		tail.Keys++
	}
	tail.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := errors.Join(json.NewEncoder(zw).Encode(tail), zw.Close()); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	return tail.Keys, nil
}

// Restore reads a whole backup, checks it, and writes its records into a store that has none of
// drover's; it returns how many. Agents register anew afterwards by themselves. A restore that was cut
// short leaves a store that is not empty: begin with a new one.
func (s *Store) Restore(ctx context.Context, r io.Reader) (int, error) {
	lines, err := readBackup(r)
	if err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	there, _, err := s.kv.List(ctx, Root)
	if err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	for _, e := range there {
		if e.Lease == 0 {
			return 0, fmt.Errorf("restore: %w: it has %s", ErrNotEmpty, e.Key)
		}
	}
	for rest := lines; len(rest) > 0; {
		var ops []kv.Op
		size := 0
		for len(rest) > 0 && len(ops) < kv.MaxOps/2 && (len(ops) == 0 || size+len(rest[0].Value) < kv.MaxValue/2) {
			ops = append(ops, kv.Put(rest[0].Key, rest[0].Value))
			size += len(rest[0].Value)
			rest = rest[1:]
		}
		// The same values again do no harm, so a lost answer is no matter.
		err := decide(ctx, "restore", func(bool) (bool, error) {
			_, _, err := s.kv.Txn(ctx, nil, ops)
			return err == nil, err
		})
		if err != nil {
			return 0, err
		}
	}
	return len(lines), nil
}

// readBackup reads a backup and proves that it is whole.
func readBackup(r io.Reader) ([]backupLine, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	in := bufio.NewReader(zr)
	var head backupHead
	if err := readLine(in, nil, &head); err != nil {
		return nil, err
	}
	if head.Format != backupFormat {
		return nil, fmt.Errorf("%w: format %d, this program knows %d", ErrBadBackup, head.Format, backupFormat)
	}
	var lines []backupLine
	sum := sha256.New()
	for {
		var l struct {
			backupLine
			backupTail
		}
		before := hex.EncodeToString(sum.Sum(nil))
		if err := readLine(in, sum, &l); err != nil {
			return nil, err
		}
		if l.SHA256 == "" {
			if !underRoot(l.Key) {
				return nil, fmt.Errorf("%w: key %q is none of drover's", ErrBadBackup, l.Key)
			}
			lines = append(lines, l.backupLine)
			continue
		}
		if l.SHA256 != before || l.Keys != len(lines) {
			return nil, fmt.Errorf("%w: its checksum is wrong", ErrBadBackup)
		}
		if _, err := in.ReadByte(); err != io.EOF {
			return nil, fmt.Errorf("%w: something follows its end", ErrBadBackup)
		}
		return lines, nil
	}
}

func underRoot(key string) bool { return len(key) > len(Root) && key[:len(Root)] == Root }

// readLine decodes one line and adds it to the checksum.
func readLine(in *bufio.Reader, sum hash.Hash, into any) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	if err := json.Unmarshal(line, into); err != nil {
		return fmt.Errorf("%w: %w", ErrBadBackup, err)
	}
	if sum != nil {
		_, _ = sum.Write(line) // a hash takes everything
	}
	return nil
}
