#!/usr/bin/env python3
"""Joins the JSON lines of `flare bench mixer|sdpa|step --json` and of peer_torch.py into one table of ratios.

    compare.py OURS.jsonl THEIRS.jsonl [--format markdown|text]      ratio = their time / ours; theirs is the best of its back ends, eager
                                                                     or captured, whichever is faster
                                                                     (steps: in its fastest mode). Steps join by setting, precision and
                                                                     sizes; masks are stated, not matched: PyTorch without one is the faster
    compare.py --ladder LADDER.jsonl [--format markdown|text]        the rungs of the reader's ladder, each against the one before
A row without a partner is kept, with a dash. Later lines of the same case replace earlier ones.
"""
import argparse
import json
import sys

RUNGS = ("naive", "tiled", "tensor-core", "split-token", "final", "auto")


def read(path):
    lines = []
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError as error:
                sys.exit(f"compare: {path} line {number} is not JSON: {error.msg}")
    return lines


def case_of(line):
    return tuple(line.get(k) for k in ("bench", "B", "H", "D", "M", "N", "dtype", "mask", "score_range"))


def milliseconds(x):
    return "-" if x is None else f"{x:.3g}" if x < 100 else f"{x:.0f}"


def mebibytes(x):
    return "-" if x is None else f"{x / 2**20:.1f}" if x < 100 * 2**20 else f"{x / 2**20:.0f}"


def percent(x):
    return "-" if x is None else f"{100 * x:.0f} %"


def ratio(theirs, ours):
    return "-" if not theirs or not ours else f"{theirs / ours:.1f}"


def show(header, rows, form):
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    if form == "markdown":
        print("| " + " | ".join(header) + " |")
        print("|" + "---|" * len(header))
        for row in rows:
            print("| " + " | ".join(map(str, row)) + " |")
    else:
        for row in [header, *rows]:
            print("  ".join(str(c).ljust(w) if i < 2 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())


def best_of(lines, key):
    """The line with the least time of a pass, or None."""
    timed = [line for line in lines if line.get(key + "_ms") is not None]
    return min(timed, key=lambda line: line[key + "_ms"]) if timed else None


def join(ours, theirs):
    """Rows of the table, in our order, then what only the peer has."""
    mine, peer = {}, {}
    for line in ours:
        if line.get("kernel", "auto") == "auto":
            mine.setdefault(case_of(line), {})[line.get("graph", False)] = line
    for line in theirs:
        peer.setdefault(case_of(line), {})[line.get("graph", False)] = line
    rows = []
    for case in [*mine, *(c for c in peer if c not in mine)]:
        a, b = list(mine.get(case, {}).values()), list(peer.get(case, {}).values())
        any_line = (a or b)[0]
        row = [any_line["shape"], any_line["dtype"]]
        memory = []
        shares = []
        for key in ("forward", "both"):
            x, y = best_of(a, key), best_of(b, key)
            t, u = (line[key + "_ms"] if line else None for line in (x, y))
            name = f" ({y[key + '_backend']}{', graph' if y.get('graph') else ''})" if y else ""
            row += [milliseconds(t), milliseconds(u) + name, ratio(u, t)]
            shares.append(percent(x.get(key + "_share") if x else None))
            memory.append([mebibytes(line.get(key + "_peak_bytes") if line else None) for line in (x, y)])
        row += shares + [f"{memory[1][0]} / {memory[1][1]}"]
        rows.append(row)
    return rows


def steps(ours, theirs):
    """Rows of whole training steps: our captured steps (else eager ones) against PyTorch's fastest mode."""
    mine, peer = {}, {}
    for side, lines in ((mine, ours), (peer, theirs)):
        for line in lines:
            if line.get("bench") == "step":
                key = tuple(line.get(k) for k in ("setting", "precision", "batch_size", "tokens", "channels", "blocks", "latents"))
                side.setdefault(key, []).append(line)
    rows = []
    for case in [*mine, *(c for c in peer if c not in mine)]:
        a, b = (min((x for x in side.get(case, []) if x.get("median_ms")), key=lambda x: x["median_ms"], default={}) for side in (mine, peer))
        some = a or b or (mine.get(case) or peer[case])[0]
        errors = "; ".join(f"{x.get('mode', 'ours')}: {x['error'][:60]}" for x in mine.get(case, []) + peer.get(case, []) if "error" in x)
        others = ", ".join(f"{x['mode']} {milliseconds(x['median_ms'])}" for x in peer.get(case, []) if x.get("median_ms") and x is not b)
        rows.append([case[0], f"{some.get('batch_size', '-')} x {some.get('tokens', '-')}", case[1], a.get("mask", "-"), b.get("mask", "-"),
                     f"{milliseconds(a.get('median_ms'))} ({a.get('mode', '-')})",
                     f"{milliseconds(b.get('median_ms'))} ({b.get('mode', '-')})" + (f"; {others}" if others else ""),
                     ratio(b.get("median_ms"), a.get("median_ms")),
                     f"{mebibytes(a.get('peak_bytes'))} / {mebibytes(b.get('peak_bytes'))}" + (f" ({errors})" if errors else "")])
    return rows


def ladder(lines):
    """Rows of the ladder's table: every rung of a shape and dtype against the rung before."""
    cases = {}
    for line in lines:
        cases.setdefault((line["shape"], line["dtype"]), {})[line.get("kernel", "auto")] = line
    rows = []
    for (shape, dtype), rungs in cases.items():
        before = None
        for rung in RUNGS:
            line = rungs.get(rung)
            if line is None:
                continue
            ms = line.get("forward_ms")
            rows.append([shape, dtype, rung, milliseconds(ms), ratio(before, ms), percent(line.get("forward_share")),
                         mebibytes(line.get("forward_peak_bytes"))])
            before = ms or before
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--format", default="markdown", choices=("markdown", "text"))
    args = parser.parse_args()
    if args.ladder:
        lines = [line for path in args.files for line in read(path)]
        show(["shape", "dtype", "rung", "forward ms", "times faster", "share of floor", "extra MiB"], ladder(lines), args.format)
        return
    if len(args.files) != 2:
        sys.exit("compare: two files are joined, ours and theirs")
    ours, theirs = read(args.files[0]), read(args.files[1])
    for side, lines in (("ours", ours), ("theirs", theirs)):
        about = sorted({f"{x.get('program')} {x.get('version')} on {x.get('device')}" for x in lines})
        print(f"{side}: {'; '.join(about) or 'nothing'}", file=sys.stderr)
    if any(x.get("bench") == "step" for x in ours + theirs):
        show(["setting", "B x N", "precision", "mask, ours", "theirs", "ours, ms", "PyTorch, ms", "ratio", "peak MiB, ours / theirs"],
             steps(ours, theirs), args.format)
        return
    header = ["shape", "dtype", "fwd ms", "PyTorch", "ratio", "fwd+bwd ms", "PyTorch", "ratio", "floor fwd", "floor fwd+bwd",
              "extra MiB, ours / theirs"]
    show(header, join(ours, theirs), args.format)


if __name__ == "__main__":
    main()
