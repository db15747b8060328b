#!/usr/bin/env python3
"""Replay a migration plan on a cluster and measure it.

  score.py CLUSTER.json PLAN            PLAN: JSON as of "drover plan -o json", or hbal's printed output
  score.py CLUSTER.json -               no plan: the initial state only
  score.py CLUSTER.json PLAN --steps    one CSV line per prefix of the plan (moves, GiB, scores)

Exit status 0: every step feasible and every hard constraint no worse than before; 1: not; 2: unreadable input.
Python 3.9+, standard library only.
"""
import argparse
import json
import math
import re
import sys

GIB = 1024.0
LINE = re.compile(r"^\s*\d+\.\s+(\S+)\s+(\S+)\s+=>\s+(\S+)\s+(-?[\d.]+)\s+a=(.*)$")


def read_plan(path, jobsets):
    """-> list of waves, each a list of (vm, from, to)."""
    if path == "-":
        return []
    text = open(path).read()
    if text.lstrip()[:1] in "{[":
        doc = json.loads(text)
        moves = doc["moves"] if isinstance(doc, dict) else doc
        waves, last = [], object()
        for m in moves:
            w = m.get("wave")
            if w is None or w != last:      # no wave: a wave of its own
                waves.append([])
            last = w if w is not None else object()
            waves[-1].append((m["vm"], m["from"], m["to"]))
        return waves
    waves = []
    busy = set()                            # hosts of the open jobset
    for line in text.splitlines():
        m = LINE.match(line)
        if m:
            # hbal prints primary or primary:secondary
            move = (m[1], m[2].split(":")[0], m[3].split(":")[0])
            # hbal runs successive moves side by side (a jobset) as long as they touch different hosts
            if not jobsets or not waves or busy & set(move[1:]):
                waves.append([])
                busy = set()
            waves[-1].append(move)
            busy |= set(move[1:])
    return waves


def std(xs):
    xs = list(xs)
    if not xs:
        return 0.0
    mean = math.fsum(xs) / len(xs)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in xs) / len(xs))


class State:
    def __init__(self, c):
        self.c = c
        self.host = {h["name"]: h for h in c["hosts"]}
        self.vm = {v["name"]: v for v in c["vms"]}
        self.at = {v["name"]: v["host"] for v in c["vms"]}
        self.drain = set(c.get("drain", []))
        self.cap = {n: h["mem_mib"] - h.get("reserved_mib", 0) for n, h in self.host.items()}
        z = dict.fromkeys(self.host, 0)
        self.mem, self.vcpu, self.load, self.cnt = dict(z), dict(z), dict.fromkeys(z, 0.0), dict(z)
        self.groups = {}
        for g in c.get("anti_affinity", []):
            for v in g["vms"]:
                self.groups.setdefault(v, []).append(g["name"])
        self.aa = {}                                  # (host, group) -> members there
        for v in c["vms"]:
            self.put(v["name"], v["host"], 1)

    def put(self, vm, host, sign):
        v = self.vm[vm]
        self.mem[host] += sign * v["mem_mib"]
        self.vcpu[host] += sign * v["vcpus"]
        self.load[host] += sign * v["cpu_load"]
        self.cnt[host] += sign
        for g in self.groups.get(vm, ()):
            self.aa[host, g] = self.aa.get((host, g), 0) + sign

    def metrics(self):
        on = [n for n in self.host if n not in self.drain]
        cpu = {n: self.load[n] / self.host[n]["cores"] for n in self.host}
        mem = {n: self.mem[n] / self.cap[n] for n in self.host}
        ratio = {n: self.vcpu[n] / self.host[n]["cores"] for n in self.host}
        freefrac = [(self.cap[n] - self.mem[n]) / self.host[n]["mem_mib"] for n in on]
        conflicts = sum(k - 1 for (h, _), k in self.aa.items() if k > 1 and h not in self.drain)
        on_drain = sum(self.cnt[n] for n in self.drain)
        hard = 2.0 * conflicts + 20.0 * on_drain       # pri_tags x2; offline_all x4 + offline_pri x16
        fm, vr, cl = std(freefrac), std(ratio[n] for n in on), std(cpu[n] for n in on)
        # hbal 3.0 counts free_mem_cv and vcpu_ratio_cv twice at 0.5 (plain and "_forth"), so weight 1 each
        return {
            "cpu_util_std": cl, "cpu_util_max": max(cpu[n] for n in on),
            "mem_util_std": std(mem[n] for n in on), "mem_util_max": max(mem[n] for n in on),
            "vcpu_ratio_std": vr, "vcpu_ratio_max": max(ratio[n] for n in on),
            "hosts_cpu_over_1": sum(cpu[n] > 1.0 for n in on),
            "aa_violations": conflicts, "vms_on_drained": on_drain,
            "hbal_free_mem_cv": fm,
            "hbal_score_load": fm + cl + hard, "hbal_score_vcpu": fm + vr + hard,
            "soft_load": fm + cl, "soft_vcpu": fm + vr,
        }


def precopy(mem_mib, dirty, bw):
    """Iterative pre-copy: MiB on the wire, seconds, converged. 0.3 s downtime target, 30 rounds, then forced."""
    left, wire = float(mem_mib), 0.0
    for _ in range(30):
        if left <= 0.3 * bw:
            return wire + left, (wire + left) / bw, True
        wire += left
        left = min(mem_mib, left / bw * dirty)
    return wire + left, (wire + left) / bw, dirty < bw


