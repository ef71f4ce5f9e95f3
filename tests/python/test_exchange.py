#!/usr/bin/env python3
"""Weights cross to PyTorch and back: models trained by the program answer alike as the modules of tools/golden/make_golden.py, come
back bit for bit through each form FLARE.py saves, and what cannot be exchanged is one line.

    test_exchange.py <flare program>        exit code 77: skipped, because this Python lacks numpy, PyTorch or safetensors
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import safetensors.numpy
    import safetensors.torch
    import torch
except ImportError as missing:
    print(f"skipped: the exchange of weights with PyTorch was not tested: {missing}")
    sys.exit(77)

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
EXPORT, IMPORT = (SOURCE / "tools/python" / name for name in ("export_to_flare_py.py", "import_from_flare_py.py"))
# PyTorch 1 refuses numbers outside of tensors, which every snapshot of a trainer holds.
TRUST = ["--trust"] if torch.__version__.startswith("1.") else []
SMALL = ["blocks=2", "channels=16", "heads=4", "latents=8", "kv_layers=1", "ffn_layers=1"]

spec = importlib.util.spec_from_file_location("make_golden", SOURCE / "tools/golden/make_golden.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


def call(*command, fails_with=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if fails_with is None:
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout
    assert done.returncode == 3 and done.stderr.count("\n") == 1, f"{command}: exit code {done.returncode}\n{done.stderr}"
    assert fails_with in done.stderr, f"{fails_with!r} is not in {done.stderr!r}"
    return done.stderr


def train(run, recipe, data, *settings):
    assignments = [f"task.data={data}", "train.steps=20", "train.batch_size=4", "train.eval_every=10", "train.checkpoint_every=10",
                   "optim.lr=0.01", *(f"model.{s}" for s in SMALL), *settings]  # fmt: skip
    call(PROGRAM, "train", SOURCE / "tools/configs" / recipe, "--run", run, "--device", "cpu", *sum((["--set", a] for a in assignments), []))
    return json.loads(pathlib.Path(run, "config.json").read_text())


def torch_model(state, config, **more):
    """The PyTorch statement of a recipe's model, with the weights of a state_dict in FLARE.py's names."""
    compat = config["compat"]
    net = golden.Net(dict(config["model"], compat=dict(no_mask=compat["no_mask"], rope_as_shipped=compat["rope_as_shipped"]), **more), 0)
    net.weights = {name: value.double() for name, value in state.items()}
    net.given = set(net.weights)
    return net


def answers(run, inputs, output, *options):
    call(PROGRAM, "predict", run, "--device", "cpu", "--input", inputs, "--output", output, *options)
    return np.load(output)


def check_close(ours, theirs, what):
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert ours.shape == theirs.shape and error < 1e-5, f"{what}: {ours.shape} {theirs.shape}, relative difference {error}"
    print(f"{what}: PyTorch and flare agree to {error:.1e}")


def check_same_tensors(path, original):
    """Equal bits, read by the safetensors package."""
    ours, theirs = safetensors.numpy.load_file(original), safetensors.numpy.load_file(path)
    assert ours.keys() == theirs.keys(), f"{path}: {ours.keys() ^ theirs.keys()}"
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.tobytes() == theirs[name].tobytes(), f"{path}: {name} changed"


def check_fields(scratch, mixer, *settings):
    run = scratch / f"run-{mixer}"
    config = train(run, "pde/darcy-gen.json", scratch / "darcy", f"model.mixer={mixer}", "train.ema_decay=0.9", *settings)
    own = run / "checkpoints/best/ema.safetensors"
    print(call(sys.executable, EXPORT, run, scratch / "model.pt"), end="")
    about = json.loads((scratch / "model.json").read_text())
    state = torch.load(scratch / "model.pt")
    if mixer == "softmax":
        assert "blocks.1.ln2.weight" in state and "out_proj.mlp.fc2.bias" in state, f"not the names of FLARE.py's Transformer: {list(state)}"
        own_names = {"ln1": "norm1", "ln2": "norm2", "out_proj.ln": "out_proj.0", "out_proj.mlp": "out_proj.1"}
        renamed = lambda name: next((name.replace(a + ".", b + ".") for a, b in own_names.items() if a + "." in name), name)
    else:
        arguments = about["FLAREModel"]
        assert (arguments["in_dim"], arguments["out_dim"], arguments["num_latents"], arguments["attn_scale"]) == (3, 1, 8, 1.0), arguments
        renamed = lambda name: name

    # Same answers. The scales are those of the file beside the weights.
    net = torch_model({renamed(k): v for k, v in state.items()}, config, model="operator", in_channels=3, out_channels=1)
    scale = {f: {k: np.array(v) for k, v in s.items()} for f, s in about["normalisation"].items()}
    x = np.load(scratch / "darcy/test.x.npy").astype(np.float64)
    encoded = torch.from_numpy((x - scale["x"]["mean"]) / scale["x"]["std"])
    with torch.no_grad():
        theirs = net.operator({"x": encoded}).numpy() * scale["y"]["std"] + scale["y"]["mean"]
    assert set(net.weights) == net.given, f"the module lacked {set(net.weights) - net.given}"
    ours = answers(run, scratch / "darcy/test.x.npy", scratch / "y.npy")
    check_close(ours, theirs, f"fields, {mixer}")

    # Back, from what FLARE.py's Trainer saves: a compiled, data-parallel module beside its average and the optimizer's state.
    plain = safetensors.torch.load_file(run / "checkpoints/best/model.safetensors")
    snapshot = {"model_state": {f"module._orig_mod.{k}": v for k, v in plain.items()}, "step": 20, "train_loss_per_batch": [1.0, 0.5],
                "ema_shadow": {f"_orig_mod.{k}": v for k, v in state.items()}, "opt_state": {"state": {}, "param_groups": []}}  # fmt: skip
    torch.save(snapshot, scratch / "snapshot.pt")
    back = scratch / "back.safetensors"
    call(sys.executable, IMPORT, scratch / "snapshot.pt", back, "--ema", "--like", own, *TRUST)
    check_same_tensors(back, own)
    again = answers(run, scratch / "darcy/test.x.npy", scratch / "y.npy", "--weights", back)
    assert again.tobytes() == ours.tobytes(), "the imported weights answer otherwise"
    call(sys.executable, IMPORT, scratch / "snapshot.pt", back, "--like", run, *TRUST)
    check_same_tensors(back, run / "checkpoints/best/model.safetensors")

    # With other scales than the data folder's.
    (scratch / "scales.json").write_text(json.dumps({"x": about["normalisation"]["x"], "y": {"mean": [0.0], "std": [2.0]}}))
    call(sys.executable, IMPORT, scratch / "model.pt", back, "--normalisation", scratch / "scales.json")
    other = answers(run, scratch / "darcy/test.x.npy", scratch / "y.npy", "--weights", back)
    check_close((other - 0.0) / 2.0, (theirs - scale["y"]["mean"]) / scale["y"]["std"], f"fields, {mixer}, other scales")


def check_sequences(scratch):
    run = scratch / "run-listops"
    config = train(run, "lra/listops-mini.json", scratch / "listops")
    call(sys.executable, EXPORT, run, scratch / "lra.safetensors", "--checkpoint", "last")
    state = safetensors.torch.load_file(scratch / "lra.safetensors")
    tokens = np.array([[12, 3, 4, 15, 0, 0], [11, 9, 8, 7, 15, 0], [13, 1, 2, 3, 4, 15]])
    np.save(scratch / "tokens.npy", tokens)
    net = torch_model(state, config, model="classifier", vocab=state["token_emb.token_embed.weight"].shape[0],
                      max_length=state["pos_emb.pe.weight"].shape[0], n_classes=10, two_towers=False)  # fmt: skip
    with torch.no_grad():
        theirs = net.classifier({"tokens": torch.from_numpy(tokens), "mask": torch.from_numpy((tokens != 0).astype(np.uint8))}).numpy()
    assert set(net.weights) == net.given, f"the module lacked {set(net.weights) - net.given}"
    last = run / "checkpoints/last/model.safetensors"
    check_close(answers(run, scratch / "tokens.npy", scratch / "y.npy", "--weights", last), theirs, "sequences")
    call(sys.executable, IMPORT, scratch / "lra.safetensors", scratch / "back.safetensors", "--like", last)
    check_same_tensors(scratch / "back.safetensors", last)
    # Half precision comes back as float32.
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        torch.save({"state_dict": {k: v.to(kind) for k, v in state.items()} | {"n_averaged": torch.tensor(3)}}, scratch / "half.pth")
        assert "left out: n_averaged" in call(sys.executable, IMPORT, scratch / "half.pth", scratch / "back.safetensors", "--like", last)
        for name, value in safetensors.torch.load_file(scratch / "back.safetensors").items():
            assert torch.equal(value, state[name].to(kind).float()), f"{name} in {kind}"
    answers(run, scratch / "tokens.npy", scratch / "y.npy", "--weights", scratch / "back.safetensors")


def check_refusals(scratch):
    run, state = scratch / "run-flare", torch.load(scratch / "model.pt")
    refuse = lambda content, says, *options: (torch.save(content, scratch / "bad.pt"),
                                              call(sys.executable, IMPORT, scratch / "bad.pt", scratch / "never.safetensors", *options, fails_with=says))  # fmt: skip
    name = "out_proj.ln.weight" if "out_proj.ln.weight" in state else "out_proj.0.weight"
    refuse({k: v for k, v in state.items() if k != name}, "missing out_proj.0.weight [16]", "--like", scratch / "run-softmax")
    refuse({**state, name: torch.zeros(3)}, "out_proj.0.weight is [3]", "--like", scratch / "run-softmax")
    refuse({**state, "extra": torch.zeros(3)}, "unexpected extra [3]", "--like", scratch / "run-softmax")
    refuse(state, "missing", "--like", run)
    refuse({**state, name: torch.full((16,), float("nan"))}, "holds NaN")
    refuse({"epoch": 3}, "the file has: epoch", *TRUST)
    refuse({"model_state": state}, "found no average", "--ema", *TRUST)
    refuse([1, 2], "holds a list, not a state_dict", *TRUST)
    refuse({"model_state": state, "schedule": pathlib.Path("x")}, "add --trust")
    (scratch / "bad.safetensors").write_bytes(b"\xff" * 64)
    call(sys.executable, IMPORT, scratch / "bad.safetensors", scratch / "never.safetensors", fails_with="not a safetensors file")
    call(sys.executable, IMPORT, scratch / "absent.pt", scratch / "never.safetensors", fails_with="absent.pt")
    call(sys.executable, EXPORT, run / "checkpoints/last/trainer.safetensors", scratch / "never.pt", fails_with="is no weight")
    call(sys.executable, EXPORT, scratch, scratch / "never.pt", fails_with="has no checkpoint")
    call(sys.executable, EXPORT, run, scratch / "never.h5", fails_with="must end in")
    assert not list(scratch.glob("never*")) and not list(scratch.glob("*.writing")), "something was left behind"


with tempfile.TemporaryDirectory(prefix="flare-exchange-") as folder:
    scratch = pathlib.Path(folder)
    call(PROGRAM, "data", "generate", "darcy-gen", "--train", 16, "--val", 4, "--test", 4, "--set", "resolution=17", "--set", "stride=2",
         "--out", scratch / "darcy")  # fmt: skip
    call(PROGRAM, "data", "generate", "listops", "--train", 64, "--val", 8, "--test", 8, "--set", "min_length=5", "--set", "max_length=40",
         "--set", "max_depth=3", "--set", "max_args=4", "--out", scratch / "listops")  # fmt: skip
    check_fields(scratch, "flare")
    check_sequences(scratch)
    check_fields(scratch, "softmax", "model.ffn=plain", "model.qkv_bias=false")
    check_refusals(scratch)
print("weights cross to PyTorch and back")
