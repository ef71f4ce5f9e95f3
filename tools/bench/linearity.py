#!/usr/bin/env python3
"""Plots time or memory against the number of tokens, both axes logarithmic, from JSON lines of `flare bench` that differ in N alone.

    linearity.py LINES.jsonl --output docs/mixer_linearity.svg                     of `flare bench mixer`: a line per dtype and pass
    linearity.py LINES.jsonl --output docs/step_memory.svg --of memory --title T   of `flare bench step`: a line per mixer and recomputation

A dashed guide rises in proportion to N from the last point of the highest line. The slope of each line over its upper decade is printed
and written beside it: 1 is linear; launches flatten the left end.
"""
import argparse
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 460, 74, 232, 48, 56
DTYPE_COLOURS = {"f32": "#b3401f", "tf32": "#8a6d00", "bf16": "#1f5fb3"}
MIXER_COLOURS = {"flare": "#1f5fb3", "softmax": "#b3401f"}
PASSES = (("forward", "forward", "6 4"), ("both", "forward + backward", ""))
UNITS = {"time": "milliseconds", "memory": "GiB"}


def values_of(line, of):
    """(label, colour, dash, value) of each point that a line gives."""
    if line["bench"] == "step":
        value = line.get("median_ms") if of == "time" else line["peak_bytes"] / 2**30 if "peak_bytes" in line else None
        again = line.get("recompute", "none")
        label, dash = (line["mixer"], "") if again == "none" else (f"{line['mixer']}, recompute={again}", "6 4")
        return [(label, MIXER_COLOURS.get(line["mixer"], "#444"), dash, value)] if value else []
    return [(f"{line['dtype']} {name}", DTYPE_COLOURS.get(line["dtype"], "#444"), dash, line[key + "_ms"])
            for key, name, dash in PASSES if key + "_ms" in line]


def shape_of(line):
    if line["bench"] == "mixer":
        return ", ".join(f"{k} {line[k]}" for k in "BHDM")
    names = {"B": "batch_size", "C": "channels", "M": "latents", "blocks": "blocks"}
    return ", ".join(f"{name} {line[key]}" for name, key in names.items()) + f", {line['precision']}"


def read_series(paths, of):
    """{label: (colour, dash, sorted [(N, value)])} and the common shape; exits when the lines do not belong together."""
    points, style, shapes = {}, {}, set()
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, filter(str.strip, file)):
                if "error" in line:
                    continue
                shapes.add(shape_of(line))
                n = line["tokens"] if line["bench"] == "step" else line["N"]
                for label, colour, dash, value in values_of(line, of):
                    points.setdefault(label, {})[n] = value
                    style[label] = (colour, dash)
    if len(shapes) != 1:
        sys.exit(f"linearity: the lines hold {len(shapes)} shapes; they may differ in N alone")
    return {label: (*style[label], sorted(p.items())) for label, p in points.items()}, shapes.pop()


def slope(points):
    """Least squares in logarithms over the upper decade of N; None with fewer than two points."""
    top = [(math.log(n), math.log(ms)) for n, ms in points if n * 10 >= points[-1][0]]
    if len(top) < 2:
        return None
    x0, y0 = (sum(c) / len(top) for c in zip(*top))
    return sum((x - x0) * (y - y0) for x, y in top) / sum((x - x0) ** 2 for x, _ in top)


def decades(low, high):
    return math.floor(math.log10(low)), math.ceil(math.log10(high))


def draw(series, shape, title, unit):
    every = [p for _, _, points in series.values() for p in points]
    x_low, x_high = decades(min(n for n, _ in every), max(n for n, _ in every))
    y_low, y_high = decades(min(t for _, t in every), max(t for _, t in every))
    x_high, y_high = max(x_high, x_low + 1), max(y_high, y_low + 1)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x_at = lambda n: LEFT + (right - LEFT) * (math.log10(n) - x_low) / (x_high - x_low)
    y_at = lambda t: bottom - (bottom - TOP) * (math.log10(t) - y_low) / (y_high - y_low)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="26" font-size="15">{title}: {shape}</text>',
    ]
    for e in range(x_low, x_high + 1):
        x = x_at(10**e)
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">10<tspan dy="-5" font-size="9">{e}</tspan></text>')
    for e in range(y_low, y_high + 1):
        y = y_at(10**e)
        label = f"{10**e:g}"
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    out.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">tokens N</text>')
    out.append(f'<text transform="translate(20 {(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">{unit}</text>')

    n1, t1 = max((points[-1] for _, _, points in series.values()), key=lambda p: p[1])
    n0 = max(10**x_low, n1 * 10**y_low / t1)
    out.append(f'<line x1="{x_at(n0):.1f}" y1="{y_at(t1 * n0 / n1):.1f}" x2="{x_at(n1):.1f}" y2="{y_at(t1):.1f}" stroke="#999" '
               'stroke-dasharray="2 4"/>')
    labels = []
    for name, (colour, dash, points) in series.items():
        path = " ".join(f"{x_at(n):.1f},{y_at(t):.1f}" for n, t in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        out += [f'<circle cx="{x_at(n):.1f}" cy="{y_at(t):.1f}" r="3" fill="{colour}"/>' for n, t in points]
        s = slope(points)
        labels.append([y_at(points[-1][1]), name + (f", slope {s:.2f}" if s is not None else ""), colour])
    at = 0.0
    for label in sorted(labels):  # pushed apart where lines end together
        at = max(label[0] + 4, at + 15)
        out.append(f'<text x="{right + 8}" y="{at:.1f}" font-size="11" fill="{label[2]}">{label[1]}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="LINES.jsonl")
    parser.add_argument("--output", required=True)
    parser.add_argument("--title", default="FLARE mixer")
    parser.add_argument("--of", choices=UNITS, default="time", help="what the lines of whole steps show")
    args = parser.parse_args()
    series, shape = read_series(args.files, args.of)
    if not series:
        sys.exit("linearity: no points")
    for label, (_, _, points) in series.items():
        s = slope(points)
        print(f"{label}: N {points[0][0]} to {points[-1][0]}, slope over the upper decade {'-' if s is None else f'{s:.3f}'}")
    with open(args.output, "w", encoding="utf-8") as file:
        file.write(draw(series, shape, args.title, UNITS[args.of]))


if __name__ == "__main__":
    main()
