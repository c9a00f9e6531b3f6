#!/bin/bash
# The check must be able to fail: each violation is planted in a small tree of its
# own and must be reported with its file and line; the same tree without it must
# pass. And a tree that is not one must not pass by being empty.
#
#   check_test.sh LAYERS
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
layers=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# A tree that keeps every rule, with the near misses that a careless rule would
# refuse.
plant_clean_tree() {
  rm -rf "$work/tree"
  mkdir -p "$work/tree"/{gossip/{base,net,sim},pipeline,trainer/{torch,worker},launcher,tests/e2e}
  cd "$work/tree"
  echo '#pragma once' >gossip/base/env.h
  echo 'auto t = std::chrono::steady_clock::now();' >gossip/base/clock.cc
  echo '#include "gossip/base/env.h"' >gossip/net/transport.h
  echo '#include "gossip/net/transport.h"' >gossip/sim/network.h
  cat >pipeline/router.h <<'END'
// Not code: std::thread, steady_clock::now(), <torch/torch.h>
/* getenv("HOME") and
   random_device over
   three lines */
#include <vector>
const char* text = "std::this_thread::sleep_for(1s)";
const char* raw = R"(getenv("A")
steady_clock::now())";
constexpr int big = 1'000'000; int after_now = clock.now();
int time(int); void asleep(); int my_getenv_count; std::this_thread::id id;
std::thread::id other;
TimePoint SimClock::now() const { return now_; }
END
  echo '#include "pipeline/router.h"' >pipeline/router.cc
  cat >trainer/torch/stage.h <<'END'
#include <ATen/core/Tensor.h>
#include "trainer/worker/worker.h"
END
  echo '#include "gossip/sim/network.h"' >trainer/worker/worker.h
  echo '#include "trainer/torch/stage.h"' >launcher/main.cc
  echo 'std::this_thread::sleep_for(1s);' >tests/e2e/wait_test.cc
  printf '%s\n' '# comment' 'now gossip/base/clock' 'sleep tests/e2e/' >"$work/calls"
  echo 'pipeline/router   # comment' >"$work/deciders"
}

check() { "$here/check.sh" "$work/tree" "$layers" "$work/calls" "$work/deciders" 2>&1; }

verdict() {
  local name=$1 ok=$2
  if [[ $ok == yes ]]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
    echo "${3:-}"
  fi
}

expect_clean() {
  local out ok=yes
  out=$(check) || ok=no
  [[ -z $out ]] || ok=no
  verdict "$1" "$ok" "$out"
}

# expect_refused NAME FILE LINE WORDS: the check fails, with exactly one line, and
# that line names the place and says the words.
expect_refused() {
  local name=$1 file=$2 line=$3 words=$4 out code=0 ok=yes
  out=$(check) || code=$?
  [[ $code == 1 ]] || ok=no
  [[ $out == "$file:$line: "*"$words"* ]] || ok=no
  [[ $(wc -l <<<"$out") == 1 ]] || ok=no
  verdict "$name" "$ok" "exit code $code, output: $out"
}

# violation NAME FILE LINE-OF-CODE WORDS: as the third line of a file.
violation() {
  plant_clean_tree
  mkdir -p "$(dirname "$2")"
  printf '%s\n' '// one' '/* two */' "$3" >"$2"
  expect_refused "$1" "$2" 3 "$4"
}

plant_clean_tree
expect_clean "a tree that keeps the rules"

violation "base includes net" gossip/base/x.h '#include "gossip/net/transport.h"' "against the direction"
violation "metrics includes net" metrics/x.cc '#include "gossip/net/transport.h"' "against the direction"
violation "pipeline includes the trainer" pipeline/x.cc '#include "trainer/worker/worker.h"' "against the direction"
violation "the trainer includes the launcher" trainer/worker/x.cc '#include "launcher/x.h"' "against the direction"
violation "the worker includes torch's folder" trainer/worker/x.cc '#include "trainer/torch/stage.h"' "against the direction"
violation "pipeline includes the simulation" pipeline/x.cc '#include "gossip/sim/network.h"' "may not use gossip_sim"
violation "the simulation includes pipeline" gossip/sim/x.cc '#include "pipeline/router.h"' "against the direction"
violation "the product includes tests" launcher/x.cc '#include "tests/support/x.h"' "against the direction"
violation "an include with odd spaces" gossip/base/x.h '  #  include   "pipeline/router.h"  // why' "against the direction"
violation "a folder of no layer" gossip/extra/x.h '#include "gossip/base/env.h"' "belongs to no layer"

violation "torch outside its folder" trainer/worker/x.cc '#include <torch/torch.h>' "LibTorch is for"
violation "ATen outside its folder" launcher/x.cc '#include <ATen/core/Tensor.h>' "LibTorch is for"
violation "c10 in quotes" pipeline/x.cc '#include "c10/util/Half.h"' "LibTorch is for"
violation "torch in other tests" tests/e2e/x.cc '#include <torch/torch.h>' "LibTorch is for"

violation "Env in a decider" pipeline/router.h '#include "gossip/base/env.h"' "seam to the world"
violation "Transport in a decider" pipeline/router.h '#include "gossip/net/transport.h"' "seam to the world"
plant_clean_tree
echo '#include "gossip/net/transport.h"' >gossip/net/link.h
printf '%s\n' '' '#include "gossip/net/link.h"' >pipeline/router.h
expect_refused "Transport in a decider by a detour" pipeline/router.h 2 \
  "pipeline/router.h -> gossip/net/link.h -> gossip/net/transport.h"
plant_clean_tree
echo '#include "gossip/base/env.h"' >>pipeline/router.cc
expect_refused "Env in a decider's source" pipeline/router.cc 2 "seam to the world"
plant_clean_tree
echo 'pipeline/gone' >>"$work/deciders"
expect_refused "a decider that is not there" pipeline/gone.h 0 "does not exist"

violation "a clock" pipeline/x.cc 'auto t = std::chrono::steady_clock::now();' "(now)"
violation "the C clock" pipeline/x.cc 'clock_gettime(CLOCK_MONOTONIC, &t);' "(now)"
violation "the C time" pipeline/x.cc 'auto t = std::time(nullptr);' "(now)"
violation "a random device" pipeline/x.cc 'std::random_device device;' "(random)"
violation "rand" pipeline/x.cc 'int x = rand();' "(random)"
violation "sleep_for" pipeline/x.cc 'std::this_thread::sleep_for(1s);' "(sleep)"
violation "usleep" pipeline/x.cc '::usleep(1);' "(sleep)"
violation "a sleep in a unit test" tests/pipeline/x_test.cc 'sleep(1);' "(sleep)"
violation "a thread" pipeline/x.cc 'std::thread worker([] {});' "(thread)"
violation "a thread in a container" pipeline/x.cc 'std::vector<std::jthread> workers;' "(thread)"
violation "async" pipeline/x.cc 'auto f = std::async(g);' "(thread)"
violation "getenv" launcher/x.cc 'const char* home = std::getenv("HOME");' "(getenv)"
violation "a call after a string" launcher/x.cc 'f("a // b", getenv("HOME"));' "(getenv)"
violation "a call after a comment" launcher/x.cc '/* why */ getenv("HOME");' "(getenv)"

rm -rf "$work/tree" && mkdir "$work/tree"
code=0
out=$(check) || code=$?
verdict "an empty tree" "$([[ $code == 2 ]] && echo yes || echo no)" "exit code $code, output: $out"

echo "$passed passed, $failed failed"
((failed == 0))
