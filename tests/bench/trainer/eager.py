"""A lean training loop in PyTorch eager, against throughput_bench: both by turns in one run, tokens per second and ratios.

    pip install torch numpy
    python tests/bench/trainer/eager.py build/tests/bench/trainer/torch/throughput_bench --threads 2 [--sizes 1M,32M]

Lean: rms_norm, scaled_dot_product_attention and the loss are PyTorch's own kernels, q/k/v and gate/up are one product each,
AdamW is the fused one, nothing is logged. Microbatches add up their gradients as a worker's do.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn

# hidden, inner, layers, heads, key heads, vocabulary, tokens of a sequence, sequences, microbatches: as throughput_bench
SHAPES = {
    "1M": (128, 256, 8, 4, 2, 256, 128, 4, 4),
    "32M": (512, 1536, 8, 8, 4, 8192, 256, 4, 1),
    "150M": (768, 3072, 12, 12, 4, 32000, 512, 2, 1),
}


def rotary(length, width):
    frequency = 10000.0 ** -(torch.arange(0, width, 2) / width)
    angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x, cosine, sine):
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat((-right, left), -1) * sine


class Block(nn.Module):
    def __init__(self, hidden, inner, heads, key_heads):
        super().__init__()
        self.heads, self.key_heads, self.width = heads, key_heads, hidden // heads
        self.norm1, self.norm2 = nn.RMSNorm(hidden, 1e-5), nn.RMSNorm(hidden, 1e-5)
        self.qkv = nn.Linear(hidden, (heads + 2 * key_heads) * self.width, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x, cosine, sine):
        batch, length, hidden = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, -1, self.width).transpose(1, 2)
        q, k, v = heads.split((self.heads, self.key_heads, self.key_heads), 1)
        attended = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True,
                                                  enable_gqa=self.heads != self.key_heads)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, hidden))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, hidden, inner, layers, heads, key_heads, vocab, length):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.blocks = nn.ModuleList(Block(hidden, inner, heads, key_heads) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, 1e-5)
        self.head = nn.Linear(hidden, vocab, bias=False)
        self.rotary = rotary(length, hidden // heads)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, *self.rotary)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class Eager:
    def __init__(self, shape):
        torch.manual_seed(1)
        *sizes, self.length, self.sequences, self.microbatches = shape
        self.model = Llama(*sizes, self.length)
        self.vocab = sizes[5]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(self):
        for _ in range(self.microbatches):
            tokens = torch.randint(0, self.vocab, (self.sequences, self.length + 1))
            (self.model(tokens[:, :-1], tokens[:, 1:]) / self.microbatches).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def tokens_per_second(self, seconds):
        self.step()
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds or steps == 0:
            self.step()
            steps += 1
        return steps * self.length * self.sequences * self.microbatches / (time.perf_counter() - begin)


def ours(binary, size, threads, seconds):
    made = subprocess.run([binary, f"--size={size}", f"--threads={threads}", f"--benchmark_min_time={seconds}",
                           "--benchmark_format=json"], check=True, capture_output=True, text=True)
    found = {row["name"].split("/")[0]: row for row in json.loads(made.stdout)["benchmarks"]}
    return found["train"]["items_per_second"], found["gemm"]["gflops"], int(found["train"]["parameters"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", default="1M,32M,150M")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, {arguments.threads} threads, fp32, medians of {arguments.turns} turns")
    print("| model | parameters | ours, tok/s | eager, tok/s | ratio (each turn) | gemm, GFLOP/s | ours of it | eager of it |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes.split(","):
        hidden, inner, layers, heads, key_heads, vocab, length = SHAPES[size][:7]
        eager = Eager(SHAPES[size])
        rows = []
        for _ in range(arguments.turns):
            made, gemm, parameters = ours(arguments.binary, size, arguments.threads, arguments.seconds)
            rows.append((made, eager.tokens_per_second(arguments.seconds), gemm))
        # Of a token, both ways: 6 for each weight of a matrix but the embedding, 6 T D for causal attention a block.
        flops = 6 * (parameters - vocab * hidden) + 6 * layers * length * hidden
        made, reference, gemm = (statistics.median(row[i] for row in rows) for i in range(3))
        ratios = [row[0] / row[1] for row in rows]
        print(f"| {size} | {parameters:,} | {made:,.0f} | {reference:,.0f} | {statistics.median(ratios):.2f} "
              f"({', '.join(f'{r:.2f}' for r in ratios)}) | {gemm:.0f} | {made * flops / gemm / 1e9:.0%} | "
              f"{reference * flops / gemm / 1e9:.0%} |", flush=True)


if __name__ == "__main__":
    main()
