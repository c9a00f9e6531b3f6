#!/usr/bin/env bash
# starling tokenize, killed again and again and taken up each time, gives the shards of a run that nobody touched, and a run
# trains on them. tokenize_test.sh STARLING TOKENIZER.JSON. Ends only processes that it started.
set -euo pipefail
starling=$(realpath "$1")
tokenizer=$(realpath "$2")
dir=$(mktemp -d)
pid=
cleanup() {
  [ -z "$pid" ] || { kill -9 "$pid" 2> /dev/null && wait "$pid" 2> /dev/null; } || true
  rm -rf "$dir"
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*"
  tail -n 20 "$dir"/*.txt 2> /dev/null || true
  exit 1
}
cd "$dir"

# 66 MB of lines, each a little different.
seq 1600000 | sed 's/$/ words of a line that no other has/' > text
work=(text --tokenizer "$tokenizer" --documents line --shard-tokens 10000000)
"$starling" tokenize "${work[@]}" --out whole/t > whole.txt 2>&1 || fail "a run that nobody touches"

marked() { # bytes of text before the last mark
  local bytes
  bytes=$(sed -n 's/^ *"bytes": \([0-9]*\),/\1/p' parts/t.progress.json 2> /dev/null || true)
  echo "${bytes:-0}"
}
kills=0
last=0
for _ in $(seq 20); do
  "$starling" tokenize "${work[@]}" --out parts/t > parts.txt 2>&1 &
  pid=$!
  # Until it has come further than before, then a little into what is not marked yet.
  while kill -0 "$pid" 2> /dev/null && [ "$(marked)" -le "$last" ]; do sleep 0.02; done
  sleep 0.1
  if kill -9 "$pid" 2> /dev/null; then kills=$((kills + 1)); fi
  status=0
  wait "$pid" 2> /dev/null || status=$?
  pid=
  last=$(marked)
  if [ "$status" = 0 ]; then break; fi
done
[ "$kills" -ge 2 ] || fail "expected to kill it twice at least, got $kills"
[ "$last" -gt 30000000 ] || fail "it came no further than $last bytes"
"$starling" tokenize "${work[@]}" --out parts/t > parts.txt 2>&1 || fail "the last run"
for shard in whole/t_*.bin; do cmp "$shard" "parts/$(basename "$shard")" || fail "$shard differs"; done
[ "$(ls parts | wc -l)" = "$(ls whole | wc -l)" ] || fail "more files than shards: $(ls parts)"

"$starling" init --preset quickstart --output run.yaml > init.txt 2>&1 || fail "init"
run=(run.yaml --set "tokenizer.path=$tokenizer" --set 'data.train=["parts/t_*.bin"]')
status=0
"$starling" validate "${run[@]}" > validate.txt 2>&1 || status=$?
[ "$status" = 3 ] && grep -q "model.vocab_size is 256; set it to at least" validate.txt || fail "a vocabulary that is too small"
vocabulary=$(sed -n 's/^ *"vocab_size": \([0-9]*\),/\1/p' parts/t.progress.json)
# Each line is a document: attention stays inside of it, in both stages, and in what is evaluated afterwards.
"$starling" launch "${run[@]}" --local-workers 2 --set training.document_attention=true --set model.vocab_size="$vocabulary" --set parallelism.stages=2 \
  --set parallelism.replicas=1 --set training.microbatches=8 --set training.max_steps=4 --set lr_scheduler.warmup_steps=1 \
  --set outer.local_steps=2 --set eval.interval=4 --set network.listen=tcp://127.0.0.1:0 --set http.listen=127.0.0.1:0 \
  > launch.txt 2>&1 || fail "a run on these shards"
grep -q "the run is finished" launch.txt || fail "the run did not finish"
in_run=$(sed -n 's/^step 4 validation loss //p' launch.txt)
evaluated=$("$starling" eval runs/quickstart --json | sed -n 's/.*"loss":\([0-9.]*\).*/\1/p')
awk -v a="$in_run" -v b="$evaluated" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-6) }' ||
  fail "validation loss $in_run in the run, $evaluated of its checkpoint"
echo "killed $kills times; the shards are the same, and a run trained on them"
