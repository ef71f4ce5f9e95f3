#!/usr/bin/env python3
"""Writes tests/golden/*.safetensors: models and optimizers of this repository, stated once more in PyTorch.

Every case holds a configuration, weights (float32 values), inputs, the output, the loss, all gradients and the losses of ten AdamW
steps under OneCycleLR, computed in float64. The attention arithmetic is cross-checked here against explicit weight matrices in
numpy. Needs Python 3, numpy and PyTorch 1.13 or newer:   python3 tools/golden/make_golden.py [folder [name...]]
With names, only those files are written.
"""
import json
import math
import pathlib
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


# ---- the file format --------------------------------------------------------------------------------------------------------
def write_safetensors(path, tensors, metadata):
    names = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}
    arrays = {k: np.ascontiguousarray(v.detach().numpy() if torch.is_tensor(v) else v).reshape(np.shape(v)) for k, v in tensors.items()}
    header, data = {"__metadata__": metadata}, b""
    for key in sorted(arrays, key=lambda k: (-arrays[k].dtype.itemsize, k)):
        raw = arrays[key].tobytes()
        header[key] = {"dtype": names[str(arrays[key].dtype)], "shape": list(arrays[key].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# ---- layers -----------------------------------------------------------------------------------------------------------------
class Net:
    """A model as a function of named weights: `make` creates each on first use, later calls look it up."""

    def __init__(self, config, seed):
        self.config, self.weights, self.decays, self.buffers = config, {}, {}, {}
        self.random = torch.Generator().manual_seed(seed)

    def make(self, name, shape, sigma, mean=0.0, decay=False):
        if name not in self.weights:
            value = mean + sigma * torch.randn(shape, generator=self.random, dtype=torch.float64)
            self.weights[name] = value.float().double().requires_grad_()  # float32 values, so that the file holds them exactly
            self.decays[name] = decay
        return self.weights[name]

    def buffer(self, name, shape):
        if name not in self.buffers:
            self.buffers[name] = torch.randn(shape, generator=self.random, dtype=torch.float64).float().double()
        return self.buffers[name]

    def linear(self, name, x, n_out, bias=True):
        n_in = x.shape[-1]
        y = x @ self.make(name + ".weight", (n_out, n_in), 0.8 / math.sqrt(n_in), decay=True).T
        return y + self.make(name + ".bias", (n_out,), 0.2) if bias else y

    def norm(self, name, x):
        width = x.shape[-1]
        weight = self.make(name + ".weight", (width,), 0.2, 1.0)
        if self.config["norm"] == "rms":
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + np.finfo(np.float32).eps) * weight
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5) * weight + self.make(name + ".bias", (width,), 0.2)

    def activation(self, x):
        kind = self.config["activation"]
        if kind == "silu":
            return x * torch.sigmoid(x)
        return F.gelu(x, approximate="tanh" if kind == "gelu" else "none")

    def residual_mlp(self, name, x, hidden, n_out, layers, input_residual=True, output_residual=True):
        n_in = x.shape[-1]
        if layers == -1:
            y = self.linear(name + ".fc", x, n_out)
            return x + y if input_residual and output_residual and n_in == n_out else y
        h = self.activation(self.linear(name + ".fc1", x, hidden))
        h = x + h if input_residual and n_in == hidden else h
        for i in range(layers):
            h = h + self.activation(self.linear(f"{name}.fcs.{i}", h, hidden))
        y = self.linear(name + ".fc2", h, n_out)
        return h + y if output_residual and hidden == n_out else y

    # ---- attention
    def heads(self, x):
        return x.reshape(x.shape[0], x.shape[1], self.config["heads"], -1).transpose(1, 2)

    def merge(self, y):
        return y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)

    def rotate(self, x):  # [B,H,N,D]
        if self.config["position"] != "rope":
            return x
        n, d = x.shape[-2:]
        angle = torch.arange(n).double()[:, None] * 10000.0 ** (-torch.arange(0, d, 2).double() / d)[None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        if self.config["compat"]["rope_as_shipped"]:
            twice = angle.repeat_interleave(2, dim=-1)
            return x * torch.cos(twice) + torch.cat([-odd, even], -1) * torch.sin(twice)
        turned = torch.stack([even * torch.cos(angle) - odd * torch.sin(angle), odd * torch.cos(angle) + even * torch.sin(angle)], -1)
        return turned.reshape(x.shape)

    def att(self, name, x, mask):
        c, kind = self.config, self.config["mixer"]
        n_channels, n_heads, n_latents = c["channels"], c["heads"], c["latents"]
        width = n_channels // n_heads
        scale = c["scale"] or (1.0 if kind == "flare" else width**-0.5)
        per_head = (lambda key, t: self.norm(f"{name}.{key}", t)) if c["qk_norm"] else (lambda key, t: t)
        if kind in ("softmax", "linear", "linformer", "performer"):
            q, k, v = (self.heads(t) for t in self.linear(name + ".qkv_proj", x, 3 * n_channels, c["qkv_bias"]).chunk(3, -1))
            q, k = per_head("q_norm", q), per_head("k_norm", k)
            if kind == "softmax":
                y = attend(self.rotate(q), self.rotate(k), v, scale, mask)
            elif kind == "linear":
                y = self.linear_attention(q, k, v, mask)
            elif kind == "linformer":
                y = self.linformer(name, self.rotate(q), self.rotate(k), v, scale, mask)
            else:
                y = self.performer(name, self.rotate(q), self.rotate(k), v, scale, mask)
            return self.linear(name + ".out_proj", self.merge(y), n_channels)
        if kind == "flare":
            q = self.make(name + ".latent_q", (n_channels, n_latents), 0.7).reshape(1, n_heads, n_latents, width)
            hidden = int(n_channels * c["kv_ratio"])
            k = self.heads(self.residual_mlp(name + ".k_proj", x, hidden, n_channels, c["kv_layers"]))
            v = self.heads(self.residual_mlp(name + ".v_proj", x, hidden, n_channels, c["kv_layers"]))
            out = name + ".out_proj"
        else:
            seeds = self.make(name + ".q_seed", (1, n_heads, n_latents, width), 1.0)
            a, b, k, v = (self.heads(t) for t in self.linear(name + ".in_projection", x, 4 * n_channels).chunk(4, -1))
            q = attend(seeds.expand(x.shape[0], -1, -1, -1), self.rotate(a), b, scale, mask)
            out = name + ".out_linear"
        q, k = per_head("q_norm", q), self.rotate(per_head("k_norm", k))
        y = flare_mixer(q.expand(x.shape[0], -1, -1, -1), k, v, scale, mask)
        return self.linear(out, self.merge(y), n_channels)

    # The baselines, with every matrix N x N written out: no sum is taken in the order that makes them cheap.
    def linear_attention(self, q, k, v, mask):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        weights = masked(self.rotate(q) @ self.rotate(k).transpose(-1, -2), mask)
        return weights / masked(q @ k.transpose(-1, -2), mask).sum(-1, keepdim=True) @ v

    def linformer(self, name, q, k, v, scale, mask):
        c = self.config
        longest = c["n_points"] if c["model"] == "operator" else c["max_length"] + (c["pool"] == "cls")
        e, f = (self.make(f"{name}.{key}", (c["latents"], longest), longest**-0.5, decay=True) for key in ("e_proj", "f_proj"))
        n = q.shape[2]
        keep = torch.ones(q.shape[0], n) if mask is None else mask.double()
        shorten = lambda weight, t: torch.einsum("mn,bn,bhnd->bhmd", weight[:, :n], keep, t)
        return attend(q, shorten(e, k), shorten(f, v), scale)

    def performer(self, name, q, k, v, scale, mask):
        omega = self.buffer(name + ".random_features", (self.config["latents"], q.shape[-1]))
        features = lambda t: torch.exp(t @ omega.T - (t * t).sum(-1, keepdim=True) / 2) / math.sqrt(omega.shape[0])
        weights = masked(features(q * math.sqrt(scale)) @ features(k * math.sqrt(scale)).transpose(-1, -2), mask)
        return weights / weights.sum(-1, keepdim=True) @ v

    def block(self, name, x, mask):
        c = self.config
        x = x + self.att(name + ".att", self.norm(name + ".norm1", x), mask)
        h, hidden = self.norm(name + ".norm2", x), int(c["channels"] * c["ffn_ratio"])
        if c["ffn"] == "residual":
            return x + self.residual_mlp(name + ".mlp", h, hidden, c["channels"], c["ffn_layers"])
        h = self.activation(self.linear(name + ".mlp.fc1", h, hidden))
        return x + self.linear(name + ".mlp.fc2", h, c["channels"])

    # ---- models
    def tower(self, tokens, mask):
        c, n_channels = self.config, self.config["channels"]
        if c["compat"]["no_mask"]:
            mask = None
        cls = c["pool"] == "cls"
        x = self.make("token_emb.token_embed.weight", (c["vocab"], n_channels), 0.7)[tokens]
        if cls:
            front = self.make("cls_token", (n_channels,), 0.7).expand(x.shape[0], 1, -1)
            x = torch.cat([front, x], 1)
            mask = None if mask is None else torch.cat([torch.ones(x.shape[0], 1, dtype=mask.dtype), mask], 1)
        n = x.shape[1]
        position = 0
        if c["position"] == "learned":
            position = self.make("pos_emb.pe.weight", (c["max_length"] + cls, n_channels), 0.5)[:n]
        if c["position"] == "sinusoidal":
            angle = torch.arange(n).double()[:, None] * torch.exp(torch.arange(0, n_channels, 2).double() * (-math.log(10000.0) / n_channels))
            # the table is float32 in FLARE.py and here
            waves = torch.stack([torch.sin(angle), torch.cos(angle)], -1).reshape(n, n_channels).float().double()
            position = waves * self.make("pos_emb.pos_scale", (), 0.1, 0.6)
        for i in range(c["blocks"]):
            x = self.block(f"blocks.{i}", x + position, mask)
        if cls:
            return x[:, 0]
        x = self.norm("final_norm", x)
        keep = torch.ones(x.shape[:2]) if mask is None else mask.double()
        if c["pool"] == "mean":
            return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        return x.masked_fill(keep[..., None] == 0, -math.inf).amax(1)

    def classifier(self, inputs):
        c = self.config
        features = self.tower(inputs["tokens"], inputs.get("mask"))
        if c["two_towers"]:
            features = torch.cat([features, self.tower(inputs["tokens_b"], inputs.get("mask_b"))], 1)
        if c["pool"] != "cls":
            features = self.norm("cls_proj.1", features)
        n_logits = 1 if c["n_classes"] == 2 else c["n_classes"]
        if c["head"] == "mlp":
            hidden = F.gelu(self.linear("cls_proj.2.0", features, features.shape[1]))
            return self.linear("cls_proj.2.2", hidden, n_logits)
        return self.linear("cls_proj.2", features, n_logits)

    def operator(self, inputs):
        c = self.config
        x = self.residual_mlp("in_proj", inputs["x"], c["channels"], c["channels"], c["io_layers"], input_residual=False)
        for i in range(c["blocks"]):
            x = self.block(f"blocks.{i}", x, inputs.get("mask"))
        return self.residual_mlp("out_proj.1", self.norm("out_proj.0", x), c["channels"], c["out_channels"], c["io_layers"], output_residual=False)

    def loss(self, inputs):
        if self.config["model"] == "operator":
            y, target = self.operator(inputs), inputs["target"]
            keep = inputs["mask"].double()[..., None] if "mask" in inputs else torch.ones_like(target)
            error, size = (((t * keep) ** 2).flatten(1).sum(1).sqrt() for t in (y - target, target))
            return y, (error / size).mean()
        y, labels = self.classifier(inputs), inputs["labels"]
        if self.config["n_classes"] == 2:
            return y, F.binary_cross_entropy_with_logits(y[:, 0], labels.double())
        return y, F.cross_entropy(y, labels)


def attend(q, k, v, scale, mask=None):
    """softmax(scale q kT) v with padded keys left out; the softmax is written out."""
    scores = scale * q @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True).detach())
    return weights / weights.sum(-1, keepdim=True) @ v


