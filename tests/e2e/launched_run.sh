# Whole runs for the tests of this folder: to be sourced, with `starling` set to the program and `workers` to a number.
# Each ends only processes that it started.
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

run="$dir/runs/e2e"

launch() {
  "$starling" launch "$dir/run.yaml" --local-workers "$workers" "$@" > "$dir/launch.txt" 2>&1 &
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
