package store

import (
	"context"
	"fmt"
	"strings"

	"drover/store/kv"
)

// SaveLoad writes one part of what the leader knows of VMs' load; an empty part is removed.
func (s *Store) SaveLoad(ctx context.Context, fence Fence, part int, text []byte) error {
	key := fmt.Sprintf("%s%03d", loadPrefix, part)
	op := kv.Put(key, pack(text))
	if len(text) == 0 {
		op = kv.Delete(key)
	}
	return s.commit(ctx, fmt.Sprint("keep load, part ", part), &fence, []kv.Cond{fence.cond()}, []kv.Op{op})
}

// Load reads all parts that were written, by whichever leader. One that can't be read is left out and logged.
func (s *Store) Load(ctx context.Context) ([][]byte, error) {
	entries, _, err := s.kv.List(ctx, loadPrefix)
	if err != nil {
		return nil, fmt.Errorf("load of VMs: %w", err)
	}
	var out [][]byte
	for _, e := range entries {
		text, err := unpack(e.Value)
		if err != nil {
			s.log.Error("part of the VMs' load left out", "part", strings.TrimPrefix(e.Key, loadPrefix), "err", err)
			continue
		}
		out = append(out, text)
	}
	return out, nil
}
