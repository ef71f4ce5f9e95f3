#!/usr/bin/env python3
"""The peer of `flare bench mixer`, `flare bench sdpa` and `flare bench step`: the same in PyTorch, one JSON object a line.

With --step whole training steps, --shapes being names of settings; see peer_step.py. Else:

The FLARE mixer is two scaled_dot_product_attention calls, encode and decode, measured on every back end that takes the shape (PyTorch's
own choice, flash, efficient, cudnn, math), eagerly and from a captured CUDA graph. The line's forward_ms and both_ms (forward + backward
with the gradients of q, k and v) are the best back end's; `backends` holds every one. Measured as in tools/cli/bench.cpp: warm-up; each
sample overwrites 256 MiB, so that the second-level cache holds none of the inputs, then runs `calls` calls on as many input sets between
two events and divides; the median of --repeats samples, or of at least five once a second was measured. A back end whose first timed
call takes more than three times the best so far (and over 5 ms) is measured no further. By default a case whose captured forward takes over
20 ms is not measured eagerly as well: launches do not matter there.

q is a parameter [1,H,M,D] expanded over the batch, k and v are [B,N,H*D] viewed as [B,H,N,D]; y stays [B,H,N,D], which spares the peer a
copy. Peak memory is what one call allocates beyond its inputs.
"""
import argparse
import contextlib
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import peer_step

