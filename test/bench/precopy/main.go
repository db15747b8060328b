// Command precopy shows what the pre-copy benchmark (test/lab, "make bench-precopy") has measured so far:
// a table of all cells and policies, and which of what drover is held to the runs show to hold. It needs
// no lab. With -save it puts the runs of fixed policies into the file that is shipped, from which the
// benchmark takes them instead of measuring them again.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"

	"drover/test/lab/runs"
)

func main() {
	results := flag.String("results", "build/bench-precopy.json", "`FILE` of the benchmark's results")
	fixed := flag.String("fixed", "test/lab/testdata/precopy-fixed.json", "`FILE` of the runs of fixed policies that are shipped")
	version := flag.String("version", "", "regular expression of the versions of drover that count (default: all)")
	save := flag.Bool("save", false, "put the results' runs of fixed policies into the shipped file")
	flag.Parse()
	if err := run(*results, *fixed, *version, *save); err != nil {
		fmt.Fprintln(os.Stderr, "precopy:", err)
		os.Exit(1)
	}
}

func run(results, fixed, version string, save bool) error {
	measured, err := runs.Load(results)
	if err != nil {
		return err
	}
	if n := len(measured) - len(runs.Undisturbed(measured)); n > 0 {
		fmt.Printf("%d of %d runs do not count: other work took too much of the machine\n", n, len(measured))
		measured = runs.Undisturbed(measured)
	}
	known, err := runs.Load(fixed)
	if err != nil {
		return err
	}
	if save {
		known = runs.Merge(known, runs.Select(measured, func(r runs.Run) bool { return !r.Own() }))
		if err := runs.Save(fixed, known); err != nil {
			return err
		}
	}
	counts := regexp.MustCompile(".")
	if version != "" {
		if counts, err = regexp.Compile(version); err != nil {
			return err
		}
	}
	all := runs.Select(runs.Merge(known, measured), func(r runs.Run) bool { return !r.Own() || counts.MatchString(r.Version) })
	for _, platform := range platforms(all) {
		here := runs.Select(all, func(r runs.Run) bool { return r.Platform == platform })
		fmt.Printf("%s\n%s\n%s\n", platform, runs.Table(here), runs.Verdict(here))
	}
	return nil
}

func platforms(all []runs.Run) []string {
	slices.SortFunc(all, func(a, b runs.Run) int { return cmp.Compare(a.Platform, b.Platform) })
	var out []string
	for _, r := range all {
		if len(out) == 0 || out[len(out)-1] != r.Platform {
			out = append(out, r.Platform)
		}
	}
	return out
}