def masked(weights, mask):
    return weights if mask is None else weights * mask.double()[:, None, None, :]


def flare_mixer(q, k, v, scale, mask=None):
    y = attend(k, q, attend(q, k, v, scale, mask), scale)
    y = y if mask is None else y * mask.double()[:, None, :, None]
    check_mixer(*(t.detach().numpy() for t in (q, k, v, y)), scale, None if mask is None else mask.numpy())
    return y


def check_mixer(q, k, v, y, scale, mask):
    """The same map as two explicit matrices per sample and head: y = W_dec (W_enc v)."""
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            logits = scale * np.einsum("md,nd->mn", q[b, h], k[b, h])
            encode, decode = np.exp(logits - logits.max()), np.exp(logits.T - logits.max())
            if mask is not None:
                encode, decode = encode * mask[b][None, :], decode * mask[b][:, None]
            encode = encode / encode.sum(1, keepdims=True)
            decode = decode / np.maximum(decode.sum(1, keepdims=True), 1e-300)
            assert np.allclose(encode.sum(1), 1) and np.linalg.matrix_rank(decode @ encode) <= q.shape[2]
            np.testing.assert_allclose(y[b, h], decode @ encode @ v[b, h], rtol=1e-10, atol=1e-12)


# ---- cases ------------------------------------------------------------------------------------------------------------------
BASE = dict(mixer="flare", blocks=2, channels=16, heads=4, latents=8, kv_layers=1, ffn_layers=1, kv_ratio=1.0, ffn_ratio=1.0, ffn="residual",
            activation="gelu", scale=0.0, qk_norm=False, qkv_bias=True, norm="layer", position="learned", pool="mean", head="linear", io_layers=1,
            compat=dict(rope_as_shipped=False, no_mask=False))