MIXER = {
    "listops": (32, 8, 16, 128, 2000),
    "text": (32, 8, 16, 128, 4000),
    "image": (32, 8, 8, 256, 1024),
    "pathfinder": (32, 8, 16, 128, 1024),
    "elasticity": (2, 8, 8, 64, 972),
    "darcy": (2, 8, 16, 128, 7225),
    "drivaer40k": (1, 8, 16, 64, 40000),
    "1m-d16-m128": (1, 8, 16, 128, 1 << 20),
    "1m-d16-m64": (1, 8, 16, 64, 1 << 20),
    "1m-d8-m64": (1, 8, 8, 64, 1 << 20),
    "1m-d32-m256": (1, 8, 32, 256, 1 << 20),
    "256k-d64-m256": (1, 8, 64, 256, 1 << 18),
}
SDPA = {f"d{d}-n{n}": (16384 // n, 8, d, n, n) for d in (16, 32, 64) for n in (1024, 2048, 4096, 8192, 16384)}
BACKENDS = {
    "default": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
WARM_UP, FLUSH_BYTES, ENOUGH_SECONDS, FEWEST = 3, 256 << 20, 1.0, 5


class TooSlow(Exception):
    pass


def parse_shapes(text, known):
    """Names out of `known`, and runs of five numbers B,H,D,M,N, comma separated: the words of `flare bench --shapes`."""
    shapes, numbers = [], []
    for word in filter(None, text.split(",")):
        if word.isdigit():
            numbers.append(int(word))
            if len(numbers) == 5:
                shapes.append(("x".join(map(str, numbers)), *numbers))
                numbers = []
        elif word in known and not numbers:
            shapes.append((word, *known[word]))
        else:
            sys.exit(f"peer_torch: no shape {word}; there are {', '.join(known)}, or five numbers B,H,D,M,N")
    if numbers or not shapes:
        sys.exit("peer_torch: a shape needs five numbers B,H,D,M,N")
    return shapes


def backend_context(name):
    return contextlib.nullcontext() if BACKENDS[name] is None else sdpa_kernel(BACKENDS[name])


class Case:
    """The inputs of one shape and dtype, and one call on set i."""

    def __init__(self, args, shape, dtype, device):
        self.sdpa = args.sdpa
        _, B, H, D, M, N = shape
        self.B, self.H, self.D, self.M, self.N = B, H, D, M, N
        self.scale = 1 / math.sqrt(D) if self.sdpa else 1.0
        sigma = args.score_range / 4 / (self.scale * math.sqrt(D)) if args.score_range > 0 else (1.0 if self.sdpa else 0.1)
        elements = B * N * H * D
        self.calls = 1 if device.type == "cpu" else min(max((64 << 20) // (4 * elements), 1), 16)
        make = lambda *s: torch.randn(*s, device=device, dtype=dtype)
        self.mask = None
        if args.mask > 0:
            live = N - min(N - 1, int(args.mask * N))
            self.mask = (torch.arange(N, device=device) < live).view(1, 1, 1, N).expand(B, 1, 1, N)
        self.sets = []
        for _ in range(self.calls):
            if self.sdpa:
                leaves = [make(B, H, M, D) * sigma, make(B, H, N, D), make(B, H, N, D)]
                g = make(B, H, M, D)
            else:
                leaves = [make(1, H, M, D) * sigma, make(B, N, H * D), make(B, N, H * D)]
                g = make(B, N, H * D).view(B, N, H, D).transpose(1, 2)
            self.sets.append(([x.detach().requires_grad_() for x in leaves], g))

    def forward(self, i):
        (q, k, v), _ = self.sets[i]
        if self.sdpa:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=self.scale)
        heads = lambda x: x.view(self.B, self.N, self.H, self.D).transpose(1, 2)
        q, k, v = q.expand(self.B, -1, -1, -1), heads(k), heads(v)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=self.scale)
        y = F.scaled_dot_product_attention(k, q, z, scale=self.scale)
        return y if self.mask is None else y.masked_fill(~self.mask.view(self.B, 1, self.N, 1), 0)

    def both(self, i):
        leaves, g = self.sets[i]
        return torch.autograd.grad(self.forward(i), leaves, g)


class Meter:
    def __init__(self, args, device):
        self.device, self.repeats = device, args.repeats
        self.cuda = device.type == "cuda"
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device) if self.cuda else None

    def sample(self, run):
        if not self.cuda:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush.fill_(1)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def measure(self, body, calls, graph, best):
        """Median and least milliseconds of one call, and the number of samples."""

        def run():
            for i in range(calls):
                body(i)

        run()
        first = self.sample(run) / calls
        if best is not None and first > max(3 * best, 5.0):
            raise TooSlow(f"{first:.1f} ms at the first call, the best back end takes {best:.2f}")
        replay = run
        if graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(1 if first * calls > 200 else WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            recorded, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(recorded):
                    run()
            finally:
                torch.cuda.set_stream(stream)  # a capture that fails may leave its own stream current
            replay = recorded.replay
        for _ in range(1 if first * calls > 200 else WARM_UP):
            replay()
        times, total = [], 0.0
        while len(times) < self.repeats and (len(times) < FEWEST or total < 1e3 * ENOUGH_SECONDS):
            ms = self.sample(replay)
            total += ms
            times.append(ms / calls)
        return statistics.median(times), min(times), len(times)

    def peak(self, body):
        if not self.cuda:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        body(0)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def device_lost(device):
    """Whether nothing runs any more; an error that a back end left behind is taken off first."""
    for _ in range(2):
        try:
            torch.cuda.synchronize()
            return torch.ones(1, device=device).item() != 1
        except RuntimeError:
            pass
    return True


def measure_pass(meter, case, key, graph, backends, line):
    """Fills line[key + '_ms'] and the like with the best back end, line['backends'] with all."""
    body = case.forward if key == "forward" else case.both
    best = None
    for name in backends:
        entry = line["backends"].setdefault(name, {})
        mode = torch.no_grad() if key == "forward" else contextlib.nullcontext()
        try:
            with mode, backend_context(name):
                ms, least, samples = meter.measure(body, case.calls, graph, best)
                entry.update({key + "_ms": ms, key + "_least_ms": least, key + "_samples": samples})
                entry[key + "_peak_bytes"] = meter.peak(body)
        except TooSlow as reason:
            entry[key + "_slow"] = str(reason)
            continue
        except torch.cuda.OutOfMemoryError:
            entry[key + "_refused"] = "out of memory"
            torch.cuda.empty_cache()
            continue
        except (RuntimeError, NotImplementedError) as error:
            text = str(error)
            entry[key + "_refused"] = text.splitlines()[0][:160] if text else type(error).__name__
            if meter.cuda and device_lost(meter.device):
                raise  # the lines so far stand
            continue
        if best is None or ms < best:
            best = ms
            line[key + "_backend"] = name
            line.update({k: v for k, v in entry.items() if k.startswith(key + "_")})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdpa", action="store_true", help="general attention in place of the mixer")
    parser.add_argument("--shapes", default="", help="as in flare bench; default: all, on the CPU the short list")
    parser.add_argument("--dtype", default="f32,tf32,bf16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads")
    parser.add_argument("--graph", default="auto", choices=("auto", "on", "off", "both"), help="auto: both on CUDA")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--mask", type=float, default=0.0)
    parser.add_argument("--score-range", type=float, default=0.0)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--step", action="store_true", help="whole training steps (peer_step.py), with the next three options")
    parser.add_argument("--modes", default="eager,compile,graphs")
    parser.add_argument("--precision", default="", choices=("", "fp32", "tf32", "bf16"), help="in place of each setting's own")
    parser.add_argument("--masked", action="store_true", help="pad and mask the sequences of the settings that have padding")
    args = parser.parse_args()

    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.step:
        peer_step.main(args, device)
        return
    cuda = device.type == "cuda"
    known = SDPA if args.sdpa else MIXER
    short = "2,8,16,1024,1024,2,8,64,1024,1024" if args.sdpa else "listops,image,elasticity"
    shapes = parse_shapes(args.shapes or (",".join(known) if cuda else short), known)
    graphs = {"auto": [True, False] if cuda else [False], "both": [True, False], "on": [True], "off": [False]}[args.graph]
    backends = [b for b in args.backends.split(",") if b]
    for b in backends:
        if b not in BACKENDS:
            sys.exit(f"peer_torch: no back end {b}; there are {', '.join(BACKENDS)}")
    dtypes = args.dtype.split(",")
    for d in dtypes:
        if d not in ("f32", "tf32", "bf16"):
            sys.exit(f"peer_torch: dtype {d} is not f32, tf32 or bf16")
    if not cuda:
        backends = [b for b in backends if b in ("default", "flash", "math")]
        dtypes = [d for d in dtypes if d != "tf32"]

    torch.manual_seed(0)
    meter = Meter(args, device)
    for shape in shapes:
        for dtype in dtypes:
            torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
            torch.backends.cudnn.allow_tf32 = dtype == "tf32"
            base = {
                "bench": "sdpa" if args.sdpa else "mixer",
                "program": "torch",
                "version": torch.__version__,
                "shape": shape[0],
                **dict(zip("BHDMN", shape[1:])),
                "dtype": dtype,
                "kernel": "auto",
                "repeats": args.repeats,
                "mask": args.mask,
                "score_range": args.score_range,
                "device": torch.cuda.get_device_name() if cuda else "cpu",
                "threads": 0 if cuda else torch.get_num_threads(),
                "flush_bytes": FLUSH_BYTES if cuda else 0,
            }
            try:
                case = Case(args, shape, torch.bfloat16 if dtype == "bf16" else torch.float32, device)
            except torch.cuda.OutOfMemoryError:
                print(json.dumps({**base, "error": "out of memory for the inputs"}), flush=True)
                continue
            for graph in graphs:
                line = {**base, "graph": graph, "calls": case.calls, "backends": {}}
                measure_pass(meter, case, "forward", graph, backends, line)
                if not args.forward_only:
                    measure_pass(meter, case, "both", graph, backends, line)
                print(json.dumps(line), flush=True)
                if args.graph == "auto" and graph and line.get("forward_ms", 0) > 20:
                    break
            del case
            if cuda:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
