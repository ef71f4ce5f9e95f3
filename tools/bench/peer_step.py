"""Whole training steps in plain PyTorch: the peer of `flare bench step`, run by `peer_torch.py --step`.

The FLARE model is written here with torch.nn modules and scaled_dot_product_attention, in our own words, with the same shapes, weights'
distribution, loss, clipping, AdamW (fused) and averaged weights. Modes: `eager`; `compile`, torch.compile of forward and loss with the
optimizer left as it is; `graphs`, the same with mode="reduce-overhead", which records CUDA graphs. Precision `bf16` is autocast to bf16
with float32 weights, `fp32` has no TF32, `tf32` allows it in matrix products. By default nothing is padded and no mask is given, as the
FLARE authors' code trains; --masked pads sequences as `flare bench step` does and masks them, which takes flash attention away from PyTorch.
"""
import contextlib
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

LRA = dict(blocks=4, channels=128, heads=8, latents=128, kv_layers=3, ffn_layers=3)
PDE = dict(blocks=8, channels=64, heads=8, kv_layers=3, ffn_layers=3, ema=0.999)
SETTINGS = {
    "listops": dict(LRA, kind="sequence", batch=32, tokens=2000, vocab=16, classes=10, precision="bf16", ragged=True),
    "text": dict(LRA, kind="sequence", batch=32, tokens=4000, vocab=257, classes=2, precision="bf16", ragged=True, rope=True, cls=True, scale=0.25),
    "retrieval": dict(LRA, kind="pair", batch=32, tokens=4000, vocab=257, classes=2, precision="bf16", ragged=True),
    "image": dict(LRA, kind="sequence", batch=32, tokens=1024, vocab=256, classes=10, precision="bf16", blocks=3, channels=64, latents=256,
                  kv_layers=2, ffn_layers=1),
    "pathfinder": dict(LRA, kind="sequence", batch=32, tokens=1024, vocab=256, classes=2, precision="fp32", dropout=0.1, clip=0.5),
    "elasticity": dict(PDE, kind="points", batch=2, tokens=972, inputs=2, precision="fp32", latents=64),
    "darcy": dict(PDE, kind="points", batch=2, tokens=7225, inputs=3, precision="fp32", latents=128),
    "drivaer40k": dict(PDE, kind="points", batch=1, tokens=40000, inputs=3, precision="fp32", latents=64),
    "1m": dict(LRA, kind="points", batch=1, tokens=1 << 20, inputs=3, precision="bf16", blocks=8),
}
MODES = ("eager", "compile", "graphs")
ENOUGH_SECONDS, FEWEST = 4.0, 5


class ResidualMLP(nn.Module):
    def __init__(self, n_in, hidden, n_out, layers, into=True, out_of=True):
        super().__init__()
        self.into, self.out_of = into and n_in == hidden, out_of and hidden == n_out
        self.fc1, self.fc2 = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out)
        self.fcs = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))

    def forward(self, x):
        h = F.gelu(self.fc1(x), approximate="tanh")
        h = x + h if self.into else h
        for fc in self.fcs:
            h = h + F.gelu(fc(h), approximate="tanh")
        y = self.fc2(h)
        return h + y if self.out_of else y


