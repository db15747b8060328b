package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span, written with its unit: "150ms", "10m", "1h30m".
type Duration time.Duration

// ParseDuration reads a time span; only zero may stand without a unit. Negative ones are refused.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: want a time with its unit, such as 150ms, 10m or 1h30m", s)
	}
	return Duration(d), nil
}

// String is the shortest form that ParseDuration reads as the same.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(raw []byte) error {
	s, err := word(raw)
	if err != nil {
		return err
	}
	*d, err = ParseDuration(s)
	return err
}

// Percent is a share of 100, written with its sign: "30%".
type Percent float64

// ParsePercent reads a share from 0% to 100%; only zero may stand without the sign, as 0.3 and 30 would
// both be guesses.
func ParsePercent(s string) (Percent, error) {
	digits, ok := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || !(f >= 0 && f <= 100) || !ok && f != 0 { // NaN compares false
		return 0, fmt.Errorf("%q: want a share of 0%% to 100%%, such as 30%%", s)
	}
	return Percent(f + 0), nil // -0 becomes 0
}

// String is the form that ParsePercent reads.
func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'g', -1, 64) + "%" }

// Fraction is the share of 1.
func (p Percent) Fraction() float64 { return float64(p) / 100 }

// MarshalJSON implements json.Marshaler.
func (p Percent) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (p *Percent) UnmarshalJSON(raw []byte) error {
	s, err := word(raw)
	if err != nil {
		return err
	}
	*p, err = ParsePercent(s)
	return err
}

// word is what a JSON text or number says.
func word(raw []byte) (string, error) {
	var n json.Number // takes both
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s, nil
	}
	if json.Unmarshal(raw, &n) == nil {
		return n.String(), nil
	}
	return "", errors.New("want a single value")
}

// PostCopy says whether a guest may run on the target before all of its memory is there.
type PostCopy string

// The values of PostCopy.
const (
	PostCopyNever   PostCopy = "never"
	PostCopyAllowed PostCopy = "allowed"
)

// NoHook stands for no hook where one is named.
const NoHook = "none"

// HookFailure is what becomes of a migration whose hook before it fails.
type HookFailure string

// The values of HookFailure.
const (
	HookGoOn   HookFailure = "go-on"  // it is noted, and the migration begins
	HookRefuse HookFailure = "refuse" // the migration fails before it begins
)

// Kind is what a group is about.
type Kind string

// The values of Kind.
const (
	Apart    Kind = "anti_affinity" // no two on one host
	Together Kind = "affinity"      // all on one host
)

// Strength is how much a group matters.
type Strength string

// The values of Strength.
const (
	Required  Strength = "required"
	Preferred Strength = "preferred"
)
