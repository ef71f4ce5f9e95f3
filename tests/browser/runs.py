"""Run folders for the browser to see: a classification run, another of the same task, and a run of fields."""
import json
import math
import os
import struct
import zlib


def png(width, height, value):
    """A grey picture; value(column, row) is 0 to 255."""
    rows = b"".join(b"\0" + bytes(value(x, y) for x in range(width)) for y in range(height))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def metrics(steps, every, score, speed):
    lines = []
    for step in range(10, steps + 1, 10):
        loss = 0.3 + 2 * math.exp(-speed * step / steps) + 0.05 * math.sin(step)
        lines.append({"step": step, "epoch": 0, "split": "train", "loss": loss, score: math.exp(-loss) if score == "accuracy" else loss / 3,
                      "lr": 1e-3 * math.sin(math.pi * step / steps) + 1e-6, "grad_norm": loss / 2, "tokens_per_s": 12000 + 500 * math.sin(step),
                      "ms_per_step": 9 + math.sin(step), "data_share": 0.01, "peak_bytes": 40 << 20})
        if step % every == 0:
            loss = 0.35 + 2 * math.exp(-speed * step / steps)
            lines.append({"step": step, "epoch": 0, "split": "val", "loss": loss, score: math.exp(-loss) if score == "accuracy" else loss / 3})
    return "".join(json.dumps(line) + "\n" for line in lines)


def classification(folder, speed=5.0, lr=1e-3):
    write(folder + "/config.json", json.dumps({
        "task": {"name": "<listops> & 'friends'", "data": "data/<b>listops</b>"}, "model": {"blocks": 2, "channels": 64},
        "train": {"steps": 400, "batch_size": 32, "accumulate": 1}, "optim": {"lr": lr}, "seed": 0, "version": "0.1.0"}))
    write(folder + "/metrics.jsonl", metrics(400, 50, "accuracy", speed))
    write(folder + "/summary.json", json.dumps({
        "recipe": "listops-mini", "version": "0.1.0", "git": "0123456789ab", "device": "cpu, 2 threads", "parameters": 123456,
        "data": {"name": "listops", "splits": {"train": 2000, "val": 200, "test": 200}, "source": "generated", "licence": "MIT"},
        "finished": True, "step": 400, "steps": 400, "seconds": 61.5, "score_name": "accuracy", "higher_is_better": True}))
    confusion = [[(5 + 3 * i + k) % 23 + (40 if i == k else 0) for k in range(10)] for i in range(10)]
    write(folder + "/eval-test.json", json.dumps({
        "split": "test", "score_name": "accuracy", "loss": 0.41, "accuracy": 0.66, "n_samples": 200, "step": 400, "majority_class": 0,
        "majority_accuracy": 0.21, "chosen_by": "step 400", "confusion": confusion,
        "by_length": [{"from": 5 + 8 * i, "to": 12 + 8 * i, "n_samples": 40, "accuracy": 0.9 - 0.1 * i} for i in range(5)]}))
    eigenvalues = [[math.exp(-(0.15 + 0.05 * h) * i) for i in range(64)] for h in range(4)]
    write(folder + "/spectrum.json", json.dumps({"weights": "checkpoints/best/model.safetensors", "split": "test", "samples": 8, "layers": [
        {"block": b, "heads": [{"head": h, "eigenvalues": eigenvalues[h], "effective_rank": 9.5 - h} for h in range(4)]} for b in range(2)]}))


def fields(folder):
    write(folder + "/config.json", json.dumps({"task": {"name": "darcy", "data": "data/darcy"}, "train": {"steps": 200, "batch_size": 4,
                                                                                                         "accumulate": 1}, "seed": 0}))
    write(folder + "/metrics.jsonl", metrics(200, 50, "relative_l2", 4.0))
    errors = [0.01 + 0.002 * (i * 37 % 97) for i in range(200)]
    write(folder + "/eval-test.json", json.dumps({
        "split": "test", "score_name": "relative_l2", "loss": 0.1, "relative_l2": 0.1, "n_samples": 200, "errors": errors,
        "best": {"sample": 3, "relative_l2": 0.01}, "median": {"sample": 1, "relative_l2": 0.1}, "worst": {"sample": 4, "relative_l2": 0.2}}))
    for which in ("best", "median", "worst"):
        write(f"{folder}/panels/test-{which}.png", png(900, 280, lambda x, y: (x * y // 300) % 256))
