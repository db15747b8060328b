// Package fleet is the scheduler's picture of all hosts, domains and migrations at one revision of
// the store. A Snapshot is immutable once built: share it freely, never write to it.
package fleet