def replay(c, waves, on_step=None):
    s = State(c)
    err, moved = [], {}
    stat = dict(moves=0, gib_moved=0.0, wire_gib=0.0, serial_s=0.0, makespan_s=0.0, nonconvergent=0,
                mem_overcommit=0, aa_created=0, vcpu_ratio_breaches=0, max_parallel=0, max_per_host=0)
    ratio_lim = c.get("max_vcpu_ratio")
    for wi, wave in enumerate(waves, 1):
        ok, seen, per = [], set(), {}
        for vm, src, dst in wave:
            why = None
            if vm not in s.vm:
                why = "unknown VM"
            elif dst not in s.host:
                why = "unknown target"
            elif s.at[vm] != src:
                why = f"is on {s.at[vm]}, not on {src}"
            elif dst == src:
                why = "source is target"
            elif dst in s.drain:
                why = "target is being drained"
            elif vm in seen:
                why = "twice in one wave"
            if why:
                err.append(f"wave {wi}: {vm} {src}->{dst}: {why}")
                continue
            seen.add(vm)
            ok.append((vm, src, dst))
            for h in (src, dst):
                per[h] = per.get(h, 0) + 1
        for vm, src, dst in ok:                        # reserve every target before any source is released
            if any(s.aa.get((dst, g), 0) > 0 for g in s.groups.get(vm, ())):
                stat["aa_created"] += 1
                err.append(f"wave {wi}: {vm} joins its anti-affinity group on {dst}")
            s.put(vm, dst, 1)
            if s.mem[dst] > s.cap[dst]:
                stat["mem_overcommit"] += 1
                err.append(f"wave {wi}: {vm} -> {dst}: memory {s.mem[dst]} > {s.cap[dst]} MiB")
            if ratio_lim and s.vcpu[dst] > ratio_lim * s.host[dst]["cores"] + 1e-9:
                stat["vcpu_ratio_breaches"] += 1
        longest = 0.0
        for vm, src, dst in ok:
            v = s.vm[vm]
            share = max(per[src], per[dst])
            bw = min(s.host[src].get("net_gbit", 10), s.host[dst].get("net_gbit", 10)) * 1e9 / 8 / 2**20 * 0.95 / share
            wire, sec, conv = precopy(v["mem_mib"], v.get("dirty_mib_s", 0.0), bw)
            stat["moves"] += 1
            stat["gib_moved"] += v["mem_mib"] / GIB
            stat["wire_gib"] += wire / GIB
            stat["serial_s"] += sec
            stat["nonconvergent"] += not conv
            longest = max(longest, sec)
            moved[vm] = moved.get(vm, 0) + 1
        stat["makespan_s"] += longest
        for vm, src, dst in ok:
            s.put(vm, src, -1)
            s.at[vm] = dst
        stat["max_parallel"] = max(stat["max_parallel"], len(ok))
        stat["max_per_host"] = max([stat["max_per_host"]] + list(per.values()))
        if on_step:
            on_step(wi, s, stat)
    stat["vms_moved"] = len(moved)
    stat["vms_moved_twice"] = sum(k > 1 for k in moved.values())
    return s, stat, err


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cluster")
    p.add_argument("plan")
    p.add_argument("--json", action="store_true")
    p.add_argument("--steps", action="store_true")
    p.add_argument("--jobsets", action="store_true", help="moves of hbal's plan side by side as hbal -X runs them")
    p.add_argument("--first", type=int, metavar="K", help="only the first K waves")
    a = p.parse_args()
    try:
        c = json.load(open(a.cluster))
        waves = read_plan(a.plan, a.jobsets)[:a.first]
    except (OSError, ValueError, KeyError) as e:
        print(f"score: {e!r}", file=sys.stderr)
        return 2
    before = State(c).metrics()
    cols = ["soft_load", "cpu_util_std", "cpu_util_max", "mem_util_std", "mem_util_max", "aa_violations"]

    def step(wi, s, stat):
        m = s.metrics()
        print(",".join([str(wi), str(stat["moves"]), f"{stat['gib_moved']:.1f}"] + [f"{m[k]:.6f}" for k in cols]))
    if a.steps:
        print(",".join(["wave", "moves", "gib_moved"] + cols))
        print(",".join(["0", "0", "0.0"] + [f"{before[k]:.6f}" for k in cols]))
    s, stat, err = replay(c, waves, step if a.steps else None)
    after = s.metrics()
    bad = bool(err) or any(after[k] > before[k] for k in ("aa_violations", "hosts_cpu_over_1"))
    if a.steps:
        pass
    elif a.json:
        print(json.dumps(dict(feasible=not err, errors=len(err), before=before, after=after, plan=stat), indent=1))
    else:
        print(f"{'':22}{'before':>12}{'after':>12}")
        for k in before:
            print(f"{k:22}{before[k]:12.6g}{after[k]:12.6g}")
        print()
        for k, x in stat.items():
            print(f"{k:22}{x:12.6g}")
        print(f"{'feasible':22}{'no' if err else 'yes':>12}")
    for e in err[:20]:
        print(e, file=sys.stderr)
    if len(err) > 20:
        print(f"... {len(err)} errors in all", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