class Mixer(nn.Module):
    def __init__(self, s):
        super().__init__()
        c = s["channels"]
        self.heads, self.scale, self.rope, self.dropout = s["heads"], s.get("scale", 1.0), s.get("rope", False), s.get("dropout", 0.0)
        self.latent_q = nn.Parameter(0.1 * torch.randn(c, s["latents"]))
        self.k_proj, self.v_proj = (ResidualMLP(c, c, c, s["kv_layers"]) for _ in range(2))
        self.out_proj = nn.Linear(c, c)

    def rotate(self, k):
        n, d = k.shape[-2:]
        angle = torch.arange(n, device=k.device)[:, None] * 10000.0 ** (-torch.arange(0, d, 2, device=k.device) / d)
        cos, sin, even, odd = torch.cos(angle), torch.sin(angle), k[..., 0::2], k[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(k.dtype)

    def forward(self, x, mask):
        b, n, c = x.shape
        per_head = lambda t: t.view(b, n, self.heads, -1).transpose(1, 2)
        k, v = per_head(self.k_proj(x)), per_head(self.v_proj(x))
        k = self.rotate(k) if self.rope else k
        q = self.latent_q.view(1, self.heads, -1, c // self.heads).expand(b, -1, -1, -1).to(k.dtype)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        y = F.scaled_dot_product_attention(k, q, z, scale=self.scale)
        return F.dropout(self.out_proj(y.transpose(1, 2).reshape(b, n, c)), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        c = s["channels"]
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.att, self.mlp = Mixer(s), ResidualMLP(c, c, c, s["ffn_layers"])

    def forward(self, x, mask):
        x = x + self.att(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Classifier(nn.Module):
    """Token classifier, and with two sequences the comparison of both."""

    def __init__(self, s):
        super().__init__()
        c, self.cls = s["channels"], s.get("cls", False)
        self.pair = s["kind"] == "pair"
        self.embed = nn.Embedding(s["vocab"], c)
        self.position = None if s.get("rope") else nn.Parameter(0.02 * torch.randn(s["tokens"], c))
        self.token = nn.Parameter(0.02 * torch.randn(c)) if self.cls else None
        self.blocks = nn.ModuleList(Block(s) for _ in range(s["blocks"]))
        width = 2 * c if self.pair else c
        self.final_norm = None if self.cls else nn.LayerNorm(c)
        self.head_norm = None if self.cls else nn.LayerNorm(width)
        self.head = nn.Linear(width, 1 if s["classes"] == 2 else s["classes"])

    def tower(self, tokens, keep):
        x = self.embed(tokens)
        if self.cls:
            x = torch.cat([self.token.expand(x.shape[0], 1, -1), x], 1)
            keep = None if keep is None else F.pad(keep, (1, 0), value=True)
        mask = None if keep is None else keep[:, None, None, :]
        for block in self.blocks:
            x = block(x if self.position is None else x + self.position, mask)
        if self.cls:
            return x[:, 0]
        x = self.final_norm(x)
        return x.mean(1) if keep is None else (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)

    def forward(self, batch):
        x = self.tower(batch["tokens"], batch.get("keep"))
        if self.pair:
            x = torch.cat([x, self.tower(batch["tokens_b"], batch.get("keep_b"))], 1)
        return self.head(x if self.cls else self.head_norm(x))


class Operator(nn.Module):
    def __init__(self, s):
        super().__init__()
        c = s["channels"]
        self.in_proj = ResidualMLP(s["inputs"], c, c, 2, into=False)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s["blocks"]))
        self.out_norm, self.out_proj = nn.LayerNorm(c), ResidualMLP(c, c, 1, 2, out_of=False)

    def forward(self, batch):
        x = self.in_proj(batch["x"])
        for block in self.blocks:
            x = block(x, None)
        return self.out_proj(self.out_norm(x))


def loss_of(s, y, batch):
    y = y.float()
    if s["kind"] == "points":
        return ((y - batch["y"]).flatten(1).norm(dim=1) / batch["y"].flatten(1).norm(dim=1)).mean()
    if s["classes"] == 2:
        return F.binary_cross_entropy_with_logits(y[:, 0], batch["labels"].float())
    return F.cross_entropy(y, batch["labels"])


def synthetic_batch(s, masked, generator):
    b, n = s["batch"], s["tokens"]
    if s["kind"] == "points":
        return {"x": torch.rand(b, n, s["inputs"], generator=generator), "y": torch.rand(b, n, 1, generator=generator)}
    batch = {"labels": torch.randint(s["classes"], (b,), generator=generator)}
    for end in ("", "_b") if s["kind"] == "pair" else ("",):
        batch["tokens" + end] = torch.randint(1, s["vocab"], (b, n), generator=generator)
        if masked:
            lengths = torch.randint(n // 4, n + 1, (b, 1), generator=generator)
            batch["keep" + end] = torch.arange(n) < lengths
    return batch


class Step:
    """One setting in one mode: run() queues a step, batches come from page-locked memory as a loader would bring them."""

    def __init__(self, s, mode, masked, device):
        torch.manual_seed(0)
        self.s, self.device, self.mode = s, device, mode
        cuda = device.type == "cuda"
        model = (Operator if s["kind"] == "points" else Classifier)(s)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.model = model.to(device).train()
        self.parameters = list(self.model.parameters())
        decay = [p for p in self.parameters if p.ndim == 2]
        rest = [p for p in self.parameters if p.ndim != 2]
        self.optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 1e-5}, {"params": rest, "weight_decay": 0.0}], lr=5e-4,
                                           betas=(0.9, 0.999), fused=cuda)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 5e-4, total_steps=100000, pct_start=0.1, div_factor=1e4)
        self.averages = [p.detach().clone() for p in self.parameters] if s.get("ema") else None
        generator = torch.Generator().manual_seed(0)
        self.batches = [{k: v.pin_memory() if cuda else v for k, v in synthetic_batch(s, masked, generator).items()} for _ in range(3)]
        self.n_run = 0

        def forward(batch):
            cast = torch.autocast(device.type, torch.bfloat16) if s["precision"] == "bf16" else contextlib.nullcontext()
            with cast:
                y = self.model(batch)
            return loss_of(s, y, batch)

        self.forward = forward
        if mode != "eager":
            self.forward = torch.compile(forward, mode="reduce-overhead" if mode == "graphs" else None, dynamic=False)

    def run(self):
        batch = {k: v.to(self.device, non_blocking=True) for k, v in self.batches[self.n_run % 3].items()}
        self.n_run += 1
        if self.mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        loss = self.forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.s.get("clip", 1.0))
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages:
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - self.s["ema"])
        return loss


