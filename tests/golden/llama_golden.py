"""Writes what transformers' LlamaForCausalLM and PyTorch's AdamW make of five tiny models: the reference of
tests/trainer/torch/llama_golden_test.cc.

    pip install torch transformers numpy
    python tests/golden/llama_golden.py tests/golden/llama            # writes the golden files anew
    python tests/golden/llama_golden.py --check tests/golden/llama    # computes them anew and compares

One file a case, NAME.bin, little-endian:

    line of JSON, ended by a newline: {"model": {config.json's keys}, "batch": [sequences, tokens], "curve": {...} or null,
                                       "arrays": [[name, [shape], "f32" | "i32" | "f64"], ...]}
    the arrays, one after the other, without padding

Arrays: `tokens` [B, T + 1] (inputs and, one on, targets); every parameter under its Hugging Face name; `logits` [B, T, V];
`loss` [1], the mean over B * T targets in float64; `grad.NAME`, the gradient of the SUM of the token losses. A case with a
curve also has `curve_tokens` [steps, B, T + 1], `curve_loss`, `curve_norm` and `curve_lr` [steps]: AdamW with decay on
matrices only, gradients clipped by norm, the learning rate as trainer/worker/training_config.h defines it.
"""

import argparse
import copy
import json
import math
import pathlib
import sys

try:
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as error:
    print(f"skipped: {error}; pip install torch transformers numpy")
    sys.exit(77)

BASE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
            vocab_size=40, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False)
SCALING = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=32)
CASES = {
    "untied": {},
    "tied": dict(tie_word_embeddings=True),
    "grouped": dict(num_key_value_heads=2, num_attention_heads=8, hidden_size=32),
    "theta": dict(rope_theta=500.0),
    "scaled": dict(rope_scaling=SCALING, rope_theta=100.0, hidden_size=32, num_attention_heads=2, num_key_value_heads=1),
}
BATCH = {"scaled": (2, 48)}
CURVE = dict(steps=50, lr=1e-2, warmup_steps=10, min_lr=1e-3, weight_decay=0.1, betas=[0.9, 0.95], eps=1e-8,
             max_grad_norm=0.5)


def build(model):
    torch.manual_seed(7)
    made = LlamaForCausalLM(LlamaConfig(**copy.deepcopy(model), attn_implementation="eager", use_cache=False)).float()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            # Far from the initial values: norms that are not 1, logits that are not flat.
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3 if parameter.dim() == 1 else 0.15)
    return made


def losses(model, tokens):
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    return logits, loss


def learning_rate(step, c):
    if step < c["warmup_steps"]:
        return c["lr"] * step / c["warmup_steps"]
    progress = (step - c["warmup_steps"]) / (c["steps"] - c["warmup_steps"])
    return c["min_lr"] + (c["lr"] - c["min_lr"]) * 0.5 * (1.0 + math.cos(math.pi * progress))


def curve(model, c, sequences, length, vocab):
    # Counting texts with a stride of their own: there is something to learn.
    generator = torch.Generator().manual_seed(3)
    start = torch.randint(0, vocab, (c["steps"], sequences, 1), generator=generator)
    stride = torch.randint(1, 4, (c["steps"], sequences, 1), generator=generator)
    tokens = (start + stride * torch.arange(length + 1)) % vocab
    groups = [dict(params=[p for p in model.parameters() if p.dim() > 1], weight_decay=c["weight_decay"]),
              dict(params=[p for p in model.parameters() if p.dim() == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=c["lr"], betas=c["betas"], eps=c["eps"])
    out = {"curve_tokens": tokens.int(), "curve_loss": [], "curve_norm": [], "curve_lr": []}
    for step in range(1, c["steps"] + 1):
        rate = learning_rate(step, c)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        _, loss = losses(model, tokens[step - 1])
        mean = loss / (sequences * length)
        mean.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c["max_grad_norm"])
        optimizer.step()
        for key, value in (("loss", mean.item()), ("norm", norm.item()), ("lr", rate)):
            out["curve_" + key].append(value)
    return {key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value
            for key, value in out.items()}


def make(name):
    model_keys = {**BASE, **CASES[name]}
    sequences, length = BATCH.get(name, (2, 11))
    model = build(model_keys)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, model_keys["vocab_size"], (sequences, length + 1), generator=generator)
    arrays = {"tokens": tokens.int()}
    arrays.update({key: value.detach().clone() for key, value in model.named_parameters()})
    logits, loss = losses(model, tokens)
    loss.backward()
    arrays["logits"] = logits.detach()
    arrays["loss"] = (loss / (sequences * length)).detach().reshape(1)
    arrays.update({"grad." + key: value.grad.clone() for key, value in model.named_parameters()})
    has_curve = name in ("untied", "tied")
    if has_curve:
        arrays.update(curve(model, CURVE, sequences, length, model_keys["vocab_size"]))
    kinds = {torch.float32: "f32", torch.int32: "i32", torch.float64: "f64"}
    header = dict(model=model_keys, batch=[sequences, length], curve=CURVE if has_curve else None,
                  arrays=[[key, list(value.shape), kinds[value.dtype]] for key, value in arrays.items()])
    return header, {key: value.contiguous().numpy() for key, value in arrays.items()}


def write(path, header, arrays):
    with open(path, "wb") as out:
        out.write(json.dumps(header).encode() + b"\n")
        for value in arrays.values():
            out.write(value.tobytes())


def read(path):
    line, _, body = path.read_bytes().partition(b"\n")
    header = json.loads(line)
    arrays, at = {}, 0
    for name, shape, kind in header["arrays"]:
        dtype = {"f32": "<f4", "i32": "<i4", "f64": "<f8"}[kind]
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return header, arrays


def check(path, header, arrays):
    old_header, old = read(path)
    if old_header != json.loads(json.dumps(header)):
        return "another model, batch or list of arrays"
    for name, value in arrays.items():
        scale = max(1.0, float(np.abs(value).max()))
        difference = float(np.abs(value.astype(np.float64) - old[name]).max()) / scale
        if not difference <= 1e-4:
            return f"{name} differs by {difference:.2g}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for name in CASES:
        header, arrays = make(name)
        path = arguments.folder / f"{name}.bin"
        if not arguments.check:
            write(path, header, arrays)
            continue
        fault = check(path, header, arrays)
        print(f"{name}: {fault or 'as transformers computes it now'}")
        failed = failed or fault is not None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
