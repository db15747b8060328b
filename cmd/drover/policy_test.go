package main

import (
	"strings"
	"testing"

	"drover/scheduler/policy"
)

// TestPolicyHelpExample: the document in the help is a valid one.
func TestPolicyHelpExample(t *testing.T) {
	var example []string
	for line := range strings.Lines(policyHelp) {
		if strings.HasPrefix(line, "   ") {
			example = append(example, strings.TrimPrefix(line, "   "))
		}
	}
	f, err := policy.Parse([]byte(strings.Join(example, "")))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Classes) != 3 || len(f.Rules) != 2 || len(f.Groups) != 1 {
		t.Errorf("example %+v", f.Document)
	}
}

// TestWithoutRemarks: only what drover wrote on top is taken off, not a person's own comments.
func TestWithoutRemarks(t *testing.T) {
	given := append(remarkLines([]string{"one", "of two\nlines"}), "# mine\nschema: 1\n"...)
	if got := string(withoutRemarks(given)); got != "# mine\nschema: 1\n" {
		t.Errorf("got %q", got)
	}
}
