package kvm

import (
	"context"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// classes maps libvirt's error numbers to what drover branches on. A number that isn't here reads as
// ClassUnknownOutcome, because only evidence can tell what an unforeseen error left behind.
var classes = map[libvirt.ErrorNumber]hypervisor.Class{
	libvirt.ERR_NO_DOMAIN: hypervisor.ClassNoDomain,

	libvirt.ERR_OPERATION_INVALID: hypervisor.ClassInvalid,
	libvirt.ERR_DOM_EXIST:         hypervisor.ClassInvalid,
	libvirt.ERR_BLOCK_COPY_ACTIVE: hypervisor.ClassInvalid,

	libvirt.ERR_OPERATION_ABORTED: hypervisor.ClassAborted,

	libvirt.ERR_OPERATION_FAILED:       hypervisor.ClassFailed,
	libvirt.ERR_HOOK_SCRIPT_FAILED:     hypervisor.ClassFailed,
	libvirt.ERR_MIGRATE_PERSIST_FAILED: hypervisor.ClassFailed,
	libvirt.ERR_NO_MEMORY:              hypervisor.ClassFailed,
	// A target without the file for a copied disk looks for a storage pool to make it in.
	libvirt.ERR_NO_STORAGE_POOL:   hypervisor.ClassFailed,
	libvirt.ERR_NO_STORAGE_VOL:    hypervisor.ClassFailed,
	libvirt.ERR_STORAGE_VOL_EXIST: hypervisor.ClassFailed,

	libvirt.ERR_OPERATION_TIMEOUT: hypervisor.ClassBusy,
	libvirt.ERR_RESOURCE_BUSY:     hypervisor.ClassBusy,

	libvirt.ERR_MIGRATE_UNSAFE: hypervisor.ClassUnsafe,

	libvirt.ERR_CPU_INCOMPATIBLE: hypervisor.ClassIncompatible,

	libvirt.ERR_NO_SUPPORT:            hypervisor.ClassUnsupported,
	libvirt.ERR_CONFIG_UNSUPPORTED:    hypervisor.ClassUnsupported,
	libvirt.ERR_ARGUMENT_UNSUPPORTED:  hypervisor.ClassUnsupported,
	libvirt.ERR_OPERATION_UNSUPPORTED: hypervisor.ClassUnsupported,

	libvirt.ERR_INVALID_ARG:    hypervisor.ClassArgument,
	libvirt.ERR_INVALID_DOMAIN: hypervisor.ClassArgument,
	libvirt.ERR_XML_ERROR:      hypervisor.ClassArgument,
	libvirt.ERR_XML_DETAIL:     hypervisor.ClassArgument,

	libvirt.ERR_AUTH_FAILED:      hypervisor.ClassDenied,
	libvirt.ERR_AUTH_CANCELLED:   hypervisor.ClassDenied,
	libvirt.ERR_AUTH_UNAVAILABLE: hypervisor.ClassDenied,
	libvirt.ERR_ACCESS_DENIED:    hypervisor.ClassDenied,
	libvirt.ERR_OPERATION_DENIED: hypervisor.ClassDenied,
	libvirt.ERR_GNUTLS_ERROR:     hypervisor.ClassDenied,

	libvirt.ERR_SYSTEM_ERROR:   hypervisor.ClassUnknownOutcome,
	libvirt.ERR_RPC:            hypervisor.ClassUnknownOutcome,
	libvirt.ERR_INTERNAL_ERROR: hypervisor.ClassUnknownOutcome,
	libvirt.ERR_INVALID_CONN:   hypervisor.ClassUnknownOutcome,
}

// wrap turns whatever a libvirt call returned into a *hypervisor.Error, nil into nil. An error that
// is one already passes through, so that nested calls keep their own words.
func wrap(op string, id hypervisor.DomainID, err error) error {
	if err == nil {
		return nil
	}
	var known *hypervisor.Error
	if errors.As(err, &known) {
		return err
	}
	e := &hypervisor.Error{Op: op, Domain: id, Class: hypervisor.ClassUnknownOutcome, Message: err.Error(), Err: err}
	var lv libvirt.Error
	if errors.As(err, &lv) {
		e.Code, e.Message = int(lv.Code), lv.Message
		if class, ok := classes[lv.Code]; ok {
			e.Class = class
		}
	}
	return e
}

// refuse makes an error of drover's own: nothing was asked of libvirt.
func refuse(op string, id hypervisor.DomainID, class hypervisor.Class, format string, args ...any) error {
	return &hypervisor.Error{Op: op, Domain: id, Class: class, Message: fmt.Sprintf(format, args...)}
}

// gaveUp says that the caller stopped waiting for a call which may still take effect.
func gaveUp(op string, id hypervisor.DomainID, cause error) error {
	message := "the caller stopped waiting for libvirt's answer"
	if errors.Is(cause, context.DeadlineExceeded) {
		message = "libvirt did not answer in time"
	}
	return &hypervisor.Error{
		Op: op, Domain: id, Class: hypervisor.ClassUnknownOutcome, Message: message, Err: cause,
	}
}

// isCode reports whether err came from libvirt with the number.
func isCode(err error, code libvirt.ErrorNumber) bool {
	return errors.Is(err, code)
}
