#!/bin/bash
# From a fresh Debian 12 to a training run, in one command: installs what is
# missing, builds the release preset, and starts the quickstart run, eight workers
# on this machine that train a small language model on real English.
#
#   launcher/quickstart.sh [anything `starling launch` takes]
#
# Ctrl-C ends the run politely. A second call resumes or refuses, as `starling
# launch` says; --fresh starts anew.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { echo "quickstart: $*" >&2; }

# As many compilers as there are cores, but no more than memory allows: one file
# takes up to 1.3 GB.
compile_jobs() {
  local cores memory_mb fit
  cores=$(nproc)
  memory_mb=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
  fit=$((memory_mb / 1400))
  ((fit >= 1)) || fit=1
  echo $((cores < fit ? cores : fit))
}

launcher/setup.sh
say "building build/starling (the first time takes some minutes)"
cmake --preset release >&2
cmake --build --preset release --target starling --parallel "$(compile_jobs)" >&2
say "starting: build/starling launch configs/quickstart.yaml --local-workers 8 $*"
exec build/starling launch configs/quickstart.yaml --local-workers 8 "$@"
