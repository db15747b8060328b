#!/usr/bin/env python3
"""Write one random cluster, deterministically from its parameters, in two forms:

  PREFIX.json   the planner's input
  PREFIX.data   text input for hbal -t where an instance's "vcpus" are its CPU load in centicores and a node's
                "cores" are cores*100, so that hbal's vcpu_ratio term becomes exactly the host CPU load utilisation

VMs that are forecast not to converge can't be migrated live: they are pinned, for every planner.
Python 3.9+, standard library only.
"""
import argparse
import json
import math
import random

GIB = 1024
# (memory GiB, weight); vCPU choices per memory size
VM_MEM = [(1, 10), (2, 22), (4, 28), (8, 20), (16, 12), (32, 6), (64, 2)]
VM_CPU = {1: (1,), 2: (1, 2), 4: (1, 2, 4), 8: (2, 4), 16: (2, 4, 8), 32: (4, 8, 16), 64: (8, 16)}
# relative host sizes (memory factor, core factor, weight)
HOST_CLASS = [(1.0, 1.0, 4), (1.0, 1.5, 2), (2.0, 1.5, 2), (2.0, 2.0, 2)]
MAX_VCPU_RATIO = 8.0
LINK_MIB_S = 10e9 / 8 / 2**20 * 0.95       # what a link of 10 Gb/s carries


def converges(mem, dirty):
    """Whether pre-copy ends within 0.3 s of pause, as drover's model (precopy/model) plays the rounds."""
    rest = mem
    for _ in range(60):
        left = mem * -math.expm1(-dirty * rest / LINK_MIB_S / mem)
        if left <= 0.3 * LINK_MIB_S:
            return True
        if left > 0.98 * rest:
            return False
        rest = left
    return False


def pick(rng, pairs):
    return rng.choices([p[0] for p in pairs], weights=[p[-1] for p in pairs])[0]


