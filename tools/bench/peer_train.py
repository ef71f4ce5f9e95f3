#!/usr/bin/env python3
"""Trains the PyTorch model of peer_step.py by one of our recipes on one of our prepared folders of fields: the fairness check of accuracy.

    python3 tools/bench/peer_train.py tools/configs/pde/elasticity-gen.json [--epochs N] [--seed S]

Same data and scales, relative L2 on decoded fields (and of Darcy's derivatives where the recipe weighs them), one cycle of learning rate and
first moment, clipping, decoupled weight decay of matrices alone, averaged weights. The whole step is recorded in a CUDA graph on a GPU, so the
optimizer is written here on one flat vector with all scalars in tensors. --epochs shortens the whole schedule. Prints a JSON object a line;
the last has the errors of the last and of the averaged weights on every split.
"""
import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import peer_step


class Data:
    def __init__(self, folder, device):
        info = json.loads((folder / "dataset.json").read_text())
        self.grid = info.get("grid")
        self.splits = {}
        for split in ("train", "val", "test"):
            if (folder / f"{split}.x.npy").exists():
                self.splits[split] = [torch.from_numpy(np.load(folder / f"{split}.{f}.npy")).float().to(device) for f in "xy"]
        self.scales = {}
        for i, field in enumerate("xy"):
            channels = self.splits["train"][i].shape[-1]
            scale = info.get("normalisation", {}).get(field, {"mean": [0.0] * channels, "std": [1.0] * channels})
            self.scales[field] = [torch.tensor(scale[k], device=device, dtype=torch.float32) for k in ("mean", "std")]

    def encode(self, x):
        mean, std = self.scales["x"]
        return (x - mean) / std

    def decode(self, y):
        mean, std = self.scales["y"]
        return y * std + mean