LRA = dict(BASE, model="classifier", vocab=11, max_length=26, n_classes=5, two_towers=False)
PDE = dict(BASE, model="operator", position="none", in_channels=3, out_channels=2)
SMALL = dict(blocks=1, channels=8, heads=2, latents=6, ffn="plain")
CASES = {
    "lra_flare": LRA,
    "lra_flarepp": dict(LRA, mixer="flare++"),
    "lra_softmax": dict(LRA, mixer="softmax", ffn="plain", ffn_ratio=2.0, activation="gelu_erf"),
    "lra_flare_rope_cls": dict(LRA, position="rope", pool="cls", head="mlp", n_classes=2, scale=0.5, kv_ratio=1.5),
    "lra_flarepp_rope_norm": dict(LRA, mixer="flare++", position="rope", qk_norm=True, activation="silu"),
    "lra_softmax_rope_rms": dict(LRA, mixer="softmax", position="rope", qk_norm=True, norm="rms", pool="max", head="mlp"),
    "lra_retrieval": dict(LRA, position="sinusoidal", two_towers=True, n_classes=2, qk_norm=True, kv_layers=-1),
    "lra_flare_as_shipped": dict(LRA, position="rope", compat=dict(rope_as_shipped=True, no_mask=True)),
    "pde_flare": dict(PDE, kv_layers=2, ffn_layers=2, heads=2),
    "pde_flarepp": dict(PDE, mixer="flare++", masked=True),
    "pde_softmax": dict(PDE, mixer="softmax", ffn="plain", ffn_ratio=2.0, qkv_bias=False),
    "lra_linear": dict(LRA, **SMALL, mixer="linear"),
    "lra_linear_rope": dict(LRA, **SMALL, mixer="linear", position="rope", qk_norm=True, pool="max"),
    "lra_linformer": dict(LRA, **SMALL, mixer="linformer", pool="cls", n_classes=2),
    "lra_linformer_rope": dict(LRA, **SMALL, mixer="linformer", position="rope", qk_norm=True, norm="rms"),
    "lra_performer": dict(LRA, **SMALL, mixer="performer"),
    "lra_performer_rope": dict(LRA, **SMALL, mixer="performer", position="rope", qk_norm=True, norm="rms", scale=0.7),
    "pde_linformer": dict(PDE, **SMALL, mixer="linformer", n_points=24, qkv_bias=False),
    "pde_performer": dict(PDE, **SMALL, mixer="performer", masked=True),
}
TRAIN = dict(lr=4e-3, weight_decay=0.05, beta2=0.98, eps=1e-8, clip_norm=1.0, steps=10, warmup=0.3, div_factor=1e4, final_div_factor=1e-2)