def measure(step, repeats, device):
    """Median and least ms of a step among steps that follow each other without a pause, and how many were measured."""
    cuda = device.type == "cuda"
    for _ in range(4 if step.mode != "eager" else 2):
        step.run()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = step.run().item()
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    about = max(time.perf_counter() - start, 1e-6)
    n = int(min(max(ENOUGH_SECONDS / about, FEWEST), max(repeats, FEWEST)))
    if not cuda:
        times = []
        for _ in range(n):
            start = time.perf_counter()
            step.run()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times), min(times), n
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    step.run()
    events[0].record()
    for event in events[1:]:
        step.run()
        event.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in zip(events, events[1:])]
    return statistics.median(times), min(times), n


def main(args, device):
    names = list(SETTINGS) if args.shapes in ("", "all") else args.shapes.split(",")
    modes = args.modes.split(",")
    for name in names:
        if name not in SETTINGS:
            sys.exit(f"peer_torch: no setting {name}; there are {', '.join(SETTINGS)}")
    for mode in modes:
        if mode not in MODES:
            sys.exit(f"peer_torch: no mode {mode}; there are {', '.join(MODES)}")
    cuda = device.type == "cuda"
    for name in names:
        for mode in modes:
            s = dict(SETTINGS[name])
            if args.precision:
                s["precision"] = args.precision
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = s["precision"] == "tf32"
            masked = args.masked and s.get("ragged", False)
            line = {"bench": "step", "program": "torch", "version": torch.__version__, "setting": name, "mode": mode,
                    "precision": s["precision"], "mask": "lengths n/4 to n" if masked else "none", "batch_size": s["batch"],
                    "tokens": s["tokens"] * (2 if s["kind"] == "pair" else 1), "channels": s["channels"], "blocks": s["blocks"],
                    "latents": s["latents"], "dropout": s.get("dropout", 0.0),
                    "device": torch.cuda.get_device_name() if cuda else "cpu", "threads": 0 if cuda else torch.get_num_threads()}
            step = None
            try:
                torch.compiler.reset()
                if cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                step = Step(s, mode, masked, device)
                line["parameters"] = sum(p.numel() for p in step.parameters)
                line["median_ms"], line["least_ms"], line["samples"] = measure(step, args.repeats, device)
                if cuda:
                    line["peak_bytes"] = torch.cuda.max_memory_allocated()
                    line["reserved_bytes"] = torch.cuda.max_memory_reserved()
            except Exception as error:  # what a compiler may throw is open-ended; the other cases go on
                line["error"] = (str(error).splitlines() or [type(error).__name__])[0][:200]
            del step
            print(json.dumps(line), flush=True)
