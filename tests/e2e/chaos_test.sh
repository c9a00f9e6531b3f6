#!/usr/bin/env bash
# Whole runs in which processes are killed, stopped or added: chaos_test.sh STARLING CASE
#   kill      SIGKILL of half of the workers      stop      SIGSTOP of half of them
#   stage     SIGKILL of every worker of stage 2  launcher  SIGKILL of the launcher
#   join      a worker that joins by token while the run trains
#   relaunch  SIGKILL of the launcher; another takes its place, and lets a worker in by the old token
#   resume    SIGKILL of everything; another launch goes on from the newest checkpoint that holds
# Each ends only processes that it started.
set -euo pipefail
starling=$1
case_name=$2
dir=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  for file in "$dir"/runs/*/workers/*/worker.json; do
    [ -e "$file" ] || continue
    # Workers are leaders of sessions of their own; those of a run that failed are still there.
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$file")
    if [ -n "$pid" ] && grep -q starling "/proc/$pid/cmdline" 2>/dev/null; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  rm -rf "$dir"
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*"
  tail -n 40 "$dir/launch.txt" || true
  for log in "$dir"/runs/e2e/workers/*/log.txt; do echo "== $log"; tail -n 8 "$log"; done 2>/dev/null || true
  exit 1
}

# Sentences enough for a byte model to have something to learn; the same every time.
awk 'BEGIN {
  split("The starling,A swarm,One bird,The whole flock,Nobody", who, ",")
  split("turns with,waits for,follows,flies around,outlives", does, ",")
  split("its neighbours,the evening,a falcon,the others,the wind", whom, ",")
  x = 7
  for (i = 0; i < 4000; i++) {
    x = (x * 1103515245 + 12345) % 2147483648; a = int(x / 65536) % 5 + 1
    x = (x * 1103515245 + 12345) % 2147483648; b = int(x / 65536) % 5 + 1
    x = (x * 1103515245 + 12345) % 2147483648; c = int(x / 65536) % 5 + 1
    print who[a], does[b], whom[c] "."
  }
}' > "$dir/text.txt"

cat > "$dir/run.yaml" <<YAML
version: 1
run: {name: e2e, seed: 11, output_dir: $dir/runs}
model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4, num_attention_heads: 2,
        num_key_value_heads: 1, vocab_size: 256, max_position_embeddings: 32}
tokenizer: {path: byte}
data: {train: [$dir/text.txt]}
training: {seq_len: 32, micro_batch_size: 2, microbatches: 16, max_steps: 60}
optimizer: {lr: 4.0e-3}
lr_scheduler: {warmup_steps: 5, min_lr: 4.0e-4}
parallelism: {stages: 4, replicas: 2}
outer: {local_steps: 5}
eval: {interval: 10, batches: 4}
logging: {log_interval: 1}
network: {listen: "tcp://127.0.0.1:0"}
http: {listen: "127.0.0.1:0"}
YAML
run="$dir/runs/e2e"

launch() {
  local workers=(--local-workers 8)
  [ "${1:-}" = --local-workers ] && workers=()
  "$starling" launch "$dir/run.yaml" "${workers[@]}" "$@" > "$dir/launch.txt" 2>&1 &
  pids+=($!)
}
# Waits until metrics.jsonl has a line of step $1.
wait_for_step() {
  for _ in $(seq 1 600); do
    if [ -e "$run/metrics.jsonl" ] && grep -q "\"step\":$1," "$run/metrics.jsonl"; then return 0; fi
    sleep 0.1
  done
  fail "step $1 was not reached"
}
# Waits until the command after the description succeeds.
wait_for() {
  local what=$1
  shift
  for _ in $(seq 1 1200); do
    if "$@"; then return 0; fi
    sleep 0.1
  done
  fail "no sign of $what"
}
wait_for_exit() {
  for _ in $(seq 1 2400); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  fail "process $1 did not end"
}
exit_codes() { sed -n 's/.*"exit_code": \([a-z0-9-]*\).*/\1/p' "$run"/workers/*/worker.json | sort | uniq -c | tr -s ' \n' ' '; }
last_val_loss() { grep -o '"val/loss":[0-9.]*' "$run/metrics.jsonl" | tail -n 1 | cut -d: -f2; }
# The first one at or after step $1: an evaluation may be lost with the worker that made it.
val_loss_at() {
  sed -n 's/.*"step":\([0-9]*\),.*"val\/loss":\([0-9.]*\).*/\1 \2/p' "$run/metrics.jsonl" | sort -n |
    awk -v step="$1" '$1 >= step && !found { print $2; found = 1 }'
}
expect_learned_since() {
  local before after
  before=$(val_loss_at "$1")
  after=$(last_val_loss)
  echo "validation loss at step $1: $before, at the end: $after"
  awk -v a="$after" -v b="$before" 'BEGIN { exit !(a != "" && b != "" && a < 0.95 * b) }' || fail "the loss did not go on falling"
}
expect_end() {
  grep -q "\"step\":${1:-60}," "$run/metrics.jsonl" || fail "metrics.jsonl does not reach step ${1:-60}"
  echo "exit codes:$(exit_codes)"
}

