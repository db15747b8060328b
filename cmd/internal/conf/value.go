package conf

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/hypervisor"
)

// String binds a text setting.
func String(p *string) Value { return stringValue{p} }

// Bool binds a yes-or-no setting.
func Bool(p *bool) Value { return boolValue{p} }

// List binds a comma-separated list of words; empty parts are dropped.
func List(p *[]string) Value { return listValue{p} }

// Duration binds a time span such as "5s" or "2m".
func Duration(p *time.Duration) Value { return durationValue{p} }

// Size binds an amount of memory such as "64GiB".
func Size(p *hypervisor.Bytes) Value { return sizeValue{p} }

// Rate binds a link's rate such as "10gbit" or "50MiB/s".
func Rate(p *hypervisor.BytesPerSecond) Value { return rateValue{p} }

// Cores binds an amount of CPU, in cores.
func Cores(p *hypervisor.Cores) Value { return coresValue{p} }

// Count binds a whole number from 0.
func Count(p *int) Value { return countValue{p} }

// OneOf binds a setting that takes one of a few words.
func OneOf(p *string, words ...string) Value { return wordValue{p, words} }

type stringValue struct{ p *string }

func (v stringValue) Set(s string) error { *v.p = s; return nil }
func (v stringValue) String() string     { return *v.p }

type boolValue struct{ p *bool }

func (v boolValue) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q: want true or false", s)
	}
	*v.p = b
	return nil
}
func (v boolValue) String() string { return strconv.FormatBool(*v.p) }

type listValue struct{ p *[]string }

func (v listValue) Set(s string) error {
	var list []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	*v.p = list
	return nil
}
func (v listValue) String() string { return strings.Join(*v.p, ",") }

type durationValue struct{ p *time.Duration }

func (v durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("%q: want a time span such as 500ms, 5s or 2m", s)
	}
	*v.p = d
	return nil
}
func (v durationValue) String() string { return v.p.String() }

type sizeValue struct{ p *hypervisor.Bytes }

func (v sizeValue) Set(s string) error {
	if s == "" {
		*v.p = 0
		return nil
	}
	b, err := hypervisor.ParseBytes(s)
	if err != nil {
		return err
	}
	*v.p = b
	return nil
}

func (v sizeValue) String() string {
	if *v.p == 0 {
		return ""
	}
	return v.p.String()
}

type rateValue struct{ p *hypervisor.BytesPerSecond }

func (v rateValue) Set(s string) error {
	if s == "" {
		*v.p = 0
		return nil
	}
	r, err := hypervisor.ParseRate(s)
	if err != nil {
		return err
	}
	*v.p = r
	return nil
}

func (v rateValue) String() string {
	if *v.p == 0 {
		return ""
	}
	return v.p.String()
}

const mostCount = 1 << 20

type countValue struct{ p *int }

func (v countValue) Set(s string) error {
	n, err := strconv.Atoi(cmp.Or(s, "0"))
	if err != nil || n < 0 || n > mostCount {
		return fmt.Errorf("%q: want a whole number from 0 to %d, such as 128", s, mostCount)
	}
	*v.p = n
	return nil
}
func (v countValue) String() string { return strconv.Itoa(*v.p) }

type coresValue struct{ p *hypervisor.Cores }

func (v coresValue) Set(s string) error {
	if s == "" {
		*v.p = 0
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	// The comparison is written so that NaN fails too.
	if err != nil || !(f >= 0 && f <= 1e6) {
		return fmt.Errorf("%q: want a number of cores such as 8 or 3.5", s)
	}
	*v.p = hypervisor.Cores(f)
	return nil
}

func (v coresValue) String() string {
	if *v.p == 0 {
		return ""
	}
	return trimFloat(float64(*v.p))
}

type wordValue struct {
	p     *string
	words []string
}

func (v wordValue) Set(s string) error {
	if !slices.Contains(v.words, s) {
		return fmt.Errorf("%q: want %s", s, strings.Join(v.words, " or "))
	}
	*v.p = s
	return nil
}
func (v wordValue) String() string { return *v.p }

func trimFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

var errRequired = errors.New("is required")
