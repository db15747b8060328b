#!/usr/bin/env python3
"""hbal's algorithm on the score terms that apply to shared storage, vectorised (needs numpy).

Same decisions as hbal 3.0.2 (`hbal -t PREFIX.data --ignore-dynu`): at each step
take the single move with the lowest cluster score, ties to the first VM and then the first host in file order.
hbal recomputes the whole score for every VM x host candidate (cost VMs x hosts^2 a step); here a candidate costs O(1),
so its plan can be had for sizes where hbal itself needs hours. VMs that are pinned stay. Prints hbal's line format, which score.py reads.
"""
import argparse
import json
import sys

import numpy as np


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cluster")
    p.add_argument("-g", "--min-gain", type=float, default=0.01)
    p.add_argument("--min-gain-limit", type=float, default=0.1)
    p.add_argument("-l", "--max-length", type=int, default=-1)
    p.add_argument("--per-gib", type=float, default=0.0, metavar="P",
                   help="not hbal: take the move with the largest score drop / GiB^P")
    p.add_argument("--until", type=float, default=1e-9, metavar="SCORE", help="stop at this score")
    a = p.parse_args()
    c = json.load(open(a.cluster))
    hosts, vms = c["hosts"], c["vms"]
    N, M = len(hosts), len(vms)
    hi = {h["name"]: i for i, h in enumerate(hosts)}
    drained = np.array([h["name"] in set(c["drain"]) for h in hosts])
    T = np.array([h["mem_mib"] for h in hosts], float)
    usable = np.array([h["mem_mib"] - h["reserved_mib"] for h in hosts], float)
    C = np.array([h["cores"] * 100 for h in hosts], float)
    w = np.array([max(1, round(v["cpu_load"] * 100)) for v in vms], float)
    lim = 1.0
    m = np.array([v["mem_mib"] for v in vms], float)
    at = np.array([hi[v["host"]] for v in vms])
    free = usable.copy()
    np.subtract.at(free, at, m)
    cpu = np.zeros(N)
    np.add.at(cpu, at, w)
    pinned = np.array([v.get("pinned", False) for v in vms])
    G = len(c["anti_affinity"])
    gid = {g["name"]: k for k, g in enumerate(c["anti_affinity"])}
    vi = {v["name"]: i for i, v in enumerate(vms)}
    member = np.full(M, G)                              # generator: at most one group per VM; G = none
    for g in c["anti_affinity"]:
        for v in g["vms"]:
            member[vi[v]] = gid[g["name"]]
    cnt = np.zeros((N, G + 1), int)
    np.add.at(cnt, (at, member), 1)
    cnt[:, G] = 0
    on = ~drained
    n = on.sum()

    def base():
        f, r = free[on] / T[on], cpu[on] / C[on]
        conf = np.maximum(cnt[on] - 1, 0).sum()
        off = drained[at].sum()
        return f.std() + r.std() + 2.0 * conf + 20.0 * off

    score = base()
    print(f"Initial score: {score:.8f}")
    step = 0
    rows = np.arange(M)
    dm, dw = m[:, None] / T[None, :], w[:, None] / C[None, :]
    while step != a.max_length and score > a.until:
        f, r = free / T, cpu / C
        f0, r0 = f[on].mean(), r[on].mean()
        fc, rc = f - f0, r - r0
        src_on = on[at].astype(float)
        sm, sw = m / T[at], w / C[at]
        s1 = fc[on].sum() + src_on * sm
        s2 = (fc[on] ** 2).sum() + src_on * (2 * fc[at] * sm + sm * sm)
        u1 = rc[on].sum() - src_on * sw
        u2 = (rc[on] ** 2).sum() + src_on * (-2 * rc[at] * sw + sw * sw)
        A = s1[:, None] - dm
        V = (s2[:, None] - 2 * fc[None, :] * dm + dm * dm) / n - (A / n) ** 2
        B = u1[:, None] + dw
        W = (u2[:, None] + 2 * rc[None, :] * dw + dw * dw) / n - (B / n) ** 2
        tot = np.sqrt(np.maximum(V, 0)) + np.sqrt(np.maximum(W, 0))
        conf = np.maximum(cnt[on] - 1, 0).sum()
        there = cnt[:, member].T                        # members of the VM's group on each host
        less = (cnt[at, member] > 1) & on[at]
        off = drained[at].sum()
        tot += 2.0 * (conf - less)[:, None] + 20.0 * (off - drained[at].astype(int))[:, None]
        bad = (free[None, :] - m[:, None] <= 0) | (r[None, :] + dw > lim + 1e-12) | (there > 0) | drained[None, :]
        bad[rows, at] = True
        bad[pinned] = True
        tot[bad] = np.inf
        if a.per_gib:
            k = int(((score - tot) / ((m / 1024) ** a.per_gib)[:, None]).argmax())
        else:
            k = int(tot.argmin())
        i, t = divmod(k, N)
        s = at[i]
        free[s] += m[i]; cpu[s] -= w[i]; cnt[s, member[i]] -= 1
        free[t] -= m[i]; cpu[t] += w[i]; cnt[t, member[i]] += 1
        at[i] = t
        cnt[:, G] = 0
        new = base()
        if not (new < score and (score > a.min_gain_limit or score - new >= a.min_gain)):
            break
        score = new
        step += 1
        print(f"{step:5d}. {vms[i]['name']} {hosts[s]['name']} => {hosts[t]['name']} {score:.8f} a=fa:{hosts[t]['name']}")
    print(f"Solution length={step}")


if __name__ == "__main__":
    sys.exit(main())
