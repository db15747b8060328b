package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/store"
)

const restoreHelp = `Into an empty store only: start a scheduler with a new --embedded-etcd directory, or take a new
cluster, and stop all agents before. An old backup brings back migrations as they stood then: their
hosts' agents, or drover migration resolve, settle what became of them.`

func storeCommand() *cli.Command {
	return &cli.Command{
		Name: "store", Usage: "back the store up, bring a backup back, say who may do what in it",
		Subcommands: []*cli.Command{
			{
				Name: "backup", Usage: "write all records to a file", ArgsUsage: "FILE",
				Description: "The file is the same for an embedded store and for a cluster, so this is also how to move from\n" +
					"one to the other. An existing FILE is not overwritten.",
				Action: takes(1, 1, "FILE", quick(backup)),
			},
			{
				Name: "restore", Usage: "bring a backup into an empty store", ArgsUsage: "FILE", Description: restoreHelp,
				Flags: []cli.Flag{yesFlag("needed: all agents are stopped")}, Action: takes(1, 1, "FILE", quick(restore)),
			},
			authCommand(),
		},
	}
}

// backup writes beside the file and renames: a FILE that exists is a whole backup.
func backup(ctx context.Context, s *session) error {
	path := s.word()
	taken := fmt.Errorf("backup: %s is there already and is not overwritten: give another name, such as drover-%s.backup", path, time.Now().Format("2006-01-02"))
	if _, err := os.Lstat(path); err == nil {
		return taken
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".drover-backup-*")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	n, err := s.Backup(ctx, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what is there.
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return taken
	} else if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	s.note("%s: %s", path, plural(n, "record"))
	return nil
}

func restore(ctx context.Context, s *session) error {
	if !s.cli.Bool("yes") {
		return cliargs.Usagef(s.cli, "stop all agents, then add --yes")
	}
	f, err := os.Open(s.word())
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer func() { _ = f.Close() }()
	n, err := s.Restore(ctx, f)
	if errors.Is(err, store.ErrNotEmpty) {
		return fmt.Errorf("%w: begin with a new one", err)
	}
	if err != nil {
		return err
	}
	s.note("%s brought back", plural(n, "record"))
	return nil
}
