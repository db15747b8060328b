package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"drover/store/kv"
)

// errListCompacted: the revision of a list was compacted away between two of its pages.
var errListCompacted = errors.New("list: revision was compacted")

// entry converts a key of etcd's.
func entry(k *mvccpb.KeyValue) kv.Entry {
	return kv.Entry{
		Key:    string(k.Key),
		Value:  k.Value,
		Create: k.CreateRevision,
		Mod:    k.ModRevision,
		Lease:  kv.LeaseID(k.Lease),
	}
}

// list reads all pages at the revision of the first one.
func (c *Client) list(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	var out []kv.Entry
	var rev int64
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		cctx, cancel := c.call(ctx)
		res, err := c.etcd.Get(cctx, from, clientv3.WithRange(end), clientv3.WithLimit(listPage), clientv3.WithRev(rev))
		cancel()
		if errors.Is(err, rpctypes.ErrCompacted) {
			return nil, 0, errListCompacted
		}
		if err != nil {
			return nil, 0, c.wrap(ctx, "list "+prefix, false, err)
		}
		if rev == 0 {
			rev = res.Header.Revision
		}
		for _, k := range res.Kvs {
			out = append(out, entry(k))
		}
		if !res.More || len(res.Kvs) == 0 {
			return out, rev, nil
		}
		from = string(res.Kvs[len(res.Kvs)-1].Key) + "\x00"
	}
}
