"""A lean training loop in PyTorch eager, against throughput_bench: both by turns in one run, tokens per second and ratios.

    pip install torch numpy
    python tests/bench/trainer/eager.py build/tests/bench/trainer/torch/throughput_bench --threads 2 [--sizes 1M,32M]
                                        [--dtype bfloat16] [--device cuda]

Lean: rms_norm, scaled_dot_product_attention and the loss are PyTorch's own kernels, q/k/v and gate/up are one product each,
AdamW is the fused one, nothing is logged. Microbatches add up their gradients as a worker's do. bfloat16 is autocast over
fp32 weights. On CUDA the loop is measured a second time under torch.compile, and MFU is the share of --peak.
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
    "125M": (768, 2048, 12, 12, 12, 32000, 1024, 16, 1),
    "1B": (2048, 5632, 22, 32, 4, 32000, 2048, 4, 1),
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
        cosine, sine = rotary(length, hidden // heads)
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class Eager:
    def __init__(self, shape, dtype, device, compiled=False):
        torch.manual_seed(1)
        *sizes, self.length, self.sequences, self.microbatches = shape
        self.device, self.dtype = device, dtype
        self.model = Llama(*sizes, self.length).to(device)
        self.loss = torch.compile(self.model) if compiled else self.model
        self.vocab = sizes[5]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(self):
        for _ in range(self.microbatches):
            tokens = torch.randint(0, self.vocab, (self.sequences, self.length + 1)).to(self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                loss = self.loss(tokens[:, :-1], tokens[:, 1:])
            (loss / self.microbatches).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def tokens_per_second(self, seconds):
        self.step()
        self.step()
        begin, steps = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds or steps == 0:
            self.step()
            steps += 1
        return steps * self.length * self.sequences * self.microbatches / (time.perf_counter() - begin)


def ours(binary, size, arguments):
    made = subprocess.run([binary, f"--size={size}", f"--threads={arguments.threads}", f"--dtype={arguments.dtype}",
                           f"--device={arguments.device}", f"--benchmark_min_time={arguments.seconds}",
                           "--benchmark_format=json"], check=True, capture_output=True, text=True)
    found = {row["name"].split("/")[0]: row for row in json.loads(made.stdout)["benchmarks"]}
    return found["train"]["items_per_second"], found["gemm"]["gflops"], int(found["train"]["parameters"])


def flops_per_token(size, parameters):
    """Both ways: 6 for each weight of a matrix but the embedding, 6 T D for causal attention a block."""
    hidden, _, layers, _, _, vocab, length = SHAPES[size][:7]
    return 6 * (parameters - vocab * hidden) + 6 * layers * length * hidden


def on_a_cpu(arguments):
    print("| model | parameters | ours, tok/s | eager, tok/s | ratio (each turn) | gemm, GFLOP/s | ours of it | eager of it |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes.split(","):
        eager = Eager(SHAPES[size], arguments.dtype, "cpu")
        rows = []
        for _ in range(arguments.turns):
            made, gemm, parameters = ours(arguments.binary, size, arguments)
            rows.append((made, eager.tokens_per_second(arguments.seconds), gemm))
        flops = flops_per_token(size, parameters)
        made, reference, gemm = (statistics.median(row[i] for row in rows) for i in range(3))
        ratios = [row[0] / row[1] for row in rows]
        print(f"| {size} | {parameters:,} | {made:,.0f} | {reference:,.0f} | {statistics.median(ratios):.2f} "
              f"({', '.join(f'{r:.2f}' for r in ratios)}) | {gemm:.0f} | {made * flops / gemm / 1e9:.0%} | "
              f"{reference * flops / gemm / 1e9:.0%} |", flush=True)


def on_a_gpu(arguments):
    """One after the other: two models of this size need not fit."""
    print(f"gemm: 8,192 x 8,192 x 32,768; MFU of {arguments.peak:.0f} TFLOP/s")
    print("| model | parameters | gemm, TFLOP/s | ours, tok/s | MFU | eager, tok/s | MFU | ratio | compiled, tok/s | MFU | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes.split(","):
        made, gemm, parameters = ours(arguments.binary, size, arguments)
        flops = flops_per_token(size, parameters)
        cells = [size, f"{parameters:,}", f"{gemm / 1e3:.0f}", f"{made:,.0f}", f"{made * flops / arguments.peak / 1e12:.0%}"]
        for compiled in (False, True):
            reference = Eager(SHAPES[size], arguments.dtype, "cuda", compiled).tokens_per_second(arguments.seconds)
            cells += [f"{reference:,.0f}", f"{reference * flops / arguments.peak / 1e12:.0%}", f"{made / reference:.2f}"]
            torch.cuda.empty_cache()
        print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", default="1M,32M,150M")
    parser.add_argument("--turns", type=int, default=3, help="on a CPU, where neighbours make a single turn worth little")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the GPU in bf16, dense (an H100 or H200 SXM: 989)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads, {arguments.dtype}")
    (on_a_gpu if arguments.device == "cuda" else on_a_cpu)(arguments)


if __name__ == "__main__":
    main()
