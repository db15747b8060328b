// Package guest holds the source of the program that is a lab guest's whole user space; see program/init.c for what it does
// and says. It is compiled on first use, so that drover-lab itself needs no C compiler to build.
package guest

import _ "embed"

// Source is program/init.c.
//
//go:embed program/init.c
var Source []byte
