"""What a run's directory says about the run. Reads metrics.jsonl, events.jsonl and workers/*/worker.json; a torn last line
is skipped, as every reader must."""

import json
from pathlib import Path

SETTLED_AFTER = 30.0  # s after the kill, from which skips and rounds are judged


def lines_of(path):
    out = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return out


def longest_gap(times):
    return max((b - a for a, b in zip(times, times[1:])), default=0.0)


def measure(run, tokens_per_microbatch, launch_exit):
    """A dict of numbers for one run. `run`: its directory."""
    run = Path(run)
    metrics = lines_of(run / "metrics.jsonl")
    events = sorted(lines_of(run / "events.jsonl"), key=lambda event: event["time"])
    chaos = [event for event in events if event["event"] == "chaos"]
    victims = {event["worker"] for event in chaos}
    ends = {path.parent.name: json.loads(path.read_text(encoding="utf-8")).get("exit_code")
            for path in sorted(run.glob("workers/*/worker.json"))}
    values = sorted((line["step"], line["val/loss"]) for line in metrics if "val/loss" in line)
    last_of = {}
    for line in metrics:
        last_of[line["worker"]] = max(last_of.get(line["worker"], 0), line["tokens"])
    begin = min(line["time"] for line in metrics)
    end = max(line["time"] for line in metrics)
    out = {
        "launch_exit": launch_exit,
        "exits": {name: code for name, code in ends.items() if name not in victims},
        "victims": sorted(victims),
        "seconds": end - begin,
        "tokens": sum(last_of.values()),
        "last_step": max(line["step"] for line in metrics),
        "val": values,
        "final": values[-1][1] if values else None,
        "takeovers": sum(event["event"] == "takeover" for event in events),
    }
    kill_time = chaos[0]["time"] if chaos else None
    if kill_time is not None:
        out["kill_step"] = chaos[0]["step"]
        # The least by then: the evaluation of the very step of the kill may have lost stages on its way already.
        before = [loss for step, loss in values if step <= out["kill_step"]]
        out["at_kill"] = min(before, default=None)
        out["silence"] = silence(metrics, victims, kill_time)
        out["taken_over_after"] = [event["time"] - kill_time for event in events if event["event"] == "takeover"]
    out.update(settled(metrics, events, victims, kill_time if kill_time is not None else begin, end, tokens_per_microbatch))
    return out


def silence(metrics, victims, kill_time):
    """Per surviving originator: the longest gap between two reported losses before and after the kill, in seconds."""
    out = {}
    for worker in sorted({line["worker"] for line in metrics if "train/loss" in line} - victims):
        times = sorted(line["time"] for line in metrics if line["worker"] == worker and "train/loss" in line)
        before = [time for time in times if time <= kill_time]
        after = before[-1:] + [time for time in times if time > kill_time]
        out[worker] = {"before": longest_gap(before), "after": longest_gap(after)}
    return out


def settled(metrics, events, victims, kill_time, end, tokens_per_microbatch):
    """Shares from SETTLED_AFTER seconds after the kill, and after the last takeover, to the end."""
    since = max([kill_time + SETTLED_AFTER] + [event["time"] for event in events if event["event"] == "takeover"])
    completed = 0.0
    for worker in {line["worker"] for line in metrics} - victims:
        tokens = [line["tokens"] for line in metrics if line["worker"] == worker and line["time"] >= since]
        completed += (max(tokens) - min(tokens)) / tokens_per_microbatch if tokens else 0.0
    skipped = {event["microbatch"] for event in events if event["event"] == "skip_stage" and event["time"] >= since}
    rounds = [event for event in events if event["event"] == "exchange" and event["time"] >= since and
              event.get("cause") not in ("odd_one_out", "alone") and event["worker"] not in victims]
    averaged = sum(event["result"] == "averaged" for event in rounds)
    return {
        "settled_seconds": max(0.0, end - since),
        "settled_skips": len(skipped) / completed if completed else None,
        "settled_averaged": averaged / len(rounds) if rounds else None,
    }
