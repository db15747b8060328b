package etcd

import (
	"context"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"drover/hypervisor"
)

// Space is how full one member of the store is.
type Space struct {
	Endpoint string
	// File is the size of the member's file and Used the part that is not holes; Quota is the size at
	// which it takes no more writes, 0 when the member does not tell (before etcd 3.6).
	File, Used, Quota hypervisor.Bytes
	// Full says that the store takes no writes now: its NOSPACE alarm is raised.
	Full bool
	// Err is set when this member did not answer; the others still count.
	Err error
}

// Space asks every endpoint at once how full it is, in the order of the endpoints. Without etcd's
// authentication every client may ask; with it, every client that has a user.
func (c *Client) Space(ctx context.Context) []Space {
	ctx, cancel := c.call(ctx)
	defer cancel()
	out := make([]Space, len(c.cfg.Endpoints))
	full := map[uint64]bool{}
	alarms, alarmsErr := c.etcd.AlarmList(ctx)
	if alarmsErr == nil {
		for _, a := range alarms.Alarms {
			full[a.MemberID] = full[a.MemberID] || a.Alarm == etcdserverpb.AlarmType_NOSPACE
		}
	}
	var wg sync.WaitGroup
	for i, endpoint := range c.cfg.Endpoints {
		wg.Go(func() {
			out[i].Endpoint = endpoint
			res, err := c.etcd.Status(ctx, endpoint)
			if err == nil {
				err = alarmsErr
			}
			if err != nil {
				out[i].Err = c.wrap(ctx, "status of "+endpoint, false, err)
				return
			}
			out[i].File, out[i].Used = hypervisor.Bytes(res.DbSize), hypervisor.Bytes(res.DbSizeInUse)
			out[i].Quota = hypervisor.Bytes(res.DbSizeQuota)
			out[i].Full = full[res.Header.MemberId]
		})
	}
	wg.Wait()
	return out
}
