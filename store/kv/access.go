package kv

// Access is the permission to read, and with Write also to change, a key or a range of keys.
type Access struct {
	Key string
	// Prefix makes it every key that begins with Key.
	Prefix bool
	Write  bool
}

// Covers reports whether the permission includes key; for a write, only one with Write does.
func (a Access) Covers(key string, write bool) bool {
	if write && !a.Write {
		return false
	}
	if a.Prefix {
		return len(key) >= len(a.Key) && key[:len(a.Key)] == a.Key
	}
	return key == a.Key
}

// SameRange reports whether both are about the same keys, whatever they allow.
func (a Access) SameRange(b Access) bool { return a.Key == b.Key && a.Prefix == b.Prefix }
