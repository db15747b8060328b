package embed

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"drover/hypervisor"
)

// defragMinimum is the size of the file below which holes are left alone.
const defragMinimum = 64 * hypervisor.MiB

// alarmCheck is how often the server is looked at for a NOSPACE alarm.
const alarmCheck = time.Minute

// Size returns the size of the store's file, and how much of it is in use.
func (s *Server) Size() (file, used hypervisor.Bytes) {
	b := s.etcd.Server.Backend()
	return hypervisor.Bytes(b.Size()), hypervisor.Bytes(b.SizeInUse())
}

// maintain runs until Close.
func (s *Server) maintain() {
	defrag := time.NewTicker(s.cfg.DefragInterval)
	defer defrag.Stop()
	alarm := time.NewTicker(alarmCheck)
	defer alarm.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-defrag.C:
			file, used := s.Size()
			if worthDefrag(file, used) {
				s.defrag()
			}
		case <-alarm.C:
			if s.full() {
				s.makeRoom()
			}
		}
	}
}

// worthDefrag: the server answers nothing while it rewrites its file, so half of it must be holes.
func worthDefrag(file, used hypervisor.Bytes) bool {
	return file >= defragMinimum && used < file/2
}

func (s *Server) defrag() {
	before, _ := s.Size()
	start := time.Now()
	if err := s.etcd.Server.Backend().Defrag(); err != nil {
		s.cfg.Log.Error("defragmenting the store failed", "err", err)
		return
	}
	after, _ := s.Size()
	s.cfg.Log.Info("store defragmented", "before", before, "after", after, "took", time.Since(start))
}

// full reports whether the NOSPACE alarm is raised.
func (s *Server) full() bool {
	for _, a := range s.etcd.Server.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// makeRoom drops all history and holes, and takes the alarm back if that has helped. etcd itself
// leaves this to a person, while drover stands still.
func (s *Server) makeRoom() {
	ctx, cancel := context.WithTimeout(context.Background(), alarmCheck)
	defer cancel()
	srv := s.etcd.Server
	_, err := srv.Compact(ctx, &pb.CompactionRequest{Revision: srv.KV().Rev(), Physical: true})
	if err != nil {
		s.cfg.Log.Warn("compacting the full store failed", "err", err)
	}
	s.defrag()
	file, _ := s.Size()
	if file > s.cfg.Quota*8/10 {
		s.cfg.Log.Error("store is full and takes no writes: raise its quota or remove data", "size", file, "quota", s.cfg.Quota)
		return
	}
	_, err = srv.Alarm(ctx, &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(srv.MemberID()), Alarm: pb.AlarmType_NOSPACE,
	})
	if err != nil {
		s.cfg.Log.Error("taking back the store's alarm failed", "err", err)
		return
	}
	s.cfg.Log.Warn("store was full; dropping its history has made room", "size", file, "quota", s.cfg.Quota)
}
