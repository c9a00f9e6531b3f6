#!/bin/bash
# The CMake helper must refuse a link against the direction of the layers: each
# line of the table below is given to it as a folder's CMakeLists.txt would, and
# must be accepted or refused in the words that are said to be.
#
#   links_test.sh CMAKE SOURCE_DIR
set -euo pipefail

cmake=$1
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# The commands of a real configuration do not exist in script mode; a target that
# is accepted needs none of them.
prelude="
cmake_minimum_required(VERSION 3.25)
include($source_dir/cmake/starling.cmake)
set(STARLING_WITH_TORCH ON)
foreach(command add_library add_executable target_link_libraries starling_common
        starling_see_torch starling_register_test set_target_properties)
  function(\${command})
  endfunction()
endforeach()
"

# expect accepted|"words of the refusal" CALL
expect() {
  local want=$1 call=$2 out code=0 ok=yes
  printf '%s\n' "$prelude" "$call" >"$work/case.cmake"
  out=$("$cmake" -P "$work/case.cmake" 2>&1) || code=$?
  if [[ $want == accepted ]]; then
    [[ $code == 0 ]] || ok=no
  else
    # CMake folds long lines; undo that before comparing.
    [[ $code != 0 && $(tr -s ' \n' ' ' <<<"$out") == *"$want"* ]] || ok=no
  fi
  if [[ $ok == yes ]]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAILED: expected %s for: %s\n%s\n' "$want" "$call" "$out"
  fi
}

against="against the direction of the layers"

expect accepted "starling_library(gossip_base SOURCES a.cc)"
expect accepted "starling_library(metrics SOURCES a.cc DEPS gossip_base)"
expect accepted "starling_library(gossip_net SOURCES a.cc DEPS gossip_base metrics)"
expect accepted "starling_library(gossip_sim SOURCES a.cc DEPS gossip_net)"
expect accepted "starling_library(pipeline SOURCES a.cc DEPS gossip_outer gossip_membership)"
expect accepted "starling_library(trainer_worker SOURCES a.cc DEPS pipeline gossip_sim trainer_data)"
expect accepted "starling_library(trainer_worker_sim SOURCES a.cc DEPS trainer_worker)"
expect accepted "starling_library(trainer_torch TORCH SOURCES a.cc DEPS trainer_worker)"
expect accepted "starling_library(test_support SOURCES a.cc DEPS launcher gossip_sim)"
expect accepted "starling_executable(starling TORCH SOURCES a.cc DEPS launcher trainer_torch)"
expect accepted "starling_test(x_test LABEL sim SOURCES a.cc DEPS trainer_worker gossip_sim)"

expect "$against" "starling_library(gossip_base SOURCES a.cc DEPS metrics)"
expect "$against" "starling_library(metrics SOURCES a.cc DEPS gossip_net)"
expect "$against" "starling_library(gossip_net SOURCES a.cc DEPS gossip_membership)"
expect "$against" "starling_library(gossip_net SOURCES a.cc DEPS gossip_sim)"
expect "$against" "starling_library(gossip_membership SOURCES a.cc DEPS gossip_outer)"
expect "$against" "starling_library(gossip_sim SOURCES a.cc DEPS gossip_membership)"
expect "$against" "starling_library(pipeline SOURCES a.cc DEPS gossip_sim)"
expect "$against" "starling_library(pipeline SOURCES a.cc DEPS trainer_worker)"
expect "$against" "starling_library(trainer_worker SOURCES a.cc DEPS trainer_torch)"
expect "$against" "starling_library(trainer_worker SOURCES a.cc DEPS launcher)"
expect "$against" "starling_library(launcher SOURCES a.cc DEPS test_support)"
expect "$against" "starling_executable(starling SOURCES a.cc DEPS test_support)"
expect "TORCH is for" "starling_library(pipeline TORCH SOURCES a.cc)"
expect "TORCH is for" "starling_library(launcher TORCH SOURCES a.cc)"
expect "neither an ext_ name nor a library" "starling_library(pipeline SOURCES a.cc DEPS starling_torch)"
expect "neither an ext_ name nor a library" "starling_library(pipeline SOURCES a.cc DEPS torch_cpu)"
expect "does not define" "starling_library(pipeline SOURCES a.cc DEPS ext_unheard_of)"
expect "a library's name says its layer" "starling_library(utils SOURCES a.cc)"
expect "it must be one of" "starling_test(x_test LABEL quick SOURCES a.cc)"

echo "$passed passed, $failed failed"
((failed == 0))