def build(a):
    rng = random.Random(f"{a.seed}/{a.hosts}/{a.vms}")
    vms = []
    for i in range(a.vms):
        gib = pick(rng, VM_MEM)
        vcpus = rng.choice(VM_CPU[gib])
        # busy fraction: mostly idle, a heavy tail (Beta(0.7, 2.2), mean about 0.24)
        load = round(max(0.01, vcpus * rng.betavariate(0.7, 2.2)), 2)
        # dirty rate MiB/s: lognormal with a heavy tail, grows with load; about 1 % do not converge at 10 Gb/s
        dirty = round(min(4000.0, 15 * math.exp(1.9 * rng.normalvariate(0, 1)) * (0.3 + load)), 2)
        net = round(rng.lognormvariate(-0.5, 1.3), 2)          # MiB/s
        vms.append(dict(name=f"vm{i:05d}", host=None, vcpus=vcpus, mem_mib=gib * GIB, disk_gib=10 * gib,
                        cpu_load=load, dirty_mib_s=dirty, net_mib_s=net))
    tot_mem = sum(v["mem_mib"] for v in vms)
    tot_load = sum(v["cpu_load"] for v in vms)
    tot_vcpu = sum(v["vcpus"] for v in vms)

    classes = [(1.0, 1.0, 1)] if a.homogeneous else HOST_CLASS
    rel = [rng.choices(classes, weights=[c[2] for c in classes])[0] for _ in range(a.hosts)]
    mem_unit = tot_mem / a.fill / sum(r[0] for r in rel)
    cpu_unit = max(tot_load / a.cpu_fill, tot_vcpu / 5.0) / sum(r[1] for r in rel)
    hosts = []
    for i, (rm, rc, _) in enumerate(rel):
        usable = max(8 * GIB, round(rm * mem_unit / (8 * GIB)) * 8 * GIB)
        reserved = 2 * GIB + usable // 64
        hosts.append(dict(name=f"h{i:04d}", cores=max(2, 2 * round(rc * cpu_unit / 2)),
                          mem_mib=usable + reserved, reserved_mib=reserved, net_gbit=10))

    for v in vms:
        if not converges(v["mem_mib"], v["dirty_mib_s"]):
            v["pinned"] = True

    # anti-affinity groups
    groups, k = [], 0
    idx = list(range(a.vms))
    rng.shuffle(idx)
    want = int(a.vms * a.aa)
    while k < want:
        size = min(rng.randint(2, 5), max(2, a.hosts // 2))
        members = sorted(idx[k:k + size])
        k += size
        if len(members) > 1:
            groups.append(dict(name=f"g{len(groups)}", vms=[vms[m]["name"] for m in members]))

    # skewed initial placement; a VM goes to a host drawn by weight among those with room
    weight = [h["mem_mib"] * math.exp(a.skew * rng.gauss(0, 1)) for h in hosts]
    cap = [h["mem_mib"] - h["reserved_mib"] for h in hosts]
    free = cap[:]
    vcpu = [0] * a.hosts
    load = [0.0] * a.hosts
    order = sorted(range(a.vms), key=lambda i: (-vms[i]["mem_mib"], rng.random()))
    limit = 1 - a.headroom
    for i in order:
        v = vms[i]
        ok = [h for h in range(a.hosts)
              if cap[h] - free[h] + v["mem_mib"] <= cap[h] * limit
              and (vcpu[h] + v["vcpus"]) <= MAX_VCPU_RATIO * hosts[h]["cores"]
              and load[h] + v["cpu_load"] <= a.max_load * hosts[h]["cores"]]
        if not ok:
            ok = [h for h in range(a.hosts) if free[h] > v["mem_mib"]]
        if not ok:
            raise SystemExit("no room: lower --fill")
        h = rng.choices(ok, weights=[weight[j] for j in ok])[0]
        v["host"] = hosts[h]["name"]
        free[h] -= v["mem_mib"]
        vcpu[h] += v["vcpus"]
        load[h] += v["cpu_load"]

    drained = []
    if a.drain:
        drained = [h["name"] for h in sorted(rng.sample(hosts, a.drain), key=lambda h: h["name"])]
    return dict(format="cluster/1",
                params=dict(hosts=a.hosts, vms=a.vms, seed=a.seed, skew=a.skew, fill=a.fill, cpu_fill=a.cpu_fill,
                            aa=a.aa, homogeneous=a.homogeneous, drain=a.drain),
                max_vcpu_ratio=MAX_VCPU_RATIO, hosts=hosts, vms=vms, anti_affinity=groups, drain=drained)


def hbal_text(c):
    """hbal's text backend: five sections separated by single blank lines."""
    tag = {}
    for g in c["anti_affinity"]:
        for v in g["vms"]:
            tag.setdefault(v, []).append("aa:" + g["name"])
    used = {h["name"]: 0 for h in c["hosts"]}
    for v in c["vms"]:
        used[v["host"]] += v["mem_mib"]
    out = ["default|uuid-default|preferred||", ""]
    for i, h in enumerate(c["hosts"]):
        # 1.0 of ratio is 100 % CPU load; node "cores" are centicores.
        cores = h["cores"] * 100
        role = "Y" if h["name"] in c["drain"] else ("M" if i == 0 else "N")
        out.append("|".join(map(str, [h["name"], h["mem_mib"], h["reserved_mib"],
                                      h["mem_mib"] - h["reserved_mib"] - used[h["name"]],
                                      1048576, 1048576, cores, role, "uuid-default", 1, "", "N", 0, 0, 1.0])))
    out.append("")
    for v in c["vms"]:
        vc = max(1, round(v["cpu_load"] * 100))
        out.append("|".join(map(str, [v["name"], v["mem_mib"], 0, vc, "running", "Y", v["host"], "", "ext",
                                      ",".join(tag.get(v["name"], [])), 0])))
    out += ["", "htools:iextags:aa", ""]
    tmpl = "diskless,file,sharedfile,plain,blockdev,drbd,rbd,ext"
    spec = "128,1,1024,1,1,1|128,1,0,0,0,1;1048576,1000000,1048576,16,8,12"
    for owner in ("", "default"):
        out.append(f"{owner}|{spec}|{tmpl}|1.0|32.0")
    return "\n".join(out) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hosts", type=int, required=True)
    p.add_argument("--vms", type=int, required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--skew", type=float, default=0.6, help="sigma of the lognormal host preference; 0 = even")
    p.add_argument("--fill", type=float, default=0.65, help="memory in use / memory usable, cluster wide")
    p.add_argument("--cpu-fill", type=float, default=0.45, help="CPU load / cores, cluster wide (upper bound)")
    p.add_argument("--headroom", type=float, default=0.02, help="memory the initial placement leaves free per host")
    p.add_argument("--max-load", type=float, default=0.95, help="initial CPU load bound per host")
    p.add_argument("--aa", type=float, default=0.15, help="share of VMs in anti-affinity groups of 2-5")
    p.add_argument("--homogeneous", action="store_true", help="all hosts alike")
    p.add_argument("--drain", type=int, default=0, help="this many hosts are to be emptied")
    p.add_argument("--out", required=True, metavar="PREFIX")
    a = p.parse_args()
    c = build(a)
    with open(a.out + ".json", "w") as f:
        json.dump(c, f, indent=0, separators=(",", ":"))
    with open(a.out + ".data", "w") as f:
        f.write(hbal_text(c))


if __name__ == "__main__":
    main()
