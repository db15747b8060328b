// Package policy is what people want of migrations: classes of intent, and which VM has which.
//
// # For operators
//
// No document is needed: a VM may pause for 150 ms, up to 900 ms when there is no other way, may be
// slowed by 30 %, is sent encrypted, and never by post-copy. A document says otherwise, for all VMs or
// for some:
//
//	schema: 1
//	default:                     # what classes do not say; what this does not say is as above
//	  max_slowdown: 20%
//	classes:
//	  gold:
//	    max_pause: 80ms          # the promise
//	    max_pause_ceiling: 80ms  # how far it may be stretched when there is no other way
//	    max_slowdown: 0%         # share of the guest's work that may be lost; 0% never throttles
//	  batch:
//	    max_pause: 2s
//	    max_pause_ceiling: 10s
//	    budget: 30m              # abort when not done by then; 0 reckons it from size and link
//	    priority: -10            # of several requests the higher is ordered first
//	  appliance:
//	    pinned: true             # never moves
//	rules:                       # the first that matches decides
//	  - match: {name: "web-*", labels: {env: prod}}
//	    class: gold
//	  - match: {host: "batch*"}
//	    class: batch
//	groups:
//	  - name: database
//	    vms: ["db-*"]
//	    kind: anti_affinity      # or affinity
//	    strength: required       # or preferred
//	automation:                  # moves that nobody asked for
//	  level: partial             # manual recommends, partial waits for a person's word, full moves
//	  mark: 85%                  # of a host's CPU, above which its VMs begin to wait
//	  hold: 10m                  # for how long a host must be above before that counts
//	  horizon: 6h                # how far ahead is looked
//	  min_gain: 5                # core-minutes above the mark in it that a move must avoid
//	  plan_expiry: 24h           # how long a plan may wait, and its run take
//	  max_moves: 50              # of one plan
//	  max_gib: 500               # of memory that one plan moves
//	  at_once: 4                 # of these under way together
//	  windows:                   # without any, every time that is not blacked out is allowed
//	    - name: nightly
//	      cron: "30 1 * * MON-FRI"
//	      duration: 4h
//	      zone: Europe/Berlin    # UTC when not said, which has no clock changes: best for machines
//	  blackouts:
//	    - name: backup
//	      cron: "0 3 * * *"
//	      duration: 45m
//
// What migrations may take of the network stands under network; all of it is optional:
//
//	network:
//	  reserve: 10%               # of each host's link, kept for tenants; or a rate: 400mbit, 50MiB/s
//	  limits:
//	    migration: 4gbit         # one migration at most; host_out, host_in, fleet likewise
//	    streams_out: 1           # migrations that leave a host at once, at most 8; streams_in: 2
//	  hosts:                     # limits of their own (out, in, reserve); the first that matches
//	    - {labels: {zone: edge}, out: 500mbit}
//	  links:                     # what the hosts with the labels share towards all others
//	    - {name: rack-a, labels: {rack: a}, capacity: 20gbit, reserve: 25%}
//	  windows:                   # times in which other limits count, as calendar writes them
//	    - {name: night, cron: "0 22 * * *", duration: 8h, limits: {fleet: 200gbit}}
//
// The other fields of a class are post_copy (never, allowed), encrypt (true, false), automatic (true, false:
// whether the VM may be moved when nobody asked for it) and cooldown (30m: the rest that it gets after a move
// before such a one). before_hook and after_hook name commands that the agents' settings allow (hooks-dir): the
// one runs on the source before a migration, the other where the VM is after it. Each may take hook_timeout;
// with hook_failure: refuse (else go-on) a migration whose first hook fails is not begun. Times have a unit,
// shares a per cent sign. Every condition of a match must hold; name and host are patterns with *, ? and
// [a-z]; labels must be equal. A match on the host changes as the VM moves.
//
// The most particular word counts: the VM's own class and values ("drover vm set"), else the class of
// the first rule that matches, else the default. "drover policy check VM" shows which it is and where
// every value comes from. Flags of "drover migrate" count for that one migration.
//
//	drover policy show -o yaml > policy.yaml   # has the revision: apply refuses what is outdated
//	drover policy apply policy.yaml --dry-run  # what would change, and for which VMs
//	drover policy apply policy.yaml
//	drover policy edit                         # the same in an editor
//	drover vm set web-1 --class gold --label env=prod
//	drover vm set fw --pinned=true
//
// A change counts from the next request on, without a restart. A migration keeps the values that it was
// asked for with; they are in its record. Required anti-affinity stops every move that would bring two of
// the group together. The other groups, automatic and cooldown are for automatic moves and drains; an order by
// hand heeds none of them.
//
// Automation without a word is manual: the leader says what it would move ("drover plan list"), and moves
// nothing. Reports of load are averaged over slots (slot: 5m); nothing moves by itself before it was seen for
// twelve. How windows go through clock changes is told in package calendar.
//
// A policy that can't be read, or a VM whose class is gone, stops the migrations concerned with code
// "policy": a promise that is not known can't be kept. Apply therefore refuses to remove a class that a
// VM names.
//
// # For programmers
//
// The rooms: document.go and units.go (the records), parse.go (strict reading, all faults at once),
// validate.go, resolve.go (which class and value, and why), diff.go, automation.go. Everything here is pure; values may
// be shared but not written to once handed out. The store keeps a [Document] under its policy key and a
// [VMRecord] for each VM about which somebody decided something; fleet.Snapshot has both.
package policy
