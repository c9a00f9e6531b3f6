"""What is run: each experiment is the run of run.yaml with something changed, and something done to it at the kill."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """full: what the README shows. small: what the tests run."""

    stages: int
    replicas: int
    steps: int
    kill_at: int
    sets: tuple = ()

    @property
    def workers(self):
        return self.stages * self.replicas


FULL = Scale(stages=4, replicas=4, steps=600, kill_at=200)
SMALL = Scale(
    stages=2, replicas=2, steps=200, kill_at=60,
    sets=("model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2", "training.seq_len=32",
          "lr_scheduler.warmup_steps=20", "outer.local_steps=10", "eval.interval=20", "eval.batches=50"))


@dataclass(frozen=True)
class Experiment:
    name: str
    what: str                  # for the table
    chaos: str = ""            # for --chaos; {kill_at} is filled in
    sets: tuple = ()           # for --set
    stages: int = 0            # 0: those of the scale
    in_small: bool = False
    dash: str = ""             # of its curve: told apart without colour
    colour: str = "#000000"
    control: bool = False      # not a claim of ours, but what a claim is measured against


EXPERIMENTS = (
    Experiment("healthy", "nothing happens", in_small=True, colour="#1b1b1b"),
    Experiment("kill", "kill -9 of half of the workers", chaos="kill 50% at step {kill_at}", in_small=True,
               dash="9 3", colour="#c0392b"),
    Experiment("stop", "SIGSTOP of half of the workers", chaos="stop 50% at step {kill_at}", dash="2 3", colour="#d98200"),
    Experiment("stage", "every replica of the stage before the last is killed", chaos="kill stage {middle} at step {kill_at}",
               dash="9 3 2 3", colour="#1f6fb2"),
    Experiment("stage_0", "every replica of stage 0 is killed", chaos="kill stage 0 at step {kill_at}", dash="14 4",
               colour="#2e8b57"),
    Experiment("skip_to_the_end", "as `stage`, but nobody takes the stage over", chaos="kill stage {middle} at step {kill_at}",
               sets=("pipeline.takeover=never",), dash="5 2 1 2", colour="#7d3c98", control=True),
    Experiment("no_exchange", "as `kill`, without any exchange between replicas", chaos="kill 50% at step {kill_at}",
               sets=("outer.algorithm=none",), dash="1 4", colour="#8a6d3b", control=True),
    Experiment("stage_0_alone", "a model of stage 0's blocks only", stages=1, dash="4 6", colour="#666666", control=True),
)


def arguments(experiment, scale, seed, folder):
    """The command line of `starling launch`, after the run file."""
    stages = experiment.stages or scale.stages
    sets = [f"run.seed={seed}", f"run.output_dir={folder}", f"run.name={experiment.name}-{seed}",
            f"parallelism.stages={stages}", f"parallelism.replicas={scale.replicas}", f"training.max_steps={scale.steps}",
            *scale.sets, f"model.num_hidden_layers={stages}", *experiment.sets]
    out = ["--local-workers", str(stages * scale.replicas)]
    for text in sets:
        out += ["--set", text]
    if experiment.chaos:
        out += ["--chaos", experiment.chaos.format(kill_at=scale.kill_at, middle=scale.stages - 2)]
    return out
