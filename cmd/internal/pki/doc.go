// Package pki keeps drover's private certificate authority and the certificates it issues, in one directory.
//
// # Layout
//
//	DIR/ca/ca-cert.pem, ca-key.pem        the authority; the key never leaves this machine
//	DIR/hosts/NAME/                       a KVM host: its libvirtd and its drover-agent (server and client)
//	DIR/schedulers/NAME/                  a scheduler or etcd member (server and client)
//	DIR/admins/NAME/, DIR/viewers/NAME/   people (client only)
//
// Every identity directory can be copied to the machine it is for as it is, and holds
//
//	ca-cert.pem                           what to trust (etcd: --trusted-ca-file, drover: --tls-ca)
//	cert.pem, key.pem                     the pair (etcd: --cert-file and --key-file, drover: --tls-cert and --tls-key)
//	server-cert.pem -> cert.pem           the names libvirt wants in migrate_tls_x509_cert_dir; links, so that
//	client-cert.pem -> cert.pem           a renewal replaces one file and never leaves a server with a new
//	server-key.pem, client-key.pem        certificate and a client with an old one
//
// [LibvirtPaths] says where libvirt's own remote driver looks for the same files.
//
// # Names
//
// The organisation carries the [Role]; the common name is KIND/NAME ([CommonName]), which etcd takes for the
// user name. The prefix keeps a host called "admin" from being the user of that name. libvirt, QEMU and Go's TLS
// all check host names against the subject alternative names, never the common name, so it is free for this.
//
// # Safety
//
// An identity or authority is written to a temporary directory and renamed into place: it is there whole or not at
// all, and one that exists is never overwritten. Renewal keeps the key and replaces the certificate in one rename.
// The package has no state of its own; operations on one DIR by several processes are safe against each other in
// that the slower one fails with [ErrExists].
package pki
