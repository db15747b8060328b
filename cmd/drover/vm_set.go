package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
	"drover/store"
)

const vmSetHelp = `Decides something about one VM, which counts above the rules of the policy. What no option names
stays as it is. It counts from the next request on; it goes with the VM to whatever host.

   drover vm set web-1 --class gold --label env=prod
   drover vm set web-1 --override max_pause=60ms   # this value whatever the class says; "max_pause=" ends it
   drover vm set web-1 --class ''                  # back to what the rules say
   drover vm set fw --pinned                       # stays on its host; --pinned=false ends it

drover vm show and drover policy check tell what applies then.`

func vmSetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "give a VM a class, labels, values of its own, or pin it to its host", ArgsUsage: "VM", Description: vmSetHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "class", Usage: "have it in the policy class `NAME`, whatever the rules say; '' leaves it to them again"},
			toggle("pinned", "never move it; --pinned=false lets it move whatever its class says"),
			&cli.StringSliceFlag{Name: "label", Usage: "set the label `KEY=VALUE`; may stand again"},
			&cli.StringSliceFlag{Name: "unset", Usage: "remove the label `KEY`; may stand again"},
			&cli.StringSliceFlag{Name: "override", Usage: "set a class's field for this VM alone, as `FIELD=VALUE`; may stand again"},
			toggle("reset", "first forget all that was set before"),
		},
		Action: takes(1, 1, "VM", setVM),
	}
}

// vmChange is what the options of vm set ask for.
type vmChange struct {
	class     *string
	pinned    *bool
	labels    map[string]string
	unset     []string
	overrides policy.Class
	fields    []string // of overrides
	reset     bool
}

func vmChangeOf(c *cli.Context) (vmChange, error) {
	v := vmChange{labels: map[string]string{}, unset: c.StringSlice("unset"), reset: c.Bool("reset")}
	if c.IsSet("class") {
		v.class = new(c.String("class"))
	}
	if c.IsSet("pinned") {
		v.pinned = new(c.Bool("pinned"))
	}
	for _, l := range c.StringSlice("label") {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" || value == "" {
			return v, cliargs.Usagef(c, "--label %q: want KEY=VALUE (--unset KEY removes one)", l)
		}
		v.labels[key] = value
	}
	var err error
	if v.overrides, v.fields, err = policy.ParseOverrides(c.StringSlice("override")); err != nil {
		return v, cliargs.Usagef(c, "--override: %w", err)
	}
	if v.class == nil && v.pinned == nil && len(v.labels)+len(v.unset)+len(v.fields) == 0 && !v.reset {
		return v, cliargs.Usagef(c, "nothing to set: give --class, --pinned, --label, --unset, --override or --reset")
	}
	return v, nil
}

// apply changes the record, and refuses what the document does not allow.
func (v vmChange) apply(r *policy.VMRecord, id hypervisor.DomainID, doc *policy.Document) error {
	r.Schema, r.UUID = max(r.Schema, policy.Schema), id
	if v.class != nil {
		r.Class = *v.class
	}
	if v.pinned != nil {
		r.Pinned = v.pinned
	}
	for _, k := range v.unset {
		if _, ok := r.Labels[k]; !ok {
			return fmt.Errorf("it has no label %q", k)
		}
		delete(r.Labels, k)
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	maps.Copy(r.Labels, v.labels)
	r.Overrides = r.Overrides.Set(v.overrides, v.fields)
	return r.Validate(doc)
}

func setVM(c *cli.Context) error {
	change, err := vmChangeOf(c)
	if err != nil {
		return err
	}
	return quick(func(ctx context.Context, s *session) error {
		snap, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		d, err := findVM(snap, s.word())
		if err != nil {
			return err
		}
		r, err := s.writeVM(ctx, snap, d, change)
		if err != nil {
			return fmt.Errorf("%s is not changed: %w", d.Facts.Name, err)
		}
		s.record(ctx, "vm-set", string(d.Facts.ID), d.Facts.Name+": "+recordText(r))
		after := *snap
		after.VMs = maps.Clone(snap.VMs)
		after.VMs[d.Facts.ID] = r
		view := viewPolicy(&after, d)
		pinned := ""
		if view.Pinned {
			pinned = "pinned; "
		}
		s.note("%s: %s%s", d.Facts.Name, pinned, view.text())
		if s.format != out.AsTable {
			return s.answer(r, nil)
		}
		return nil
	})(c)
}

func (s *session) writeVM(ctx context.Context, snap *fleet.Snapshot, d fleet.Domain, change vmChange) (policy.VMRecord, error) {
	if snap.Policy.Fault != "" && change.class != nil && *change.class != "" {
		return policy.VMRecord{}, fmt.Errorf("the policy can't be read: %s", snap.Policy.Fault)
	}
	table, id := store.VMs[policy.VMRecord](s.Store), string(d.Facts.ID)
	edit := func(r *policy.VMRecord) error { return change.apply(r, d.Facts.ID, &snap.Policy.Document) }
	if !change.reset {
		row, err := table.Upsert(ctx, nil, id, edit)
		if errors.Is(err, store.ErrCorrupt) {
			err = fmt.Errorf("%w; --reset begins anew", err)
		}
		return row.Value, err
	}
	// Not through Upsert, which needs to read what is to be forgotten.
	old, err := table.Get(ctx, id)
	if err != nil && !isNotFound(err) && !errors.Is(err, store.ErrCorrupt) {
		return policy.VMRecord{}, err
	}
	var r policy.VMRecord
	if err := edit(&r); err != nil {
		return r, err
	}
	row, err := table.Replace(ctx, nil, id, old.Revision, r)
	return row.Value, err
}

// recordText is what was decided about a VM, in one line.
func recordText(r policy.VMRecord) string {
	var parts []string
	if r.Class != "" {
		parts = append(parts, "class "+r.Class)
	}
	if r.Pinned != nil {
		parts = append(parts, fmt.Sprintf("pinned %v", *r.Pinned))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		parts = append(parts, "label "+k+"="+r.Labels[k])
	}
	if own := r.Overrides.String(); own != "" {
		parts = append(parts, own)
	}
	if len(parts) == 0 {
		return "all as the policy's rules say"
	}
	return strings.Join(parts, ", ")
}
