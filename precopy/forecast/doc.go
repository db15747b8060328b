// Package forecast says before a migration how it will go: seconds, bytes, pause, slowdown, the
// strategy to use and how sure that is. It rests on what is known of the domain: its memory, a
// dirty-rate sample, and the receipts of its earlier migrations. Everything here is pure.
package forecast
