package balance

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Whatever the document, the answer is a plan or an error that says that the input is wrong.
func FuzzInput(f *testing.F) {
	f.Add([]byte(`{"hosts":[{"name":"h1","cores":4,"mem_mib":8192,"net_gbit":10},{"name":"h2","cores":2,"mem_mib":4096,"cordoned":true}],
		"vms":[{"name":"a","host":"h1","mem_mib":1024,"cpu_load":1e300},{"name":"b","host":"h1","mem_mib":2048,"dirty_mib_s":5000}],
		"anti_affinity":[{"vms":["a","b"]}],"affinity":[{"vms":["a","b"],"required":false}],"drain":["h1"]}`))
	f.Add([]byte(`{"hosts":[{"name":"h","cores":1e-300,"mem_mib":1e-9,"reserved_mib":1}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := ReadInput(bytes.NewReader(text))
		if err == nil && len(in.Hosts)*len(in.VMs) > 10_000 {
			return // too large to be quick
		}
		var p *Problem
		if err == nil {
			p, err = in.Problem()
		}
		if err != nil {
			if !errors.Is(err, ErrProblem) {
				t.Fatalf("%v does not say that the input is wrong", err)
			}
			return
		}
		for _, mode := range []Mode{Balance, Consolidate, Drain} {
			if _, err := Make(p, Options{Mode: mode, Evaluations: 200, Explain: true}); err != nil && !errors.Is(err, ErrOptions) {
				t.Fatal(err)
			}
		}
	})
}

func TestInputErrorsSayWhere(t *testing.T) {
	const hosts = `"hosts":[{"name":"h1","cores":4,"mem_mib":8192}]`
	for text, want := range map[string]string{
		`{"hosts":[{"name":"h1","cores":0,"mem_mib":1}]}`:                                     "host h1 has 0 cores",
		`{"hosts":[{"name":"h1","cores":1,"mem_mib":1,"reserved_mib":2}]}`:                    "host h1 reserves",
		`{"hosts":[{"name":"h1","cores":1,"mem_mib":1},{"name":"h1","cores":1,"mem_mib":1}]}`: "two hosts are called h1",
		`{` + hosts + `,"vms":[{"name":"a","host":"h1","mem_mib":0}]}`:                        "VM a has 0 B of memory",
		`{` + hosts + `,"vms":[{"name":"a","host":"h1","mem_mib":1e300}]}`:                    "too much to be true",
		`{` + hosts + `,"drain":["h2"]}`:                                                      `no host is called "h2"`,
		`{` + hosts + `,"affinity":[{"name":"g","vms":["x"]}]}`:                               `affinity group g: no VM is called "x"`,
		"{\n\"hosts\":\"many\"}":                                                              "line 2: hosts: string where a list is expected",
		"{\"hosts\":[{\"name\":\"h1\",\n\"cores\":\"4\"}]}":                                   "line 2: hosts.cores: string where a number is expected",
		`[]`:   "line 1: array where an object is expected",
		`{}`:   `no "hosts"`,
		`null`: `no "hosts"`,
		`{` + hosts + `,"vms":[{"name":"a","host":"h1","mem_mib":1,"vcpus":-1}]}`:                                                 "VM a has -1 vCPUs",
		`{` + hosts + `,"vms":[{"name":"a","host":"h1","mem_mib":1,"uuid":"u"},{"name":"b","host":"h1","mem_mib":1,"uuid":"u"}]}`: "VMs a and b have the same uuid u",
		`{` + hosts + `,"vms":[{"name":"a","host":"h1","mem_mib":1},{"name":"b","host":"h1","mem_mib":1},{"name":"c","host":"h1","mem_mib":1}],
			"affinity":[{"vms":["a","b"]},{"vms":["b","c"]}],"anti_affinity":[{"name":"g","vms":["a","c"]}]}`: "VMs a and c have to be apart (anti_affinity group g) and together",
	} {
		in, err := ReadInput(strings.NewReader(text))
		if err == nil {
			_, err = in.Problem()
		}
		if !errors.Is(err, ErrProblem) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", text, err, want)
		}
	}
}
