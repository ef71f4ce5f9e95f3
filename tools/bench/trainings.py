#!/usr/bin/env python3
"""Trains rows of docs/benchmarks.md: makes their data, spreads the runs over the GPUs, goes on where it was stopped, prints a table.

    python3 tools/bench/trainings.py pathfinder32 excerpts [--gpus N] [--seconds S] [--sources DIR] [--flare build/flare]
    python3 tools/bench/trainings.py --list

Data and runs go to data/ and runs/ below the current folder, where tools/configs must be found too. After S seconds everything is stopped
with its state saved; the same command goes on. DIR holds what cannot be generated: cifar10_gray.npz (or CIFAR-10's binary batches) and
aclImdb/. Each row is a chain of recipes; a run that fails takes those behind it with it, and no other. Exit code 0 when every run of the
rows is trained and tested, 1 when some are not.
"""
import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SOFTMAX = ["model.mixer=softmax", "model.scale=0"]
DRAWN = "pathfinder --set size="
PATH_X = ["task.data=data/pathfinder128", "train.batch_size=32", "train.steps=8000"]
AVERAGED = ["train.ema_decay=0.999", "train.eval_every=1000"]


@dataclass
class Stage:
    recipe: str  # below tools/configs, without .json
    sets: list = field(default_factory=list)
    generate: str = ""  # of the data, where it is not the recipe's


def pathfinder(*sets):
    return [Stage(f"lra/pathfinder32{s}", list(sets)) for s in ("-short", "-mixed", "")]


# name: (seeds, stages). The run of the last stage has the row's name; each stage begins with the weights of the one before it.
ROWS = {
    "listops": (3, [Stage("lra/listops")]),
    "listops-softmax": (1, [Stage("lra/listops", SOFTMAX)]),
    "text": (3, [Stage("lra/text")]),
    "text-softmax": (1, [Stage("lra/text", SOFTMAX + ["train.steps=3000"])]),  # about as long as FLARE's 8,000 steps take
    "image": (3, [Stage("lra/image")]),
    "image-averaged": (3, [Stage("lra/image", AVERAGED + ["model.embedding_dropout=0.1"])]),
    "image-mirror": (3, [Stage("lra/image", AVERAGED + ["model.embedding_dropout=0.1", "task.symmetries=mirror"])]),
    "image-softmax": (1, [Stage("lra/image", SOFTMAX)]),
    "pathfinder32": (3, pathfinder()),
    "pathfinder32-flarepp": (1, pathfinder("model.mixer=flare++")),
    "pathfinder32-softmax": (1, pathfinder(*SOFTMAX)),
    "pathfinder32-short-softmax": (1, [Stage("lra/pathfinder32-short", SOFTMAX)]),  # the first stage alone
    "pathfinder32-160k": (1, pathfinder()[:2] + [Stage("lra/pathfinder32", ["task.data=data/pathfinder32"], f"{DRAWN}32 --seed 0")]),
    "pathfinder128": (1, pathfinder() + [Stage("lra/pathfinder32", PATH_X, f"{DRAWN}128 --seed 0")]),
    "excerpts": (1, [Stage("lra/excerpts")]),
    "elasticity": (1, [Stage("pde/elasticity-gen")]),
    "elasticity-flarepp": (1, [Stage("pde/elasticity-gen-flarepp")]),
    "elasticity-softmax": (1, [Stage("pde/elasticity-gen", SOFTMAX)]),
    "darcy": (1, [Stage("pde/darcy-gen")]),
    "darcy-flarepp": (1, [Stage("pde/darcy-gen-flarepp")]),
}


class Data:
    """A prepared folder and the command that makes it."""

    def __init__(self, folder, task, generate, args):
        self.folder, self.process, self.failed = folder, None, False
        if generate:
            words = [w.replace("=DIR", f"={args.sources}/aclImdb") for w in shlex.split(generate)]
            self.command = [args.flare, "data", "generate", *words, "--out", folder]
        else:
            source = args.sources + "/aclImdb" if task == "text" else args.sources
            self.command = [args.flare, "data", "prepare", task, "--source", source, "--out", folder]

    def ready(self):
        return Path(self.folder).is_dir()


class Run:
    def __init__(self, name, stage, seed, before, args):
        recipe = Path("tools/configs") / f"{stage.recipe}.json"
        task = json.loads(recipe.read_text())["task"]
        self.name, self.folder, self.before = name, f"runs/{name}-seed{seed}", before
        self.process, self.failed, self.slot = None, False, None
        own = [s.split("=", 1)[1] for s in stage.sets if s.startswith("task.data=")]
        self.data = own[0] if own else task["data"]
        self.task, self.generate = task["name"], stage.generate or task.get("generate", "")
        sets = list(stage.sets) + ([f"train.init={before.folder}"] if before else [])
        self.command = [args.flare, "train", str(recipe), "--device", args.device, "--seed", str(seed), "--run", self.folder, "--quiet"]
        for s in sets:
            self.command += ["--set", s]

    def summary(self):
        path = Path(self.folder) / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def finished(self):
        return bool(self.summary().get("finished")) and (Path(self.folder) / "eval-test.json").exists()

    def seconds(self, more=0.0):
        path = Path(self.folder + ".seconds")
        total = (float(path.read_text()) if path.exists() else 0.0) + more
        if more:
            path.write_text(f"{total:.1f}\n")
        return total


