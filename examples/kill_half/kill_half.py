#!/usr/bin/env python3
"""Half of the workers die, and the loss goes on falling: runs the experiments, judges them, draws their curves.

    examples/kill_half/kill_half.py --out DIR [--scale full|small] [--seeds 1,2,3] [--only kill,healthy] [--starling FILE]

Each run is real: `starling launch` with its workers as processes, one run at a time. A run that is done already, in DIR,
is not run again; so the command can be interrupted and repeated. Writes DIR/<experiment>-<seed>.json (what was measured),
DIR/table.md and DIR/curves.svg, and prints the table and what must hold.

Exit code: 0, 1 a run failed, 2 usage, 5 something that must hold does not.
Needs nothing but Python's own library.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from curves import draw
from experiments import EXPERIMENTS, FULL, SMALL, arguments
from judge import checks, table
from measure import measure

HERE = Path(__file__).resolve().parent
SCALES = {"full": FULL, "small": SMALL}
MOST_SECONDS = 3600


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where runs and results lie")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated")
    parser.add_argument("--only", default="", help="experiments, comma-separated: " + ", ".join(e.name for e in EXPERIMENTS))
    parser.add_argument("--starling", type=Path, default=HERE.parents[1] / "build" / "starling")
    given = parser.parse_args()
    try:
        given.seeds = [int(seed) for seed in given.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds {given.seeds}: expected numbers, as in 1,2,3")
    known = {experiment.name for experiment in EXPERIMENTS}
    given.only = [name for name in given.only.split(",") if name]
    if unknown := set(given.only) - known:
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {', '.join(sorted(known))}")
    if not given.starling.exists():
        parser.error(f"{given.starling} does not exist: build it, or name it with --starling")
    return given


def wanted(given):
    for experiment in EXPERIMENTS:
        if given.only:
            if experiment.name in given.only or experiment.name == "healthy":
                yield experiment
        elif given.scale == "full" or experiment.in_small:
            yield experiment


def tokens_per_microbatch(starling_run):
    """From the resolved run file that `starling launch` left in the run's directory."""
    values = {}
    for line in (starling_run / "run.yaml").read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().partition(":")
        if key in ("seq_len", "micro_batch_size"):
            values[key] = int(value)
    return values["seq_len"] * values["micro_batch_size"]


def run_once(given, scale, experiment, seed):
    result_file = given.out / f"{experiment.name}-{seed}.json"
    if result_file.exists():
        return json.loads(result_file.read_text(encoding="utf-8"))
    folder = given.out / "runs"
    run = folder / f"{experiment.name}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    command = [str(given.starling.resolve()), "launch", str(HERE / "run.yaml"), *arguments(experiment, scale, seed, folder)]
    log = given.out / f"{experiment.name}-{seed}.log"
    print(f"{experiment.name}, seed {seed}: running, see {log}", file=sys.stderr, flush=True)
    with open(log, "w", encoding="utf-8") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               timeout=MOST_SECONDS, check=False)
    if not (run / "metrics.jsonl").exists():
        sys.exit(f"kill_half: {experiment.name}, seed {seed}: no metrics were written; see {log}")
    result = measure(run, tokens_per_microbatch(run), ended.returncode)
    result_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{experiment.name}, seed {seed}: loss {result['final']} after {result['seconds']:.0f} s", file=sys.stderr, flush=True)
    return result


def main():
    given = options()
    scale = SCALES[given.scale]
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    results = {}
    # Seed by seed, so that what is done so far is always a fair comparison.
    for seed in given.seeds:
        for experiment in wanted(given):
            results.setdefault(experiment.name, []).append(run_once(given, scale, experiment, seed))
    text = table(results)
    (given.out / "table.md").write_text(text + "\n", encoding="utf-8")
    (given.out / "curves.svg").write_text(draw(results, scale, given.seeds), encoding="utf-8")
    print(text + "\n")
    broken = 0
    for sentence, holds in checks(results, scale):
        print(("holds   " if holds else "BROKEN  ") + sentence)
        broken += not holds
    return 5 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
