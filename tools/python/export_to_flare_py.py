#!/usr/bin/env python3
"""Turns weights of flare.cpp into a state_dict for FLARE.py's modules.

    export_to_flare_py.py runs/elasticity model.pt            the run's best checkpoint, averaged where the run averages
    export_to_flare_py.py weights.safetensors model.safetensors

In Python:  model.load_state_dict(torch.load("model.pt"))     before torch.compile wraps the model
       or:  model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Beside it, model.json says what the weights alone do not: the scales with which fields are encoded and decoded (FLARE.py keeps them
in its data loader), the step, the recipe's model, and for fields the arguments of FLARE.py's constructor. Needs numpy; .pt also
needs PyTorch.
"""
import argparse
import json
import pathlib

import numpy as np

import checkpoint as ck


def constructor_arguments(arrays, model):
    """Arguments of FLAREModel (pdebench/models/flare.py), or nothing where the recipe describes another model."""
    first, last = arrays.get("in_proj.fc1.weight"), arrays.get("out_proj.1.fc2.weight")
    if model.get("mixer") != "flare" or first is None or last is None:
        return None
    return {
        "in_dim": first.shape[1], "out_dim": last.shape[0], "channel_dim": model["channels"], "num_blocks": model["blocks"],
        "num_heads": model["heads"], "num_latents": model["latents"], "attn_scale": model["scale"] or 1.0,
        "act": model["activation"], "rmsnorm": model["norm"] == "rms", "qk_norm": model["qk_norm"],
        "num_layers_k_proj": model["kv_layers"], "num_layers_v_proj": model["kv_layers"], "k_proj_mlp_ratio": model["kv_ratio"],
        "v_proj_mlp_ratio": model["kv_ratio"], "num_layers_ffn": model["ffn_layers"], "ffn_mlp_ratio": model["ffn_ratio"],
        "num_layers_in_out_proj": model["io_layers"],
    }  # fmt: skip


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="run folder, or a .safetensors file of flare.cpp")
    parser.add_argument("output", help="file to write: .pt (PyTorch) or .safetensors")
    parser.add_argument("--checkpoint", choices=["best", "last"], help="of a run folder; default: best, else last")
    parser.add_argument("--no-average", action="store_true", help="the weights themselves where the run also has their average")
    args = parser.parse_args()

    is_run = pathlib.Path(args.source).is_dir()
    path = ck.weights_of_run(args.source, args.checkpoint, not args.no_average) if is_run else args.source
    arrays, metadata = ck.read_safetensors(path)
    odd = [name for name, array in arrays.items() if array.dtype.kind != "f"]
    if odd or not arrays:
        raise ck.ExchangeError(f"{path}: {odd[0] + ' is no weight' if odd else 'holds no tensors'}; give a model.safetensors or ema.safetensors")
    names = ck.to_flare_py(list(arrays))
    state = {names[name]: array for name, array in arrays.items()}

    output = pathlib.Path(args.output)
    if ck.is_torch_file(output):
        torch = ck.import_torch(output)
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        ck.write_aside(output, lambda file: torch.save(tensors, file))
    elif output.suffix == ".safetensors":
        ck.write_safetensors(output, state, {**metadata, "format": "pt"})
    else:
        raise ck.ExchangeError(f"{output}: the name must end in .pt or .safetensors")

    about = {"source": str(path), "metadata": {k: v for k, v in metadata.items() if k != "normalisation"}}
    if "normalisation" in metadata:
        about["normalisation"] = json.loads(metadata["normalisation"])  # value = encoded·std + mean
    if is_run:
        model = json.loads((pathlib.Path(args.source) / "config.json").read_text())["model"]
        about["model"] = model
        arguments = constructor_arguments(arrays, model)
        if arguments:
            about["FLAREModel"] = arguments
    ck.write_aside(output.with_suffix(".json"), lambda file: file.write((json.dumps(about, indent=2) + "\n").encode()))
    print(f"{output}: {len(state)} tensors, {sum(a.size for a in state.values())} numbers, from {path}; {output.with_suffix('.json')} describes them")


if __name__ == "__main__":
    ck.main_of(run)
