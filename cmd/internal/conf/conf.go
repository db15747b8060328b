// Package conf reads the settings of drover's programs: one struct per program, whose fields come
// from a command-line flag, else an environment variable, else a strict YAML file, else the default,
// in that order of precedence.
//
// One word names a setting everywhere: "peer-uri" is the key in the file, --peer-uri the flag and
// DROVER_PEER_URI the variable. A key may also be written with underscores in the file. An empty
// variable counts as not set. Faults are collected, so that one start shows all of them.
package conf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"
)

// ErrInvalid is wrapped by every error about settings: a wrong value, an unknown key, a file that
// can't be read, a missing setting. Programs exit with the status for wrong usage.
var ErrInvalid = errors.New("settings are not valid")

// Settings is one program's configuration.
type Settings interface {
	// Fields lists the settings, each bound to a field of the struct, in the order for the help.
	Fields() []Field
	// Validate returns all faults at once, each with its setting's name, or nil.
	Validate() []error
}

// Field is one setting.
type Field struct {
	Key   string // kebab-case
	Usage string
	Value Value
}

// Value is where a setting lives and how it is read from text, in the manner of the flag package.
type Value interface {
	Set(string) error
	String() string
}

// EnvName returns the environment variable of a setting.
func EnvName(key string) string {
	return "DROVER_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// Flags returns the flags of the settings. The values that s holds now are shown as the defaults.
func Flags(s Settings) []cli.Flag {
	var flags []cli.Flag
	for _, f := range s.Fields() {
		usage := f.Usage + " [$" + EnvName(f.Key) + "]"
		if _, ok := f.Value.(boolValue); ok {
			on := f.Value.String() == "true"
			flags = append(flags, &cli.BoolFlag{Name: f.Key, Usage: usage, Value: on, DisableDefaultText: !on})
			continue
		}
		flags = append(flags, &cli.StringFlag{Name: f.Key, Usage: usage, DefaultText: f.Value.String()})
	}
	return flags
}

// ConfigFlag is the flag that names the file for [Load].
func ConfigFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "read settings from this YAML `FILE`; flags and variables win over it [$DROVER_CONFIG]"}
}

// Lookup finds the flag or variable of a setting; ok is false when neither was given.
type Lookup func(key string) (value string, ok bool)

// FromContext looks settings up among the flags of c and its parent commands, then in the
// environment.
func FromContext(c *cli.Context) Lookup {
	return func(key string) (string, bool) {
		if c.IsSet(key) {
			return fmt.Sprint(c.Value(key)), true
		}
		v, ok := os.LookupEnv(EnvName(key))
		return v, ok && v != ""
	}
}

// FlagsAndEnvironment is FromContext without a file, even if a variable names one: that is a daemon's.
func FlagsAndEnvironment(c *cli.Context) Lookup {
	look := FromContext(c)
	return func(key string) (string, bool) {
		if key == "config" {
			return "", false
		}
		return look(key)
	}
}

// Load fills s from the lookup and, where it has nothing, from the file that the setting "config"
// names, if any; then it validates. The error wraps [ErrInvalid] and every fault found.
func Load(look Lookup, s Settings) error {
	var faults []error
	if path, ok := look("config"); ok && path != "" {
		faults = append(faults, readFile(path, s)...)
	}
	for _, f := range s.Fields() {
		text, ok := look(f.Key)
		if !ok {
			continue
		}
		if err := f.Value.Set(text); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", f.Key, err))
		}
	}
	// A value that could not be read stays at its default, about which Validate has nothing to add
	// that is true: so it speaks only when all could be read.
	if len(faults) == 0 {
		faults = s.Validate()
	}
	if len(faults) == 0 {
		return nil
	}
	return &Error{Faults: faults}
}

// Error is every fault found in a program's settings.
type Error struct{ Faults []error }

// Error implements error: the faults in one line.
func (e *Error) Error() string {
	texts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		texts[i] = f.Error()
	}
	return strings.Join(texts, "; ")
}

// ExitCode is the exit status for wrong usage.
func (e *Error) ExitCode() int { return 2 }

// Unwrap returns ErrInvalid and the faults.
func (e *Error) Unwrap() []error { return append([]error{ErrInvalid}, e.Faults...) }

// readFile sets the fields that the file names and returns its faults.
func readFile(path string, s Settings) []error {
	text, err := os.ReadFile(path)
	if err != nil {
		return []error{fmt.Errorf("config: %w", err)}
	}
	return parse(path, text, s)
}

func parse(path string, text []byte, s Settings) []error {
	var doc map[string]any
	if err := yaml.UnmarshalStrict(text, &doc); err != nil {
		return []error{fmt.Errorf("config %s: %w", path, err)}
	}
	fields := map[string]Field{}
	for _, f := range s.Fields() {
		fields[f.Key] = f
	}
	var faults []error
	seen := map[string]bool{}
	for _, written := range sortedKeys(doc) {
		key := strings.ReplaceAll(written, "_", "-")
		f, known := fields[key]
		switch {
		case !known:
			faults = append(faults, fmt.Errorf("config %s: unknown key %q", path, written))
			continue
		case seen[key]:
			faults = append(faults, fmt.Errorf("config %s: %s is given twice", path, key))
			continue
		}
		seen[key] = true
		value, err := scalar(doc[written])
		if err == nil {
			err = f.Value.Set(value)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("config %s: %s: %w", path, written, err))
		}
	}
	return faults
}

// scalar renders a YAML value as the text that the flag would take; lists become comma-separated.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			p, err := scalar(e)
			if err != nil {
				return "", err
			}
			parts[i] = p
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		return "", errors.New("want a value, not a mapping")
	case float64:
		// JSON knows only this kind of number; sizes must not turn into 1e+09.
		return trimFloat(v), nil
	default:
		return fmt.Sprint(v), nil
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
