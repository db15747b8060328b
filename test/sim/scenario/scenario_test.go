package scenario_test

import (
	"testing"

	"github.com/cockroachdb/datadriven"

	"drover/test/sim/scenario"
)

// TestScenarios plays what is in testdata; -rewrite takes over what is answered.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		p := scenario.New()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			c := scenario.Command{Pos: d.Pos, Name: d.Cmd, Args: map[string]string{}, Input: d.Input}
			for _, a := range d.CmdArgs {
				if len(a.Vals) == 0 {
					c.Words = append(c.Words, a.Key)
				} else {
					c.Args[a.Key] = a.Vals[0]
				}
			}
			out, err := p.Do(c)
			if err != nil {
				return err.Error()
			}
			return out
		})
	})
}
