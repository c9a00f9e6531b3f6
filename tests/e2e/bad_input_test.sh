#!/usr/bin/env bash
# What users and strangers get wrong: each mistake has its exit code and a message that says what to change, and a run that
# trains goes on. bad_input_test.sh STARLING. Ends only processes that it started.
set -euo pipefail
starling=$(realpath "$1")
golden=$(realpath "$(dirname "$0")/../golden/tokenizers")
dir=$(mktemp -d)
pids=()
mounted=
cleanup() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2> /dev/null && wait "$pid" 2> /dev/null || true; done
  for file in "$dir"/runs/*/workers/*/worker.json "$dir"/small/*/workers/*/worker.json; do
    [ -e "$file" ] || continue
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$file")
    if [ -n "$pid" ] && grep -q "$dir" "/proc/$pid/cmdline" 2>/dev/null; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  if [ -n "$mounted" ]; then umount -l "$dir/small" || true; fi
  rm -rf "$dir"
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*"
  tail -n 20 "$dir"/*.txt 2>/dev/null || true
  exit 1
}
wait_for() {
  local what=$1
  shift
  for _ in $(seq 1 600); do
    if "$@"; then return 0; fi
    sleep 0.1
  done
  fail "no sign of $what"
}
# expect CODE PHRASE COMMAND...: the command ends with this exit code and says this.
checked=0
expect() {
  local code=$1 phrase=$2 status=0
  shift 2
  timeout 60 "$@" > "$dir/said.out" 2>&1 < /dev/null || status=$?
  if [ "$status" != "$code" ] || ! grep -qF -- "$phrase" "$dir/said.out"; then
    echo "expected exit code $code and '$phrase' of: $*"
    echo "got exit code $status and:"
    head -c 2000 "$dir/said.out"
    fail "$phrase"
  fi
  checked=$((checked + 1))
}

for _ in $(seq 3000); do echo "The starling turns with its neighbours, and a swarm waits for the wind."; done > "$dir/text.text"
cat > "$dir/run.yaml" <<YAML
version: 1
run: {name: first, seed: 11, output_dir: $dir/runs}
model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
        num_key_value_heads: 1, vocab_size: 256, max_position_embeddings: 32}
tokenizer: {path: byte}
data: {train: [$dir/text.text]}
training: {seq_len: 32, micro_batch_size: 2, microbatches: 8, max_steps: 1000000}
optimizer: {lr: 4.0e-3}
lr_scheduler: {warmup_steps: 5, min_lr: 4.0e-4}
parallelism: {stages: 2, replicas: 1}
outer: {local_steps: 5}
eval: {interval: 0}
logging: {log_interval: 1}
network: {listen: "tcp://127.0.0.1:0"}
http: {listen: "127.0.0.1:0"}
YAML
cd "$dir"
launch=("$starling" launch run.yaml)

# ---- run files: 3, and nothing is started
expect 3 "No such file or directory; 'starling init' writes one" "$starling" launch missing.yaml
expect 3 "expected a file, got a directory" "$starling" launch "$dir"
: > empty.yaml
expect 3 "the file is empty" "$starling" launch empty.yaml
head -c 3000 "$starling" > binary.yaml
expect 3 "cannot stand in a text" "$starling" launch binary.yaml
truncate -s 100M big.yaml
expect 3 "is this the right file?" "$starling" launch big.yaml
expect 3 "training.seq_len: expected an integer, got 'many'" "${launch[@]}" --set training.seq_len=many
sed 's/stages: 2/stages: [2]/; s/lr: 4.0e-3/lr: {a: 1}/' run.yaml > typed.yaml
expect 3 "parallelism.stages: expected an integer, got a list" "$starling" launch typed.yaml
expect 3 "optimizer.lr: expected a number, got a mapping" "$starling" launch typed.yaml
expect 2 "unknown flag" "${launch[@]}" --local-wrokers 2
expect 2 "expected 'kill 50% at step 100'" "${launch[@]}" --chaos "kill everybody"

# ---- data
expect 3 "cannot be opened: No such file" "${launch[@]}" --set "data.train=[$dir/missing.txt]"
: > none.text
expect 3 "the file is empty" "${launch[@]}" --set "data.train=[$dir/none.text]"
printf 'short' > short.text
expect 3 "expected at least 33 tokens" "${launch[@]}" --set "data.train=[$dir/short.text]"
printf '\054\001%.0s' $(seq 2000) > large.bin  # ids of 300
expect 3 "has id 300, but model.vocab_size is 256" "${launch[@]}" --set "data.train=[$dir/large.bin]"
expect 3 "expected byte or a file" "${launch[@]}" --set tokenizer.path=words
sed 's/"type": *"BPE"/"type": "WordPiece"/' "$golden/gpt2.json" > tokenizer.json
expect 3 "model.type: expected BPE" "${launch[@]}" --set "tokenizer.path=$dir/tokenizer.json"
printf 'no model at all' > tokenizer.model
expect 3 "tokenizer.model" "${launch[@]}" --set "tokenizer.path=$dir/tokenizer.model"

# ---- a model to begin with
mkdir -p bert
echo '{"model_type": "bert", "hidden_size": 32}' > bert/config.json
expect 3 "model_type" "${launch[@]}" --set "model.init_from=$dir/bert"
expect 3 "nowhere" "${launch[@]}" --set "model.init_from=$dir/nowhere"
[ ! -e runs ] || fail "a launch that failed has begun a run"

# ---- workers that cannot begin: the launch does not wait for them for ever
if [ ! -e /proc/driver/nvidia ]; then
  expect 1 "all local workers have ended before the first step" "${launch[@]}" --local-workers 2 --device cuda
  rm -r runs
fi

# ---- a learning rate that no weights survive: it is said, and the run goes on from its slow weights
expect 0 "3 steps in a row were not finite; the weights are those of the last exchange again" \
  "${launch[@]}" --local-workers 2 --set optimizer.lr=1.0e12 --set training.max_steps=12
grep -q "^step [0-9]*/12 loss nan" said.out || fail "no word of a loss that is not finite"
rm -r runs

