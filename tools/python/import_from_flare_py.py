#!/usr/bin/env python3
"""Turns weights trained with FLARE.py into a file for flare.cpp.

    import_from_flare_py.py out/elasticity/ckpt10/model.pt elasticity.safetensors [--ema] [--like runs/elasticity]
    flare eval tools/configs/pde/elasticity.json --weights elasticity.safetensors

Understands a state_dict, and the snapshots of FLARE.py's Trainer (`model_state`, with --ema `ema_shadow`) and of others (`state_dict`,
`model`), as .pt or .safetensors. Prefixes that torch.compile and data parallel leave on names are taken off; float16, bfloat16 and
float64 become float32. Fields: FLARE.py keeps the scales of its data elsewhere, so flare.cpp uses those of its own data folder,
which for the same training split are the same up to rounding; --normalisation writes others into the file. Needs numpy; .pt also
needs PyTorch.
"""
import argparse
import json
import pathlib

import numpy as np

import checkpoint as ck

WEIGHTS = ("model_state", "state_dict", "model_state_dict", "model")  # where snapshots keep them
AVERAGES = ("ema_shadow", "ema_state", "ema_state_dict", "ema")


def read_torch(path, trusted):
    torch = ck.import_torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trusted)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever the pickle machine meets
        hint = "" if trusted else "; if it holds more than tensors and you trust its origin (it may run code), add --trust"
        raise ck.ExchangeError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}{hint}") from None
    return content, torch.is_tensor


def choose_state(content, is_tensor, want_average, path):
    """The dict of tensors in a file's content."""
    if not isinstance(content, dict):
        raise ck.ExchangeError(f"{path}: holds a {type(content).__name__}, not a state_dict; save model.state_dict() instead of the model")
    keys = AVERAGES if want_average else WEIGHTS
    for key in keys:
        if isinstance(content.get(key), dict):
            return content[key], key
    if not want_average and content and all(is_tensor(v) for v in content.values()):
        return content, "the file itself"
    raise ck.ExchangeError(f"{path}: found no {'average' if want_average else 'weights'} under {', '.join(keys)}; the file has: {', '.join(map(str, content))}")


def check_like(arrays, like, where):
    """ExchangeError unless names and shapes are those of our weights `like`."""
    path = ck.weights_of_run(like) if pathlib.Path(like).is_dir() else like
    expected, _ = ck.read_safetensors(path)
    problems = [f"missing {n} {list(expected[n].shape)}" for n in expected if n not in arrays]
    problems += [f"unexpected {n} {list(arrays[n].shape)}" for n in arrays if n not in expected]
    problems += [f"{n} is {list(a.shape)}, in {path} {list(expected[n].shape)}" for n, a in arrays.items() if n in expected and a.shape != expected[n].shape]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ck.ExchangeError(f"{where}: does not fit the model of {path}: {'; '.join(problems[:3])}{more}")


def read_normalisation(path):
    """{"x": {"mean": [...], "std": [...]}, "y": ...}, alone or under "normalisation" as the export writes it."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
        content = content.get("normalisation", content)
        scales = {f: {k: [float(v) for v in content[f][k]] for k in ("mean", "std")} for f in ("x", "y")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ck.ExchangeError(f'{path}: expected {{"x": {{"mean": [...], "std": [...]}}, "y": ...}}: {error!r}') from None
    return json.dumps(scales, separators=(",", ":"))


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=".pt or .safetensors of FLARE.py")
    parser.add_argument("output", help=".safetensors file to write")
    parser.add_argument("--ema", action="store_true", help="take the moving average that the snapshot keeps, not the weights")
    parser.add_argument("--like", metavar="RUN", help="run folder or .safetensors of flare.cpp: check names and shapes against it")
    parser.add_argument("--normalisation", metavar="FILE", help="JSON file with the scales of fields x and y the model was trained with")
    parser.add_argument("--trust", action="store_true", help="load a .pt that holds more than tensors; such a file can run code")
    args = parser.parse_args()
    if pathlib.Path(args.output).suffix != ".safetensors":
        raise ck.ExchangeError(f"{args.output}: the name must end in .safetensors")

    if ck.is_torch_file(args.source):
        state, where = choose_state(*read_torch(args.source, args.trust), args.ema, args.source)
        state = {name: value.detach().cpu() for name, value in state.items() if hasattr(value, "detach")}
        state = {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in state.items()}
    else:
        if args.ema:
            raise ck.ExchangeError(f"{args.source}: a safetensors file holds one set of weights; --ema is for snapshots")
        state, where = ck.read_safetensors(args.source)[0], "the file itself"

    arrays, dropped = {}, []
    for name, value in state.items():
        own = ck.from_flare_py(name)
        if value.dtype.kind != "f":
            dropped.append(name)  # counters, such as n_averaged of torch's AveragedModel
        elif own in arrays:
            raise ck.ExchangeError(f"{args.source}: two tensors are called {own} once prefixes are taken off, {name} the second")
        else:
            arrays[own] = value.astype("<f4")
    if not arrays:
        raise ck.ExchangeError(f"{args.source}: {where} holds no floating-point tensors")
    bad = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if bad:
        raise ck.ExchangeError(f"{args.source}: {bad[0]} holds NaN, infinity, or numbers beyond float32")
    metadata = {"format": "pt", "imported_from": pathlib.Path(args.source).name}
    if args.like:
        check_like(arrays, args.like, args.source)
    if args.normalisation:
        metadata["normalisation"] = read_normalisation(args.normalisation)
    ck.write_safetensors(args.output, arrays, metadata)
    print(f"{args.output}: {len(arrays)} tensors, {sum(a.size for a in arrays.values())} numbers, from {where} of {args.source}"
          + (f"; left out: {', '.join(dropped)}" if dropped else ""))  # fmt: skip


if __name__ == "__main__":
    ck.main_of(run)