# What a worker that joined at unix time $1 needed until its first optimizer step: at most 15 s. Prints, without judging it,
# how far it stood from its partner at its first exchanges, against the other pairs of its stage in that round: there are one
# or two of them, and pairs differ by a factor of three among themselves.
expect_quick_joiner() {
  python3 - "$1" "$dir/late" "$run" <<'PYTHON' || fail "the joiner was too slow"
import json, statistics, sys
joined, late, run = float(sys.argv[1]), sys.argv[2], sys.argv[3]
read = lambda path: [json.loads(line) for line in open(path) if line.endswith("\n")]
first = min(line["time"] for line in read(late + "/metrics.jsonl") if "train/grad_norm" in line) - joined
own = [event for event in read(late + "/events.jsonl") if event["event"] == "exchange" and event["result"] == "averaged"]
print(f"first optimizer step {first:.1f} s after exec")
theirs = read(run + "/events.jsonl")
itself = next(event["id"] for event in theirs if event["event"] == "join" and event.get("peer") == "late")
for event in own[:4]:
    others = [other["divergence"] for other in theirs if other["event"] == "exchange" and other["result"] == "averaged" and
              (other["round"], other["stage"]) == (event["round"], event["stage"]) and
              other["worker"] != event["worker"] and other["partner"] != itself]
    if others:
        print(f"divergence in round {event['round']}: {event['divergence'] / statistics.median(others):.2f} x the others'")
sys.exit(first > 15)
PYTHON
}

