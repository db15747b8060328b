package store

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Schema is the version of the values that this program writes, where the record has none of its
// own. Newer ones are read as far as they are understood.
const Schema = 1

// ErrCorrupt: a stored value can't be read.
var ErrCorrupt = errors.New("stored value can't be read")

const (
	// packFrom is the size from which a value is compressed, in bytes. What is smaller is not worth a
	// writer, which takes more than a megabyte of memory.
	packFrom = 4 << 10
	// unpackLimit bounds what a compressed value may grow to, in bytes.
	unpackLimit = 64 << 20
)

// encode gives a record's stored form: JSON that has a schema.
func encode(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("encode %T: not an object: %w", v, err)
	}
	if head.Schema > 0 {
		return raw, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("encode %T: not an object", v)
	}
	fields["schema"] = json.RawMessage(fmt.Sprint(Schema))
	return json.Marshal(fields)
}

// encodePacked is encode for large values: compressed when that pays. gzip's own first bytes, which
// no JSON begins with, tell the two forms apart.
func encodePacked(v any) ([]byte, error) {
	raw, err := encode(v)
	if err != nil {
		return nil, err
	}
	return pack(raw), nil
}

// packer keeps one writer for the next value. Each takes a megabyte: a pool would lose it with every second collection
// of garbage, and an agent that reports would do little but make new ones.
var packer = make(chan *gzip.Writer, 1)

// pack compresses when that saves a quarter at least.
func pack(raw []byte) []byte {
	if len(raw) < packFrom {
		return raw
	}
	var w *gzip.Writer
	select {
	case w = <-packer:
	default:
		w, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails only for unknown levels
	}
	defer func() {
		select {
		case packer <- w:
		default:
		}
	}()
	var buf bytes.Buffer
	w.Reset(&buf)
	_, _ = w.Write(raw) // a bytes.Buffer takes everything
	_ = w.Close()
	if buf.Len() > len(raw)*3/4 {
		return raw
	}
	return buf.Bytes()
}

// unpack undoes pack; values that were not compressed pass through.
func unpack(raw []byte) ([]byte, error) {
	if len(raw) < 2 || raw[0] != 0x1f || raw[1] != 0x8b {
		return raw, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, unpackLimit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(out) > unpackLimit {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrCorrupt, unpackLimit)
	}
	return out, nil
}

// decode reads a stored value of either form into v.
func decode(raw []byte, v any) error {
	raw, err := unpack(raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// rewrite gives the stored form of next, where prev is what raw was read as: what raw holds beyond
// prev is carried over, so that an older program does not delete a newer one's fields.
func rewrite(raw []byte, prev, next any) ([]byte, error) {
	raw, err := unpack(raw)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(prev)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	after, err := encode(next)
	if err != nil {
		return nil, err
	}
	return merge(raw, before, after)
}
