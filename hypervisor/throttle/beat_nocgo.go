//go:build !cgo

package throttle

import "errors"

func newMetronomes() (metronomes, error) {
	return nil, errors.New("built without cgo")
}
