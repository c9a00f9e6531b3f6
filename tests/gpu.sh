#!/usr/bin/env bash
# What only a machine with a GPU can show: our kernels and LibTorch's agree there, a run trains there, how fast a worker is
# against PyTorch eager with torch.compile off and on.
#
#   tests/gpu.sh [--build DIR] [--python FILE] [--sizes 125M,1B] [--steps N] [--data FILES]
#
# The build may come from another machine: it needs `starling` and the tests and benches named below as they lie in a build
# folder, and in DIR/lib the shared libraries that they need and this machine lacks, if any. PyTorch with CUDA, of the
# LibTorch version that the build was made with, comes from the Python that --python names.
# --data: text for the run, where the files of configs/quickstart.yaml are absent.
# Without a GPU it says what it would check and exits with 0. Exit code: 1 when a check fails.
set -uo pipefail
cd "$(dirname "$0")/.."

build=build python=python3 sizes=125M,1B steps=100 data=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2 ;;
    --python) python=$2 ;;
    --sizes) sizes=$2 ;;
    --steps) steps=$2 ;;
    --data) data=$2 ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2 || { echo "tests/gpu.sh: a value is missing" >&2; exit 2; }
done

torch=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))' 2>/dev/null) || torch=
if [ -z "$torch" ] || ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "no GPU here that $python's PyTorch could use; on a machine with one this checks:"
  echo "  - parity: every operation and a whole stage on CUDA, fp32 and bf16, against our kernels on the CPU"
  echo "  - jobs: the compute thread of a worker answers there as on the CPU, one by one and in a row"
  echo "  - a training run of 8 workers that share the GPU: it ends, and its validation loss is that of a run on the CPU"
  echo "  - copies: how near a middle stage with a full queue comes to the kernels alone"
  echo "  - tokens per second and MFU at $sizes against PyTorch eager and torch.compile"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# For our programs alone: Python's own libraries are not those of the machine that built them.
libraries=$torch:$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
for program in starling tests/trainer/torch/{library_ops,learner}_test tests/bench/trainer/torch/{throughput,copies}_bench; do
  [ -x "$build/$program" ] || { echo "tests/gpu.sh: $build/$program is missing" >&2; exit 2; }
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$(realpath "$build/$program")" > "$scratch/${program##*/}"
  chmod +x "$scratch/${program##*/}"
done
failed=0
check() { # WHAT COMMAND...
  local what=$1
  shift
  echo "== $what"
  "$@" || { echo "FAILED: $what"; failed=1; }
}

train() { # DEVICE; prints the validation loss
  "$scratch/starling" launch configs/quickstart.yaml --local-workers 8 --device "$1" \
    --set training.max_steps="$steps" --set lr_scheduler.warmup_steps=10 --set eval.batches=10 --set eval.interval=0 \
    ${data:+--set data.train="[$data]"} --set run.output_dir="$scratch/$1" > "$scratch/$1.txt" 2>&1 || { tail -n 20 "$scratch/$1.txt"; return 1; }
  sed -n 's/^step .* validation loss //p' "$scratch/$1.txt" | tail -n 1
}
both_train() {
  local cuda cpu
  cuda=$(train cuda) || { echo "$cuda"; return 1; }
  cpu=$(train cpu) || { echo "$cpu"; return 1; }
  grep -h 'computing on' "$scratch"/cuda/*/workers/w00/log.txt
  echo "validation loss after $steps steps: $cuda on CUDA in bf16, $cpu on the CPU in fp32"
  awk -v a="$cuda" -v b="$cpu" 'BEGIN { d = a / b - 1; exit !(d < 0.03 && d > -0.03) }'
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
check "operations and a stage on CUDA" env STARLING_TEST_DEVICE=cuda "$scratch/library_ops_test" --gtest_brief=1
check "jobs of the compute thread on CUDA" env STARLING_TEST_DEVICE=cuda STARLING_TEST_SOURCE_DIR="$PWD" \
  "$scratch/learner_test" --gtest_brief=1
check "copies beside computing" "$scratch/copies_bench" --device=cuda --wide
check "a run on CUDA against the same on the CPU" both_train
check "throughput" "$python" tests/bench/trainer/eager.py "$scratch/throughput_bench" \
  --device cuda --dtype bfloat16 --threads 4 --sizes "$sizes" --seconds 5
exit $failed
