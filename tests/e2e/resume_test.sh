#!/usr/bin/env bash
# Whole runs of which every process is killed, and that go on from a checkpoint: resume_test.sh STARLING CASE
#   exact    one stage, one replica: the losses after it are those of a run that was never killed, to the last bit
#   swarm    4 stages x 2 replicas: it goes on at the checkpoint's step, and the loss goes on falling
#   damaged  the newest checkpoint is damaged in five ways, one after another: the one before it is taken, and that is said
#   observer the launcher is killed: an elected worker writes the checkpoints
#   init     what it has learned is exported, and another run, cut into other stages, begins with it
#   live     what it has learned in transformers, as the checkpoint and as exported: resume_test.sh STARLING live PYTHON LOGITS_PROGRAM
#   full     the disk is full: no checkpoint, an event that says so, and training goes on
set -euo pipefail
starling=$1
case_name=$2
workers=1
stages=1
replicas=1
steps=60
case $case_name in swarm | observer | init | live) workers=8 stages=4 replicas=2 ;; esac
source "$(dirname "$0")/launched_run.sh"

cat > "$dir/run.yaml" <<YAML
version: 1
run: {name: e2e, seed: 11, output_dir: $dir/runs}
model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4, num_attention_heads: 2,
        num_key_value_heads: 1, vocab_size: 256, max_position_embeddings: 32}
tokenizer: {path: byte}
data: {train: [$dir/text.txt]}
training: {seq_len: 32, micro_batch_size: 2, microbatches: 16, max_steps: $steps}
optimizer: {lr: 4.0e-3}
lr_scheduler: {warmup_steps: 5, min_lr: 4.0e-4}
parallelism: {stages: $stages, replicas: $replicas}
outer: {local_steps: 5}
checkpoint: {interval: 10, keep: 2}
eval: {interval: 10, batches: 4}
logging: {log_interval: 1}
network: {listen: "tcp://127.0.0.1:0"}
http: {listen: "127.0.0.1:0"}
YAML

checkpoint() { echo "$run/checkpoints/$(printf 'step-%06d' "$1")"; }
stands() { [ -e "$(checkpoint "$1")/manifest.json" ]; }
# Everything that this run started, at once.
kill_all() {
  local victims
  victims=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$run"/workers/*/worker.json)
  kill -9 "$launcher" $victims 2>/dev/null || true
  wait "$launcher" 2>/dev/null || true
  for victim in $victims; do wait_for "the end of $victim" eval "! kill -0 $victim 2>/dev/null"; done
}
finish() {
  local status=0
  wait "$launcher" || status=$?
  [ "$status" = 0 ] || fail "launch ended with $status"
}
# "step loss" of the newest line of each step.
losses() {
  python3 - "$1" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1]) if line.endswith("\n")]
losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
for step in sorted(losses): print(step, repr(losses[step]))
PYTHON
}
launch_again() {
  mv "$dir/launch.txt" "$dir/launch-$(ls "$dir" | grep -c launch).txt"
  launch "$@"
  launcher=$!
}

case "$case_name" in
  exact)
    # Nothing that time decides: no deadline, and one microbatch after another.
    cat >> "$dir/run.yaml" <<YAML