def start(command, log, gpu=None):
    env = dict(os.environ)
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(gpu)
        env.setdefault("FLARE_THREADS", "2")
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True)


def last_line(log):
    lines = Path(log).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def plan(names, args):
    """The runs of the rows in the order in which they should begin, and the data that they read."""
    runs, data = {}, {}
    for name in names:
        seeds, stages = ROWS[name]
        for seed in range(seeds if args.seeds is None else args.seeds):
            before = None
            for i, stage in enumerate(stages):
                if i == len(stages) - 1:
                    own = name
                elif stage.sets:
                    own = f"{name}-stage{i + 1}"
                else:
                    own = Path(stage.recipe).name  # rows that begin alike share these runs
                run = Run(own, stage, seed, before, args)
                before = runs.setdefault(run.folder, run)
                data.setdefault(run.data, Data(run.data, run.task, run.generate, args))
    return list(runs.values()), list(data.values())


def work(runs, data, args):
    """Starts whatever can be started until all is done or time is up; returns whether time was left."""
    by_folder = {d.folder: d for d in data}
    slots = [g for g in range(args.gpus) for _ in range(args.jobs_per_gpu)]
    until = time.monotonic() + args.seconds
    began = {}
    try:
        while True:
            for d in data:
                if d.process and d.process.poll() is not None:
                    d.failed, d.process = not d.ready(), None
                    say(f"{d.folder}: " + (f"failed: {last_line(d.folder + '.log')}" if d.failed else "made"))
            for r in runs:
                if r.process and r.process.poll() is not None:
                    code, r.process = r.process.returncode, None
                    slots.append(r.slot)
                    r.seconds(time.monotonic() - began[r.folder])
                    r.failed = not r.finished()
                    say(f"{r.folder}: " + (f"exit code {code}: {last_line(r.folder + '.log')}" if r.failed else "trained"))
            for r in runs:  # what cannot be made takes along what needs it
                r.failed = r.failed or by_folder[r.data].failed or bool(r.before and r.before.failed)
            waiting = [r for r in runs if not r.failed and not r.process and not r.finished()]
            busy = [x for x in runs + data if x.process]
            if not waiting and not busy:
                return True
            if time.monotonic() > until:
                return False
            if not any(d.process for d in data):
                wanted = [by_folder[r.data] for r in waiting if not by_folder[r.data].ready()]
                if wanted:
                    wanted[0].process = start(wanted[0].command, wanted[0].folder + ".log")
            for r in waiting:
                if slots and by_folder[r.data].ready() and (not r.before or r.before.finished()):
                    r.slot = slots.pop(0)
                    resume = ["--resume"] if (Path(r.folder) / "config.json").exists() else []
                    began[r.folder] = time.monotonic()
                    r.process = start(r.command + resume, r.folder + ".log", r.slot)
                    say(f"{r.folder}: started on GPU {r.slot}")
            time.sleep(0.1)
    finally:
        for x in runs + data:
            if x.process:
                os.killpg(x.process.pid, signal.SIGTERM)
        for x in runs + data:
            if x.process:
                x.process.wait()
                if isinstance(x, Run):
                    x.seconds(time.monotonic() - began[x.folder])


def table(runs):
    print(f"{'run':40} {'score':12} {'test':>8} {'ms a step':>10} {'seconds':>8}")
    for r in runs:
        if not r.finished():
            print(f"{r.folder:40} {'failed' if r.failed else 'not finished'}")
            continue
        result = json.loads((Path(r.folder) / "eval-test.json").read_text())
        metrics = [json.loads(line) for line in (Path(r.folder) / "metrics.jsonl").read_text().splitlines()]
        steps = sorted(m["ms_per_step"] for m in metrics if "ms_per_step" in m)
        score = result["score_name"]
        print(f"{r.folder:40} {score:12} {result[score]:8.4f} {steps[len(steps) // 2]:10.2f} {r.seconds():8.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="names of --list")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--jobs-per-gpu", type=int, default=1, help="runs at a time on each; small ones gain with CUDA's MPS")
    parser.add_argument("--seconds", type=float, default=1e9, help="time after which all is stopped, to be continued")
    parser.add_argument("--seeds", type=int, help="in place of each row's number")
    parser.add_argument("--sources", default="sources", help="folder of CIFAR-10's and IMDB's files")
    parser.add_argument("--flare", default="build/flare")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.list:
        for name, (seeds, stages) in ROWS.items():
            print(f"{name:22} {seeds} seed{'s' if seeds > 1 else ' '}  {' -> '.join(s.recipe for s in stages)}")
        return 0
    unknown = [r for r in args.rows if r not in ROWS]
    if unknown or not args.rows:
        parser.error(f"no row {unknown[0]!r}; --list names them" if unknown else "name at least one row; --list names them")
    args.flare = str(Path(args.flare).resolve())
    runs, data = plan(args.rows, args)
    try:
        in_time = work(runs, data, args)
    except KeyboardInterrupt:
        in_time = False
    table(runs)
    if not in_time:
        print("stopped; the same command goes on")
    return 0 if all(r.finished() for r in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