case "$case_name" in
  kill | stop | stage)
    if [ "$case_name" = stage ]; then what="kill stage 2 at step 10"; else what="$case_name 50% at step 10"; fi
    launch --chaos "$what"
    launcher=$!
    status=0
    wait "$launcher" || status=$?
    [ "$status" = 0 ] || fail "launch ended with $status"
    expect_end
    gone=$([ "$case_name" = stage ] && echo 2 || echo 4)
    [ "$(grep -c '"event":"chaos"' "$run/events.jsonl")" = "$gone" ] || fail "expected $gone victims"
    survivors=$(sed -n 's/.*"exit_code": \(0\).*/\1/p' "$run"/workers/*/worker.json | wc -l)
    [ "$survivors" = $((8 - gone)) ] || fail "expected $((8 - gone)) workers with exit code 0, got $survivors"
    grep -q '"event":"dead"' "$run/events.jsonl" || fail "nobody noticed"
    expect_learned_since 10
    ;;
  launcher)
    launch
    launcher=$!
    wait_for_step 10
    kill -9 "$launcher"
    for _ in $(seq 1 2400); do
      if [ "$(exit_codes)" = " 8 0 " ]; then break; fi
      sleep 0.1
    done
    [ "$(exit_codes)" = " 8 0 " ] || fail "exit codes are$(exit_codes)"
    expect_end
    expect_learned_since 10
    ;;
  join)
    # Four replicas a stage: two that always meet each other hardly differ, and nobody could be compared with them.
    launch --set parallelism.stages=2 --set parallelism.replicas=4 --set outer.local_steps=10 --set training.max_steps=200
    launcher=$!
    wait_for_step 10
    joined_at=$(date +%s.%N)
    "$starling" join "$run/join.token" --name late --dir "$dir/late" --data / --listen tcp://127.0.0.1:0 --http 127.0.0.1:0 \
      > "$dir/join.txt" 2>&1 &
    joiner=$!
    pids+=("$joiner")
    status=0
    wait "$launcher" || status=$?
    [ "$status" = 0 ] || fail "launch ended with $status"
    wait "$joiner" || status=$?
    [ "$status" = 0 ] || { cat "$dir/join.txt"; fail "join ended with $status"; }
    expect_end 200
    grep -q '"worker":"late"' "$dir/late/metrics.jsonl" || fail "the joiner never closed a step"
    grep -q '"worker":"late"' "$run/metrics.jsonl" || fail "the run's metrics.jsonl has nothing of a worker elsewhere"
    grep -q '"event":"copied"' "$dir/late/events.jsonl" || fail "the joiner did not copy a replica's state"
    expect_quick_joiner "$joined_at"
    expect_learned_since 10
    ;;
  relaunch)
    # Long enough for whatever machine this is; Ctrl-C ends it.
    launch --set training.max_steps=100000 --set checkpoint.resume=never
    launcher=$!
    wait_for_step 10
    kill -9 "$launcher"
    wait "$launcher" 2>/dev/null || true
    token=$(cat "$run/join.token")
    mv "$dir/launch.txt" "$dir/launch-1.txt"
    launch --set training.max_steps=100000
    launcher=$!
    # Who comes next is told that there is one already, with its number, and --fresh moves nothing away from under it.
    wait_for "the second launcher" grep -q "^join with" "$dir/launch.txt"
    for flag in "" --fresh; do
      status=0
      "$starling" launch "$dir/run.yaml" $flag > "$dir/third.txt" 2>&1 || status=$?
      [ "$status" = 1 ] || fail "a third launch $flag ended with $status"
      grep -q "has a launcher already (pid $launcher)" "$dir/third.txt" || { cat "$dir/third.txt"; fail "a third launch"; }
    done
    "$starling" join "$token" --name late --dir "$dir/late" --data / --listen tcp://127.0.0.1:0 --http 127.0.0.1:0 \
      > "$dir/join.txt" 2>&1 &
    joiner=$!
    pids+=("$joiner")
    wait_for "the joiner's first step" grep -qs '"worker":"late"' "$dir/late/metrics.jsonl"
    wait_for "step lines" grep -q "^step [0-9]*/100000 loss" "$dir/launch.txt"
    "$starling" status "$run" > "$dir/status.txt" || fail "status fails"
    grep -q "late" "$dir/status.txt" || { cat "$dir/status.txt"; fail "status does not know the joiner"; }
    kill -INT "$launcher"
    status=0
    wait "$launcher" || status=$?
    [ "$status" = 0 ] || fail "the second launch ended with $status"
    wait "$joiner" || status=$?
    [ "$status" = 0 ] || { cat "$dir/join.txt"; fail "join ended with $status"; }
    [ "$(exit_codes)" = " 8 0 " ] || fail "exit codes are$(exit_codes)"
    grep -q "local workers that live: w00, w01, w02, w03, w04, w05, w06, w07" "$dir/launch.txt" || fail "not adopted"
    grep -q '"event":"launcher_returned"' "$run/events.jsonl" || fail "events.jsonl does not say so"
    "$starling" status "$run" > "$dir/status.txt" || fail "status fails"
    grep -q finished "$dir/status.txt" || { cat "$dir/status.txt"; fail "status does not say that the run has finished"; }
    # Nobody is left: a new run has to be asked for.
    status=0
    "$starling" launch "$dir/run.yaml" > "$dir/fourth.txt" 2>&1 || status=$?
    [ "$status" = 1 ] || fail "a launch after the end ended with $status"
    grep -q -- "--fresh" "$dir/fourth.txt" || { cat "$dir/fourth.txt"; fail "a launch after the end"; }
    ;;
  resume)
    kill_all() {
      local file
      kill -9 "$launcher"
      wait "$launcher" 2>/dev/null || true
      for file in "$run"/workers/*/worker.json; do kill -9 "$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$file")" 2>/dev/null || true; done
      mv "$dir/launch.txt" "$dir/launch-1.txt"
    }
    again() {
      launch "$@"
      launcher=$!
      status=0
      wait "$launcher" || status=$?
      [ "$status" = 0 ] || fail "the second launch ended with $status"
      expect_end
      grep -q "going on after step" "$dir/launch.txt" || fail "it does not say that it goes on"
    }
    # One stage, one replica: every loss comes again to the last digit.
    one=(--local-workers 1 --set parallelism.stages=1 --set parallelism.replicas=1 --set checkpoint.interval=10)
    launch "${one[@]}"
    launcher=$!
    wait_for "a checkpoint" test -e "$run/checkpoints/step-000020/manifest.json"
    wait_for_step 23
    kill_all
    again "${one[@]}"
    python3 - "$run/metrics.jsonl" <<'PYTHON' || fail "losses differ after the resume"
import collections, json, sys
losses = collections.defaultdict(set)
twice = collections.Counter()
for line in open(sys.argv[1]):
    row = json.loads(line)
    if "train/loss" in row:
        losses[row["step"]].add(row["train/loss"])
        twice[row["step"]] += 1
again = [step for step, count in twice.items() if count > 1]
print(f"steps that were made twice: {again}")
sys.exit(not again or any(len(found) > 1 for found in losses.values()))
PYTHON
    # Four stages of two, and the newest checkpoint is cut off.
    rm -rf "$run"
    launch --set checkpoint.interval=10
    launcher=$!
    wait_for "a checkpoint" test -e "$run/checkpoints/step-000030/manifest.json"
    kill_all
    newest=$(ls "$run/checkpoints" | tail -n 1)
    truncate -s 1000 "$run/checkpoints/$newest/model-00002-of-00004.safetensors"
    again --set checkpoint.interval=10
    grep -q "passed over: $newest: .*model-00002-of-00004" "$dir/launch.txt" || fail "the damaged one was not passed over"
    [ "$(exit_codes)" = " 8 0 " ] || fail "exit codes are$(exit_codes)"
    wait_for "the last checkpoint" test -e "$run/checkpoints/step-000060/manifest.json"
    [ "$(ls "$run/checkpoints" | wc -l)" = 3 ] || fail "three are to be kept"
    "$starling" eval "$run" --json > "$dir/eval.json" || fail "eval fails"
    python3 - "$dir/eval.json" "$(last_val_loss)" <<'PYTHON' || fail "the checkpoint is not what was evaluated"
import json, sys
loss, said = json.load(open(sys.argv[1]))["loss"], float(sys.argv[2])
print(f"validation loss {loss:.4f} of the last checkpoint, {said:.4f} in the run")
sys.exit(abs(loss / said - 1) > 0.02)
PYTHON
    # It is finished: a new run has to be asked for.
    status=0
    "$starling" launch "$dir/run.yaml" > "$dir/third.txt" 2>&1 || status=$?
    [ "$status" = 1 ] && grep -q -- "--fresh" "$dir/third.txt" || { cat "$dir/third.txt"; fail "a launch after the end"; }
    ;;
  *) fail "no such case: $case_name" ;;
esac
echo "passed: $case_name"