pipeline: {routing: permutation, skip: never, max_in_flight: 1}
YAML
    launch
    launcher=$!
    finish
    losses "$run/metrics.jsonl" > "$dir/undisturbed.txt"
    stands 60 || fail "no checkpoint of the last step"
    stands 50 || fail "no checkpoint of step 50"
    ! stands 40 || fail "keep: 2 keeps a third"
    status=0
    "$starling" launch "$dir/run.yaml" > "$dir/done.txt" 2>&1 || status=$?
    [ "$status" = 1 ] && grep -q "has reached its last step" "$dir/done.txt" || { cat "$dir/done.txt"; fail "a run at its end was taken up"; }
    launch_again --fresh
    wait_for "the checkpoint of step 20" stands 20
    kill_all
    launch_again
    finish
    grep -q "going on after step [2-5]0, from" "$dir/launch.txt" || fail "it did not say where it goes on"
    losses "$run/metrics.jsonl" > "$dir/resumed.txt"
    cmp "$dir/undisturbed.txt" "$dir/resumed.txt" || { diff "$dir/undisturbed.txt" "$dir/resumed.txt" | head; fail "the losses differ"; }
    ;;
  swarm)
    launch --set training.max_steps=100
    launcher=$!
    wait_for "the checkpoint of step 20" stands 20
    kill_all
    [ -z "$(grep -o '"missed":"[^"]*"' "$run/events.jsonl")" ] || fail "a healthy run missed something"
    launch_again --set training.max_steps=100
    finish
    from=$(sed -n 's/.*going on after step \([0-9]*\), from.*/\1/p' "$dir/launch.txt")
    [ -n "$from" ] || fail "it did not say where it goes on"
    # No worker has begun anew: the first line of each after the resume is of the step after the checkpoint's.
    python3 - "$run" "$from" <<'PYTHON' || fail "somebody did not go on from the checkpoint"
import json, sys
read = lambda name: [json.loads(line) for line in open(f"{sys.argv[1]}/{name}") if line.endswith("\n")]
at = next(event["time"] for event in read("events.jsonl") if event["event"] == "resume")
first = {}
for line in read("metrics.jsonl"):
    if line["time"] > at and "train/lr" in line: first.setdefault(line["worker"], line["step"])
print("first steps after the resume:", sorted(first.items()))
sys.exit(len(first) != 8 or any(step != int(sys.argv[2]) + 1 for step in first.values()))
PYTHON
    expect_end 100
    expect_learned_since "$from"
    stands 100 || fail "no checkpoint of the last step"
    "$starling" eval "$run" --json > "$dir/eval.json" || fail "eval fails"
    python3 - "$dir/eval.json" "$(last_val_loss)" <<'PYTHON' || fail "the checkpoint is not what was evaluated"
import json, sys
loss, said = json.load(open(sys.argv[1]))["loss"], float(sys.argv[2])
print(f"validation loss {loss:.4f} of the last checkpoint, {said:.4f} in the run")
sys.exit(abs(loss / said - 1) > 0.02)
PYTHON
    ;;
  damaged)
    launch --set training.max_steps=100000
    launcher=$!
    wait_for "the checkpoint of step 20" stands 20
    kill_all
    cp -r "$run" "$dir/kept"
    newest=$(ls "$run/checkpoints" | tail -n 1)
    older=$(ls "$run/checkpoints" | head -n 1)
    [ "$newest" != "$older" ] || fail "expected two checkpoints, got $newest"
    weights=model-00001-of-00001.safetensors
    for damage in flip cut missing manifest state; do
      rm -rf "$run"
      cp -r "$dir/kept" "$run"
      file="$run/checkpoints/$newest/$weights"
      case $damage in
        flip) printf '\377' | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") - 5)) conv=notrunc status=none ;;
        cut) truncate -s -100 "$file" ;;
        missing) rm "$file" ;;
        manifest) truncate -s -3 "$run/checkpoints/$newest/manifest.json" ;;
        state) printf '\377' | dd of="$run/checkpoints/$newest/state-00001-of-00001.safetensors" bs=1 seek=4000 conv=notrunc status=none ;;
      esac
      launch_again --set training.max_steps=100000
      wait_for "the step lines after damage '$damage'" grep -q "^step [0-9]*/100000 loss" "$dir/launch.txt"
      grep -q "passed over a damaged checkpoint: $newest: " "$dir/launch.txt" || fail "$damage: it did not say what is damaged"
      grep -q "from .*/checkpoints/$older" "$dir/launch.txt" || fail "$damage: it did not go on from $older"
      grep "passed over" "$dir/launch.txt"
      kill_all
    done
    ;;
  observer)
    launch --set training.max_steps=100
    launcher=$!
    wait_for_step 12
    kill -9 "$launcher"
    wait "$launcher" 2>/dev/null || true
    for _ in $(seq 1 2400); do
      if [ "$(exit_codes)" = " 8 0 " ]; then break; fi
      sleep 0.1
    done
    [ "$(exit_codes)" = " 8 0 " ] || fail "exit codes are$(exit_codes)"
    stands 100 || fail "nobody wrote the last checkpoint"
    grep '"event":"checkpoint"' "$run/events.jsonl" | grep -q '"worker":"w0' || fail "no worker says that it wrote one"
    ;;
  init)
    launch
    launcher=$!
    finish
    "$starling" export "$run" -o "$dir/model" > /dev/null || fail "export fails"
    "$starling" import "$dir/model" > "$dir/lines.txt" || fail "import fails"
    grep -q "init_from: \"*$dir/model" "$dir/lines.txt" || { cat "$dir/lines.txt"; fail "import names another directory"; }
    learned=$(last_val_loss)
    workers=2
    run="$dir/runs/again"
    launch_again --set run.name=again --set parallelism.stages=2 --set parallelism.replicas=1 --set training.max_steps=8 \
      --set model.init_from="$dir/model"
    finish
    losses "$run/metrics.jsonl" > "$dir/again.txt"
    awk -v learned="$learned" '$1 == 1 { print "validation loss", learned, "at the end, training loss", $2, "in the first step of the other run"
      exit !($2 < learned * 1.15) }' "$dir/again.txt" || { cat "$dir/again.txt"; fail "the other run began anew"; }
    ;;
  live)
    "$3" -c 'import torch, transformers' 2> /dev/null || { echo "skipped: it needs torch and transformers"; exit 77; }
    launch
    launcher=$!
    finish
    "$3" "$(dirname "$0")/../golden/checkpoint_check.py" "$starling" "$run" --text "$dir/text.txt" --logits "$4" ||
      fail "transformers finds something else"
    ;;
  full)
    mkdir -p "$dir/nowhere"
    launch --set checkpoint.dir=/dev/full/checkpoints
    launcher=$!
    finish
    expect_end
    grep -q '"event":"checkpoint".*"result":"failed"' "$run/events.jsonl" || fail "no event says that it failed"
    grep -q "no checkpoint of step 10: .*training goes on" "$dir/launch.txt" || fail "the launcher did not say so"
    ;;
  *) fail "no such case: $case_name" ;;
esac
echo "passed: $case_name"
