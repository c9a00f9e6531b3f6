"""The checkpoint of a run in transformers, as it is: the same validation loss and the same text as in starling.

    pip install torch transformers
    python tests/golden/checkpoint_check.py build/starling runs/quickstart --text FILE [--windows 40]

`from_pretrained` opens the newest checkpoint of the run. Both compute the loss of the first windows of the last 5 % of FILE and
continue a prompt greedily, one token at a time; the run's own evaluation, as metrics.jsonl has it, is shown beside that of the
checkpoint. Byte tokenizer, fp32. Exit code 1: something differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import torch
import transformers

PROMPT = "The starling "


def starling(binary, *arguments):
    made = subprocess.run([binary, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(made.stdout)


@torch.inference_mode()
def loss_of(model, text, seq_len, windows):
    """The mean over `windows` windows, and the log-probability of every token in them."""
    held_out = torch.tensor(list(text[len(text) - len(text) // 20:]))
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

    own = starling(arguments.starling, "eval", str(arguments.run))
    lines = [json.loads(line) for line in open(arguments.run / "metrics.jsonl")]
    said = [line["val/loss"] for line in lines if "val/loss" in line]
    print(f"the run's own windows: {own['loss']:.4f}, evaluated during the run: {said[-1]:.4f}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
