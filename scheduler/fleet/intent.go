package fleet

import (
	"errors"
	"fmt"

	"drover/precopy"
	"drover/scheduler/policy"
)

// ErrPolicy: what is promised to a VM can't be told, because a record can't be read or names what is not
// there.
var ErrPolicy = errors.New("the VM's policy is not known")

// PolicyOf decides which policy applies to the domain where it is now. Errors match [ErrPolicy].
func (s *Snapshot) PolicyOf(d Domain) (policy.Decision, error) {
	vm := s.VMs[d.Facts.ID]
	switch {
	case s.Policy.Fault != "":
		return policy.Decision{}, fmt.Errorf("%w: the policy can't be read: %s", ErrPolicy, s.Policy.Fault)
	case vm.Fault != "":
		return policy.Decision{}, fmt.Errorf("%w: the record of %s can't be read: %s", ErrPolicy, d.Facts.Name, vm.Fault)
	}
	out, err := policy.Resolve(&s.Policy.Document, &vm, d.Facts.Name, d.Host.Name)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return out, nil
}

// PolicyFor is what a migration of the domain promises: what its request says, else what applies to the
// domain now. Errors match [ErrPolicy].
func (s *Snapshot) PolicyFor(m precopy.Migration, d Domain) (precopy.Policy, error) {
	if m.Policy != (precopy.Policy{}) {
		return m.Policy, nil
	}
	out, err := s.PolicyOf(d)
	return out.Policy, err
}