# ---- ports: the user's own are taken or the launch fails, the default ones move on and say so
port=$((20000 + RANDOM % 20000))
own=(--set "network.listen=tcp://127.0.0.1:$port" --set "http.listen=127.0.0.1:$((port + 10))")
"${launch[@]}" "${own[@]}" --local-workers 2 > first.txt 2>&1 &
first=$!
pids+=("$first")
wait_for "the first run" test -s runs/first/launch.json
expect 3 "port $port, $((port + 1)) or $((port + 2)) on 127.0.0.1 is taken" "${launch[@]}" "${own[@]}" --set run.name=second
expect 3 "is in use by another program" "${launch[@]}" --set run.name=second --set "http.listen=127.0.0.1:$((port + 10))"
expect 1 "has a launcher already (pid $first)" "${launch[@]}" "${own[@]}"
token=$(cat runs/first/join.token)
joining=(--dir "$dir/joiner" --data / --http 127.0.0.1:0 --listen tcp://127.0.0.1:0)
expect 2 "--listen: port $port" "$starling" join "$token" --dir "$dir/joiner" --listen "tcp://127.0.0.1:$port"
expect 2 "--listen: " "$starling" join "$token" --dir "$dir/joiner" --listen nonsense
expect 2 "--http: " "$starling" join "$token" --dir "$dir/joiner" --listen tcp://127.0.0.1:0 --http nonsense
expect 2 "expected 1 to 32 of a-z" "$starling" join "$token" --name "No Name"
"${launch[@]}" --set run.name=default-1 --set network.listen=auto --set http.listen=auto > default-1.txt 2>&1 &
pids+=($!)
wait_for "a run on the default port" grep -q "^join with" default-1.txt
"${launch[@]}" --set run.name=default-2 --set network.listen=auto --set http.listen=auto > default-2.txt 2>&1 &
pids+=($!)
wait_for "a run beside it" grep -q "the default port is taken; listening on tcp://" default-2.txt

# ---- tokens: 4
expect 4 "this is not a join token" "$starling" join nonsense
expect 4 "there is no file '/no/such.token'" "$starling" join /no/such.token
expect 4 "at most 65536 are read" "$starling" join big.yaml
expect 4 "the token is cut off" "$starling" join "${token:0:200}"
expect 4 "its checksum does not hold" "$starling" join "${token:0:200}xx${token:202}"
expect 4 "more than one line" "$starling" join "${token:0:200} ${token:200}"

# ---- strangers: whatever they send, nobody else notices
wait_for "training" grep -q "^step 3/" first.txt
for offset in 0 1 2 10; do
  for _ in 1 2 3; do
    (exec 3<> "/dev/tcp/127.0.0.1/$((port + offset))" && head -c 300000 /dev/urandom >&3) 2> /dev/null || true
  done
done
(exec 3<> "/dev/tcp/127.0.0.1/$((port + 10))" && printf 'GET /%0100000d HTTP/1.1\r\n\r\n' 1 >&3) 2> /dev/null || true
step_of() { grep -o '^step [0-9]*' "$1" | tail -n 1 | cut -d' ' -f2; }
goes_on() { [ "$(step_of "$1")" -gt "$2" ]; }
wait_for "training after strangers" goes_on first.txt $(($(step_of first.txt) + 20))
expect 0 '"state":"training"' "$starling" status --json runs/first
grep -q "is dead" first.txt && fail "somebody died of what a stranger sent"
kill -INT "$first"
status=0
wait "$first" || status=$?
[ "$status" = 0 ] || fail "the first run ended with $status"

# ---- a seed that does not answer, and one that belongs to another run by now
expect 4 "let this node in within 2 s (the last word: no answer)" "$starling" join "$token" "${joining[@]}" --wait 2
"${launch[@]}" "${own[@]}" --fresh > fresh.txt 2>&1 &
fresh=$!
pids+=("$fresh")
wait_for "the new run" grep -q "^join with" fresh.txt
expect 4 "let this node in within 2 s" "$starling" join "$token" "${joining[@]}" --wait 2
# Ctrl-C ends also a run that nobody trains yet.
kill -INT "$fresh"
status=0
wait "$fresh" || status=$?
[ "$status" = 0 ] || fail "a run that waits ended with $status"

# ---- a full disk under the run directory: the run goes on, what is lost is said once
mkdir small
if mount -t tmpfs -o size=8m tmpfs small 2> /dev/null; then
  mounted=yes
  # No checkpoint is due in between: that would be said too.
  "${launch[@]}" --set "run.output_dir=$dir/small" --set checkpoint.interval=1000000 --local-workers 2 > full.txt 2>&1 &
  full=$!
  pids+=("$full")
  wait_for "training" grep -q "^step 3/" full.txt
  head -c 100M /dev/zero > small/fill 2> /dev/null || true
  wait_for "word of the full disk" grep -q "No space left on device" full.txt
  wait_for "training on a full disk" goes_on full.txt $(($(step_of full.txt) + 100))
  rm small/fill
  wait_for "training with room again" goes_on full.txt $(($(step_of full.txt) + 20))
  kill -INT "$full"
  status=0
  wait "$full" || status=$?
  [ "$status" = 0 ] || fail "the run on a full disk ended with $status"
  # Once for each file: metrics.jsonl, and TensorBoard's if one of its records came while there was no room.
  [ -z "$(grep -o "'[^']*': No space left on device" full.txt | sort | uniq -d)" ] || fail "a full disk was said more than once"
  [ "$(sed -n 's/.*"exit_code": \(0\).*/\1/p' small/first/workers/*/worker.json | wc -l)" = 2 ] || fail "a worker did not end well"
  checked=$((checked + 1))
  # With no room at all nothing begins.
  head -c 100M /dev/zero > small/fill 2> /dev/null || true
  expect 1 "No space left on device" "${launch[@]}" --set "run.output_dir=$dir/small" --set run.name=late
else
  echo "not tried: a full disk (this user may not mount a small one)"
fi
echo "passed: $checked mistakes"