def relative_l2(p, y):
    return ((p - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()


def derivative_error(p, y, grid):
    p, y = (t.unflatten(1, grid) for t in (p, y))
    inside = torch.zeros_like(p)
    inside[:, 1:-1, 1:-1] = p[:, 1:-1, 1:-1]
    wide = lambda t: nn.functional.pad(t, (0, 0, 1, 1, 1, 1))
    along = (lambda t: wide(t)[:, 2:, 1:-1] - wide(t)[:, :-2, 1:-1], lambda t: wide(t)[:, 1:-1, 2:] - wide(t)[:, 1:-1, :-2])
    return sum(relative_l2(d(inside), d(y)) for d in along)


class FlatAdamW:
    """AdamW with clipping and averaging on one vector that all parameters are views of."""

    def __init__(self, model, recipe, steps, device):
        self.o, self.t, self.steps = recipe["optim"], recipe["train"], steps
        parameters = list(model.parameters())
        size = sum(p.numel() for p in parameters)
        self.w, self.g, self.m, self.v = (torch.zeros(size, device=device) for _ in range(4))
        self.decay = torch.zeros(size, device=device)
        at = 0
        for p in parameters:
            part = slice(at, at + p.numel())
            self.w[part] = p.detach().flatten()
            p.data, p.grad = self.w[part].view_as(p), self.g[part].view_as(p)
            if p.ndim == 2 and not getattr(p, "is_latent", False):
                self.decay[part] = self.o["weight_decay"]
            at += p.numel()
        self.average = self.w.clone()
        self.lr, self.beta1, self.correct1, self.correct2 = (torch.zeros((), device=device) for _ in range(4))

    def one_cycle(self, step):
        """lr and beta1 of a step, as torch.optim.lr_scheduler.OneCycleLR gives them."""
        s, peak = self.o["schedule"], self.o["lr"]
        first, turn = peak / s["div_factor"], s["warmup"] * self.steps - 1
        last = first / s["final_div_factor"]
        low, high = 0.85, 0.95
        if step <= turn:
            c = (1 + math.cos(math.pi * step / turn)) / 2
            return peak + (first - peak) * c, low + (high - low) * c
        c = (1 + math.cos(math.pi * (step - turn) / (self.steps - 1 - turn))) / 2
        return last + (peak - last) * c, high + (low - high) * c

    def prepare(self, step):
        lr, beta1 = self.one_cycle(step)
        self.lr.fill_(lr)
        self.beta1.fill_(beta1)
        self.correct1.fill_(1 - beta1 ** (step + 1))
        self.correct2.fill_(1 - self.o["beta2"] ** (step + 1))

    def run(self):
        g = self.g * (self.t["clip_norm"] / (self.g.norm() + 1e-6)).clamp(max=1.0)
        self.m.lerp_(g, 1 - self.beta1)
        self.v.mul_(self.o["beta2"]).addcmul_(g, g, value=1 - self.o["beta2"])
        self.w.mul_(1 - self.lr * self.decay)
        self.w.sub_(self.lr * (self.m / self.correct1) / ((self.v / self.correct2).sqrt() + self.o["eps"]))
        self.average.lerp_(self.w, 1 - self.t["ema_decay"])


def make_model(recipe, data, seed):
    m = recipe["model"]
    if m.get("mixer", "flare") != "flare":
        sys.exit("peer_train: the PyTorch model has the mixer flare alone")
    x, y = data.splits["train"]
    settings = {k: m[k] for k in ("blocks", "channels", "heads", "latents", "kv_layers", "ffn_layers", "scale")}
    torch.manual_seed(seed)
    model = peer_step.Operator({**settings, "inputs": x.shape[-1]})
    if y.shape[-1] != 1:
        sys.exit("peer_train: the PyTorch model has one output channel")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        if isinstance(module, peer_step.Mixer):
            module.latent_q.is_latent = True
    return model


def evaluate(model, data, split):
    x, y = data.splits[split]
    with torch.no_grad():
        return sum(relative_l2(data.decode(model({"x": data.encode(x[i : i + 1])})), y[i : i + 1]).item() for i in range(len(x))) / len(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--data", default="", help="in place of the recipe's task.data")
    parser.add_argument("--epochs", type=int, default=0, help="0: the recipe's steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    recipe = json.loads(Path(args.recipe).read_text())
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    data = Data(Path(args.data or recipe["task"]["data"]), device)
    x, y = data.splits["train"]
    batch = recipe["train"]["batch_size"]
    per_epoch = len(x) // batch
    steps = args.epochs * per_epoch or recipe["train"]["steps"]
    model = make_model(recipe, data, args.seed).to(device)
    optimizer = FlatAdamW(model, recipe, steps, device)
    weight = recipe["task"].get("derivative_weight", 0.0)
    rows = torch.zeros(batch, dtype=torch.int64, device=device)
    total = torch.zeros((), device=device)

    def step():
        optimizer.g.zero_()
        target = y.index_select(0, rows)
        p = data.decode(model({"x": data.encode(x.index_select(0, rows))}))
        error = relative_l2(p, target)
        (error + weight * derivative_error(p, target, data.grid) if weight else error).backward()
        optimizer.run()
        total.add_(error.detach())

    run = step
    if device.type == "cuda":
        optimizer.prepare(0)  # of lr 0 in effect: the first steps below only warm up, and what they changed is put back
        before = [t.clone() for t in (optimizer.w, optimizer.m, optimizer.v, optimizer.average)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for t, kept in zip((optimizer.w, optimizer.m, optimizer.v, optimizer.average), before):
            t.copy_(kept)
        total.zero_()
        run = graph.replay

    generator = torch.Generator().manual_seed(args.seed)
    start, every = time.perf_counter(), max(steps // 50, 1)
    for i in range(steps):
        if i % per_epoch == 0:
            order = torch.randperm(len(x), generator=generator).to(device)
        rows.copy_(order[(i % per_epoch) * batch : (i % per_epoch + 1) * batch])
        optimizer.prepare(i)
        run()
        if (i + 1) % every == 0:
            loss = total.item() / every
            total.zero_()
            print(json.dumps({"step": i + 1, "relative_l2": loss, "seconds": time.perf_counter() - start}), flush=True)
            if not math.isfinite(loss):
                sys.exit("peer_train: the loss is not finite")
    line = {"program": "torch", "version": torch.__version__, "recipe": args.recipe, "steps": steps, "seed": args.seed,
            "parameters": optimizer.w.numel(), "seconds": time.perf_counter() - start,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    line["last"] = {split: evaluate(model, data, split) for split in data.splits}
    optimizer.w.copy_(optimizer.average)
    line["averaged"] = {split: evaluate(model, data, split) for split in data.splits}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