def make_inputs(config, random):
    batch, n = 3, 24
    lengths = torch.tensor([n, n - 9, n - 16])
    mask = (torch.arange(n)[None, :] < lengths[:, None]).to(torch.uint8)
    if config["model"] == "operator":
        x = torch.randn((batch, n, config["in_channels"]), generator=random).float().double()
        target = torch.randn((batch, n, config["out_channels"]), generator=random).float().double()
        return dict(x=x, target=target, **(dict(mask=mask) if config.get("masked") else {}))
    draw = lambda high, shape: torch.randint(0, high, shape, generator=random)
    inputs = dict(tokens=draw(config["vocab"], (batch, n)), mask=mask, labels=draw(config["n_classes"], (batch,)))
    if config["two_towers"]:
        shorter = n - 5
        inputs.update(tokens_b=draw(config["vocab"], (batch, shorter)), mask_b=mask[:, :shorter].contiguous())
    return inputs


def train(net, inputs):
    groups = [dict(params=[w for k, w in net.weights.items() if net.decays[k] == on], weight_decay=TRAIN["weight_decay"] * on) for on in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=TRAIN["lr"], betas=(0.9, TRAIN["beta2"]), eps=TRAIN["eps"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=TRAIN["lr"], total_steps=TRAIN["steps"], pct_start=TRAIN["warmup"],
                                                   div_factor=TRAIN["div_factor"], final_div_factor=TRAIN["final_div_factor"])
    losses = []
    for step in range(TRAIN["steps"]):
        optimizer.zero_grad()
        loss = net.loss(inputs)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.weights.values(), TRAIN["clip_norm"])
        optimizer.step()
        if step + 1 < TRAIN["steps"]:
            schedule.step()
        losses.append(loss.item())
    return np.array(losses)


