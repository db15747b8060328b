package main

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"drover/hypervisor"
	"drover/scheduler/order"
)

// ucc is a published instance: hosts with equal links in both directions (in Mbit/s) and memory in GB, and
// VMs that each have to get to another host.
type ucc struct {
	ID    int `json:"id"`
	Nodes []struct {
		ID, Mem, Link int
	} `json:"nodes"`
	VMs []struct {
		ID, Mem, From, To int
		Used              int `json:"used_mb"`
	} `json:"vms"`
	Makespan int `json:"mvm_makespan"` // of the published schedule, in seconds
}

// published seconds of one migration by its VM's memory in use and its stream in Mbit/s: the only cases.
var seconds = map[[2]int]int{{2000, 500}: 51, {2000, 1000}: 20, {3000, 500}: 70, {3000, 1000}: 29}

// What is to be reached on them: the mean makespan in seconds, and milliseconds per instance.
const (
	uccMakespan = 221
	uccMillis   = 5
)

// start is one line of a schedule that is written out.
type start struct {
	VM    int     `json:"vm"`
	Start float64 `json:"start"` // seconds
}

// published runs the instances in the file under their own rules: any number of streams, each with the
// whole of its slower end.
func published(file, starts string) (row, error) {
	list, err := readUCC(file)
	if err != nil {
		return row{}, err
	}
	var all []instance
	theirs := 0.0
	for _, x := range list {
		in, err := x.input()
		if err != nil {
			return row{}, err
		}
		all = append(all, instance{in: in, o: order.Options{WholeLink: true}})
		theirs += float64(x.Makespan) / float64(len(list))
	}
	r, results, err := measure(fmt.Sprintf("UCC 2015, published %.2f s", theirs), all)
	if err != nil {
		return r, err
	}
	r.Promise = fmt.Sprintf("mean at most %d s, %d ms each, none blocked", uccMakespan, uccMillis)
	r.Kept = r.Makespan <= uccMakespan && r.MillisMax <= uccMillis && r.Blocked == 0
	if starts == "" {
		return r, nil
	}
	out := map[string][]start{}
	for i, res := range results {
		for _, s := range res.Steps {
			id := strconv.Itoa(list[i].ID)
			out[id] = append(out[id], start{VM: list[i].VMs[s.Move].ID, Start: s.Start.Seconds()})
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(starts, b, 0o644)
}

func readUCC(file string) ([]ucc, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var list []ucc
	if err := json.NewDecoder(z).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no instances", file)
	}
	return list, nil
}

// input writes an instance in our terms: a migration's bytes are its published time at its rate.
func (x *ucc) input() (order.Input, error) {
	const mbit = 1e6 / 8
	var in order.Input
	host := map[int]int{}
	for i, n := range x.Nodes {
		link := hypervisor.BytesPerSecond(n.Link * mbit)
		in.Hosts = append(in.Hosts, order.Host{
			Name: strconv.Itoa(n.ID), FreeMemory: hypervisor.Bytes(n.Mem) * hypervisor.GiB, In: link, Out: link,
			MaxIn: len(x.VMs), MaxOut: len(x.VMs),
		})
		host[n.ID] = i
	}
	for _, v := range x.VMs {
		from, to := &in.Hosts[host[v.From]], &in.Hosts[host[v.To]]
		rate := min(from.Out, to.In)
		took, ok := seconds[[2]int{v.Used, int(rate / mbit)}]
		if !ok {
			return in, fmt.Errorf("instance %d: no published time for VM %d", x.ID, v.ID)
		}
		memory := hypervisor.Bytes(v.Mem) * hypervisor.GiB
		from.FreeMemory -= memory
		in.Moves = append(in.Moves, order.Move{
			VM: strconv.Itoa(v.ID), From: from.Name, To: to.Name, Memory: memory, Bytes: hypervisor.Bytes(took) * hypervisor.Bytes(rate),
		})
	}
	return in, nil
}
