"""starling generate and starling eval against transformers on the same weights and threads, in one run: greedy tokens and the
loss must be equal, tokens per second are printed with their ratio.

    pip install torch transformers
    python tests/bench/trainer/generate.py build/starling --threads 2 [--sizes 1M,32M]

Both read a prompt and then generate one token at a time with a key-value cache; what is counted is all of it, but not the
start of the process. By turns, so that both see the same machine; the table has the medians.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
import transformers

# hidden, inner, layers, heads, key heads, vocabulary, positions: those of eager.py. Generation asks for a tokenizer, so a
# model has 256 tokens, or as many more that no text has.
SHAPES = {
    "1M": (128, 256, 8, 4, 2, 256, 1024),
    "32M": (512, 1536, 8, 8, 4, 8192, 1024),
    "150M": (768, 3072, 12, 12, 4, 32000, 1024),
}
PROMPT = "The starling turns with its neighbours, and a swarm waits for the wind. " * 2


def model_of(shape, directory):
    hidden, inner, layers, heads, key_heads, vocab, positions = shape
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, vocab_size=vocab, max_position_embeddings=positions, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, tie_word_embeddings=False)).eval()
    for parameter in model.parameters():  # large enough for the blocks to matter, so that tokens change
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 / hidden**0.5)
    model.save_pretrained(directory)
    return model


def starling(binary, command, directory, threads, *flags):
    made = subprocess.run([binary, command, directory, "--threads", str(threads), "--tokenizer", "byte", "--json", *flags],
                          check=True, capture_output=True, text=True)
    return json.loads(made.stdout)


@torch.inference_mode()
def loss_of(model, text, seq_len):
    # The windows of the last 5 % of a file, as trainer/data/source.h says.
    held_out = torch.tensor(list(text[len(text) - len(text) // 20:]))
    windows = (len(held_out) - 1) // seq_len
    sums = [torch.nn.functional.cross_entropy(model(held_out[None, i * seq_len:(i + 1) * seq_len]).logits[0].double(),
                                              held_out[i * seq_len + 1:(i + 1) * seq_len + 1]).item()
            for i in range(windows)]
    return sum(sums) / windows, windows


def compare(binary, size, arguments, directory):
    model = model_of(SHAPES[size], directory)
    text = bytes(32 + (i * i * 7 + i // 13) % 95 for i in range(20 * 4 * 129))
    data = pathlib.Path(directory) / "text.text"
    data.write_bytes(text)
    expected, windows = loss_of(model, text, 128)
    found = starling(binary, "eval", directory, arguments.threads, "--data", str(data), "--seq-len", "128")
    assert found["windows"] == windows, (found["windows"], windows)
    difference = abs(found["loss"] / expected - 1)
    assert difference < 1e-5, f"loss {found['loss']} here, {expected} in transformers"

    prompt = torch.tensor([list(PROMPT.encode())])
    flags = ("-p", PROMPT, "--temperature", "0", "--max-tokens", str(arguments.tokens))
    rows = []
    for _ in range(arguments.turns):
        made = starling(binary, "generate", directory, arguments.threads, *flags)
        begin = time.perf_counter()
        with torch.inference_mode():
            reference = model.generate(prompt, max_new_tokens=arguments.tokens, do_sample=False, use_cache=True)
        seconds = time.perf_counter() - begin
        reference = reference[0, prompt.shape[1]:].tolist()
        assert made["tokens"] == reference, "greedy tokens differ"
        rows.append((arguments.tokens / (made["prompt_seconds"] + made["seconds"]), arguments.tokens / seconds,
                     made["prompt_seconds"], made["tokens_per_second"]))
    ours, theirs, prompt_seconds, steady = (statistics.median(row[i] for row in rows) for i in range(4))
    ratios = [row[0] / row[1] for row in rows]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"| {size} | {parameters:,} | {ours:,.0f} | {theirs:,.0f} | {statistics.median(ratios):.2f} "
          f"({', '.join(f'{r:.2f}' for r in ratios)}) | {steady:,.0f} | {prompt_seconds * 1e3:.1f} | "
          f"{4e-9 * parameters * steady:.1f} | {len(set(made['tokens']))} | {difference:.0e} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", default="1M,32M,150M")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {arguments.threads} threads, fp32, prompt of "
          f"{len(PROMPT)} tokens, then {arguments.tokens}; medians of {arguments.turns} turns")
    print("| model | parameters | ours, tok/s | transformers, tok/s | ratio (each turn) | after the prompt, tok/s | prompt, ms | "
          "weights read, GB/s | different tokens | loss, relative difference |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes.split(","):
        with tempfile.TemporaryDirectory() as directory:
            compare(arguments.binary, size, arguments, directory)


if __name__ == "__main__":
    main()
