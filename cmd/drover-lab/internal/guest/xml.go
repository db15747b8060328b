package guest

import (
	"fmt"
	"strings"
	"text/template"

	"drover/hypervisor"
)

// machine is what the domain is made of besides its specification.
type machine struct {
	Record
	Type    string // kvm or qemu
	Machine string // explicit, never an alias: both ends of a migration must mean the same
	Kernel  string
	Initrd  string
}

// Cmdline is the guest program's configuration.
func (m machine) Cmdline() string {
	return fmt.Sprintf("console=ttyS0 quiet cryptomgr.notests wss=%d rate=%d pattern=%s beat=%d", m.WSS, m.Rate, m.Pattern, m.Beat.Microseconds())
}

// KiB is the guest's memory in libvirt's unit.
func (m machine) KiB() int64 { return int64(m.Memory / hypervisor.KiB) }

// All values are checked names, numbers or paths of our own making, so nothing needs escaping.
var domainXML = template.Must(template.New("domain").Parse(strings.TrimSpace(`
<domain type='{{.Type}}'>
  <name>{{.Name}}</name>
  <uuid>{{.UUID}}</uuid>
  <memory unit='KiB'>{{.KiB}}</memory>
  <vcpu>{{.VCPUs}}</vcpu>
  <os>
    <type arch='x86_64' machine='{{.Machine}}'>hvm</type>
    <kernel>{{.Kernel}}</kernel>
    <initrd>{{.Initrd}}</initrd>
    <cmdline>{{.Cmdline}}</cmdline>
  </os>
  <features><acpi/></features>
{{- if eq .Type "kvm"}}
  <cpu mode='host-model'/>
{{- else}}
  <cpu mode='custom'><model>qemu64</model></cpu>
{{- end}}
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{{- if .DiskPath}}
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='{{.DiskPath}}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
{{- end}}
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='{{.Serial}}' append='on'/>
      <target port='0'/>
    </serial>
    <memballoon model='virtio'/>
  </devices>
</domain>
`)))

// xml renders the domain.
func (m machine) xml() (string, error) {
	var b strings.Builder
	if err := domainXML.Execute(&b, m); err != nil {
		return "", fmt.Errorf("domain of %s: %w", m.Name, err)
	}
	return b.String(), nil
}
