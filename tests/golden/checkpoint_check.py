"""The checkpoint of a run in transformers, as it is: the same validation loss, logits and text as in starling.

    pip install torch transformers
    python tests/golden/checkpoint_check.py build/starling runs/quickstart --text FILE [--windows 40]
        [--logits build/tests/trainer/torch/logits_program]

`from_pretrained` opens the newest checkpoint of the run, and what `starling export` makes of it. Both compute the loss of the
first windows of the last 5 % of FILE and continue a prompt greedily, one token at a time; with --logits, the logits of the first
window are compared too. The run's own evaluation, as metrics.jsonl has it, is shown beside that of the checkpoint. Byte
tokenizer, fp32. Exit code 1: something differs; 77, which CTest counts as skipped: there is no torch or transformers.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}; it needs torch and transformers", file=sys.stderr)
    sys.exit(77)

PROMPT = "The starling "


def starling(binary, *arguments):
    made = subprocess.run([binary, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(made.stdout)


def held_out_of(text):
    return torch.tensor(list(text[len(text) - len(text) // 20:]))


@torch.inference_mode()
def logits_differ(program, directory, model, ids):
    """The largest difference between our logits and those of `model`, relative to the largest of them."""
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        (scratch / "ids").write_text(" ".join(map(str, ids.tolist())))
        subprocess.run([program, directory, scratch / "ids", scratch / "logits"], check=True)
        ours = torch.frombuffer(bytearray((scratch / "logits").read_bytes()), dtype=torch.float32)
    theirs = model(ids[None]).logits[0]
    return ((ours.view_as(theirs) - theirs).abs().max() / theirs.abs().max()).item()


@torch.inference_mode()
def loss_of(model, text, seq_len, windows):
    """The mean over `windows` windows."""
    held_out = held_out_of(text)
    sums = [torch.nn.functional.cross_entropy(model(held_out[None, i * seq_len:(i + 1) * seq_len]).logits[0].double(),
                                              held_out[i * seq_len + 1:(i + 1) * seq_len + 1]).item()
            for i in range(windows)]
    return sum(sums) / windows


@torch.inference_mode()
def greedy(model, prompt, count):
    tokens = torch.tensor([list(prompt.encode())])
    for _ in range(count):
        tokens = torch.cat((tokens, model(tokens).logits[:, -1].argmax(-1, keepdim=True)), 1)
    return tokens[0, -count:].tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("starling")
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--logits", type=pathlib.Path, help="logits_program of the tests")
    arguments = parser.parse_args()

    found = starling(arguments.starling, "eval", str(arguments.run), "--data", str(arguments.text), "--windows",
                     str(arguments.windows))
    model = transformers.AutoModelForCausalLM.from_pretrained(found["checkpoint"], dtype=torch.float32).eval()
    theirs = loss_of(model, arguments.text.read_bytes(), found["seq_len"], found["windows"])
    print(f"{found['checkpoint']}: loss of {found['windows']} windows {found['loss']:.7f}, in transformers {theirs:.7f}")
    same = abs(found["loss"] - theirs) < 1e-5 * theirs

    count = min(100, model.config.max_position_embeddings - len(PROMPT))
    ours = starling(arguments.starling, "generate", str(arguments.run), "-p", PROMPT, "--temperature", "0", "--max-tokens",
                    str(count))["tokens"]
    expected = greedy(model, PROMPT, count)
    print(f"{count} greedy tokens: {'the same' if ours == expected else 'not the same'}")
    same = same and ours == expected

    with tempfile.TemporaryDirectory() as name:
        exported = pathlib.Path(name) / "model"
        subprocess.run([arguments.starling, "export", arguments.run, "-o", exported], check=True, capture_output=True)
        again = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
        equal = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
        print(f"exported: {'the same weights' if equal else 'other weights'}")
        same = same and equal
        if arguments.logits:
            ids = held_out_of(arguments.text.read_bytes())[:found["seq_len"]]
            for what, directory in (("checkpoint", found["checkpoint"]), ("exported", exported)):
                differ = logits_differ(arguments.logits, directory, model, ids)
                print(f"{what}: {len(ids)} x {model.config.vocab_size} logits differ by {differ:.1e} of the largest at most")
                same = same and differ < 1e-4

    own = starling(arguments.starling, "eval", str(arguments.run))
    lines = [json.loads(line) for line in open(arguments.run / "metrics.jsonl")]
    said = [line["val/loss"] for line in lines if "val/loss" in line]
    print(f"the run's own windows: {own['loss']:.4f}, evaluated during the run: {said[-1]:.4f}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
