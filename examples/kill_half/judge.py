"""From numbers of runs to the table and to what must hold. Means of seeds and their spread, never a single run: two runs
that differ in nothing but chance end almost 2 % apart."""

from experiments import EXPERIMENTS

AT_END = 1.03            # of the mean final loss without faults
BELOW_KILL = 0.95        # of the loss at the kill
LEAST_GAP = 10.0         # s
GAP_FACTOR = 4.0         # of the longest gap before the kill
MOST_SKIPS = 0.02
LEAST_AVERAGED = 0.80
LEAST_SEEDS = 3          # fewer say nothing about a few percent


def mean(values):
    return sum(values) / len(values)


def finals(runs):
    return [run["final"] for run in runs]


def percent(value):
    return "" if value is None else f"{100 * value:.1f} %"


def worst(values, choose=max):
    known = [value for value in values if value is not None]
    return choose(known) if known else None


def table(results):
    """Markdown. `results`: name -> the measured runs, one per seed."""
    base = mean(finals(results["healthy"]))
    out = ["| what happens at a third of the run | loss at the kill | loss at the end | spread | against healthy | tokens "
           "| longest silence | skips later | averaged later | takeovers |",
           "|---|---|---|---|---|---|---|---|---|---|"]
    for experiment in EXPERIMENTS:
        runs = results.get(experiment.name)
        if not runs:
            continue
        ends = finals(runs)
        at_kill = [run["at_kill"] for run in runs if run.get("at_kill")]
        gaps = [gap["after"] for run in runs for gap in run.get("silence", {}).values()]
        out.append("| " + " | ".join([
            ("control: " if experiment.control else "") + experiment.what,
            f"{mean(at_kill):.3f}" if at_kill else "",
            f"{mean(ends):.3f}",
            f"{max(ends) - min(ends):.3f}",
            f"{100 * (mean(ends) / base - 1):+.1f} %",
            f"{mean([run['tokens'] for run in runs]) / 1e6:.2f}M",
            f"{max(gaps):.1f} s" if gaps else "",
            percent(worst([run["settled_skips"] for run in runs])),
            percent(worst([run["settled_averaged"] for run in runs], min)),
            f"{mean([run['takeovers'] for run in runs]):.1f}",
        ]) + " |")
    out.append("")
    out.append(f"Validation loss in nats per byte, mean of {len(results['healthy'])} seeds; spread: largest minus smallest; "
               "silence, skips and averaged rounds: the worst of the seeds; later: from 30 s after the kill, or the last "
               "takeover, to the end.")
    return "\n".join(out)


def checks(results, scale):
    """What must hold, as (sentence, whether it does)."""
    base = mean(finals(results["healthy"]))
    out = []
    for experiment in EXPERIMENTS:
        runs = results.get(experiment.name)
        if not runs:
            continue
        name = experiment.name
        out.append((f"{name}: launch exits 0", all(run["launch_exit"] == 0 for run in runs)))
        out.append((f"{name}: every survivor exits 0", all(all(code == 0 for code in run["exits"].values()) for run in runs)))
        out.append((f"{name}: reaches the last step", all(run["last_step"] == scale.steps for run in runs)))
        if experiment.control:
            continue
        ratio = mean(finals(runs)) / base
        if len(runs) >= LEAST_SEEDS:
            out.append((f"{name}: ends within 3 % of healthy ({100 * (ratio - 1):+.1f} %)", ratio <= AT_END))
        if not experiment.chaos:
            continue
        fall = mean(finals(runs)) / mean([run["at_kill"] for run in runs])
        out.append((f"{name}: at least 5 % below the loss at the kill ({100 * (fall - 1):+.1f} %)", fall <= BELOW_KILL))
        if name == "stage_0":
            continue  # nobody reports a loss until stage 0 has been taken over
        for run in runs:
            for worker, gap in run["silence"].items():
                allowed = max(LEAST_GAP, GAP_FACTOR * gap["before"])
                out.append((f"{name}: {worker} is silent for at most {allowed:.1f} s ({gap['after']:.1f} s)",
                            gap["after"] <= allowed))
            if run["settled_skips"] is not None:
                out.append((f"{name}: later at most 2 % skip a stage ({percent(run['settled_skips'])})",
                            run["settled_skips"] <= MOST_SKIPS))
            if run["settled_averaged"] is not None:
                out.append((f"{name}: later at least 80 % of the rounds are averaged ({percent(run['settled_averaged'])})",
                            run["settled_averaged"] >= LEAST_AVERAGED))
    return out
