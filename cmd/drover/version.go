package main

import (
	"runtime"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	drover "drover/cmd/internal/version"
	"drover/precopy"
)

func version() string { return drover.Version }

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "which drover this is",
		Action: takes(0, 0, "", func(c *cli.Context) error {
			format, err := format(c)
			if err != nil {
				return err
			}
			value := struct {
				Version string `json:"version"`
				Schema  int    `json:"schema"` // of the records that it writes
				Go      string `json:"go"`
				Arch    string `json:"arch"`
			}{version(), precopy.Schema, runtime.Version(), runtime.GOARCH}
			return format.Print(c.App.Writer, value, func() out.Table {
				var t out.Table
				t.Add("drover", value.Version)
				t.Add("built with", value.Go+" for "+value.Arch)
				return t
			})
		}),
	}
}