def make_case(name, config, seed):
    random = torch.Generator().manual_seed(1000 + seed)
    net, inputs = Net(config, seed), make_inputs(config, random)
    net.loss(inputs)  # creates the weights
    if "x" in inputs:
        inputs["x"].requires_grad_()
    output, loss = net.loss(inputs)
    loss.backward()
    tensors = {"input." + k: (v.detach().float() if v.dtype == torch.float64 else v) for k, v in inputs.items()}
    tensors.update({"param." + k: w.detach().float() for k, w in net.weights.items()})
    tensors.update({"buffer." + k: w.float() for k, w in net.buffers.items()})
    tensors.update({"grad." + k: w.grad.clone() for k, w in net.weights.items()})
    if "x" in inputs:
        tensors["input_grad.x"] = inputs["x"].grad.clone()
        inputs["x"].requires_grad_(False)
    tensors.update(output=output.detach(), loss=loss.detach())
    tensors["losses"] = train(net, inputs)
    print(f"{name:24s} loss {tensors['losses'][0]:.6f} -> {tensors['losses'][-1]:.6f}  parameters {sum(w.numel() for w in net.weights.values())}")
    return tensors, dict(config=json.dumps(config), train=json.dumps(TRAIN))


# ---- optimizers and schedules -------------------------------------------------------------------------------------------------
def make_optimizers():
    random = torch.Generator().manual_seed(7)
    n_steps, lr, decay, ema = 12, 0.02, 0.1, 0.8
    start = {"weight": torch.randn((7, 5), generator=random).float().double(), "bias": torch.randn((5,), generator=random).float().double()}
    grads = {k: torch.randn((n_steps,) + tuple(v.shape), generator=random).float().double() for k, v in start.items()}
    grads["weight"][5] *= 64  # something to clip; a power of two keeps the values float32
    tensors = {"start." + k: v.float() for k, v in start.items()} | {"grads." + k: v.float() for k, v in grads.items()}

    def run(name, make, clip=0.0, scheduled=False):
        p = {k: v.clone().requires_grad_() for k, v in start.items()}
        average = {k: v.clone() for k, v in start.items()}
        optimizer = make(p)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps, pct_start=0.3) if scheduled else None
        for i in range(n_steps):
            for k in p:
                p[k].grad = grads[k][i].clone()
            if clip:
                torch.nn.utils.clip_grad_norm_(p.values(), clip)
            optimizer.step()
            if schedule and i + 1 < n_steps:
                schedule.step()
            for k in p:
                average[k] = ema * average[k] + (1 - ema) * p[k].detach()
        for k in p:
            tensors[f"{name}.{k}"], tensors[f"{name}.ema.{k}"] = p[k].detach(), average[k]

    groups = lambda p: [dict(params=[p["weight"]], weight_decay=decay), dict(params=[p["bias"]], weight_decay=0.0)]

    class Lion:  # arXiv 2302.06675, algorithm 2, written out
        def __init__(self, p, beta1=0.9, beta2=0.99):
            self.p, self.beta1, self.beta2 = p, beta1, beta2
            self.momentum = {k: torch.zeros_like(v) for k, v in p.items()}

        @torch.no_grad()
        def step(self):
            for k, v in self.p.items():
                direction = torch.sign(self.beta1 * self.momentum[k] + (1 - self.beta1) * v.grad)
                v -= lr * (direction + (decay if k == "weight" else 0) * v)
                self.momentum[k] = self.beta2 * self.momentum[k] + (1 - self.beta2) * v.grad

    run("adamw", lambda p: torch.optim.AdamW(groups(p), lr=lr, betas=(0.9, 0.98)))
    run("adamw_clip", lambda p: torch.optim.AdamW(groups(p), lr=lr, betas=(0.9, 0.98)), clip=3.0)
    run("adamw_onecycle", lambda p: torch.optim.AdamW(groups(p), lr=lr, betas=(0.9, 0.98)), scheduled=True)
    run("sgd", lambda p: torch.optim.SGD(groups(p), lr=lr, momentum=0.9))
    run("sgd_nesterov", lambda p: torch.optim.SGD(groups(p), lr=lr, momentum=0.9, nesterov=True))
    run("sgd_onecycle", lambda p: torch.optim.SGD(groups(p), lr=lr, momentum=0.9), scheduled=True)
    run("lion", Lion)

    for total, pct, div, final in [(37, 0.1, 1e4, 1e-2), (100, 0.3, 25.0, 1e4), (10, 0.3, 1e4, 1e4), (5, 0.1, 10.0, 10.0)]:
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=lr, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=total, pct_start=pct, div_factor=div, final_div_factor=final)
        series = []
        for step in range(total):
            series.append([optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]])
            optimizer.step()
            if step + 1 < total:
                schedule.step()
        tensors[f"onecycle.{total}"] = np.array(series)
        tensors[f"onecycle.{total}.args"] = np.array([pct, div, final])
    return tensors, dict(lr=str(lr), weight_decay=str(decay), ema=str(ema), steps=str(n_steps))


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[2:] or [*CASES, "optimizers"]
    for seed, (name, config) in enumerate(CASES.items()):
        if name in wanted:
            write_safetensors(folder / (name + ".safetensors"), *make_case(name, config, seed))
    if "optimizers" in wanted:
        write_safetensors(folder / "optimizers.safetensors", *make_optimizers())
    total = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    print(f"{folder}: {total} bytes")


if __name__ == "__main__":
    main()
