#!/bin/bash
# Sets up, builds and runs all tests but the soak: first the release build with
# everything, then the torch-free unit and sim tests under AddressSanitizer and
# UBSan. Ends with ctest's summaries of both, and non-zero if anything failed.
#
#   tests/run.sh
#
# Environment: STARLING_JOBS, how many compilers and tests run at once (2).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=${STARLING_JOBS:-2}
summaries=()
failed=0

# One preset, built in one folder: configure, build, test. One that fails does not
# keep the next from running.
run_preset() {
  local preset=$1 build=$2 began=$SECONDS result=passed
  local log=$build/ctest.log
  echo "== $preset"
  rm -f "$log"
  if ! cmake --preset "$preset" || ! cmake --build --preset "$preset" --parallel "$jobs"; then
    result="did not build"
  elif ! ctest --preset "$preset" --parallel "$jobs" --no-tests=error --output-log "$log"; then
    result=failed
  fi
  [[ $result == passed ]] || failed=1
  summaries+=("== $preset $result in $((SECONDS - began)) s")
  if [[ -e $log ]]; then
    # From "100% tests passed" on: counts, times, and which tests failed.
    summaries+=("$(awk '/tests passed, / { found = 1 } found' "$log")")
  fi
}

launcher/setup.sh
run_preset release build
run_preset asan build-asan

printf '%s\n' "${summaries[@]}"
exit "$failed"
