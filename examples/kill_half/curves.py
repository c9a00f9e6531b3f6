"""The curves as one SVG: validation loss against the step, the whole run on the left, what follows the kill on the right.
A line is the mean of the seeds, the band around it their range; dashes tell the lines apart without colour."""

from html import escape

from experiments import EXPERIMENTS

WIDTH, HEIGHT = 1180, 560
TOP, BOTTOM = 64, 500


def by_step(runs):
    """step -> (least, mean, most) over the seeds that have a value there."""
    values = {}
    for run in runs:
        for step, loss in run["val"]:
            values.setdefault(step, []).append(loss)
    return {step: (min(all_), sum(all_) / len(all_), max(all_)) for step, all_ in sorted(values.items())
            if len(all_) == len(runs)}


class Panel:
    """Maps steps and losses to the picture."""

    def __init__(self, left, right, steps, losses):
        self.left, self.right, self.steps, self.losses = left, right, steps, losses

    def x(self, step):
        first, last = self.steps
        return self.left + (step - first) / (last - first) * (self.right - self.left)

    def y(self, loss):
        least, most = self.losses
        return BOTTOM - (loss - least) / (most - least) * (BOTTOM - TOP)

    def holds(self, step):
        return self.steps[0] <= step <= self.steps[1]


def frame(panel, title):
    out = [f'<text x="{panel.left}" y="{TOP - 12}" class="t">{escape(title)}</text>',
           f'<rect x="{panel.left}" y="{TOP}" width="{panel.right - panel.left}" height="{BOTTOM - TOP}" class="f"/>']
    least, most = panel.losses
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if (most - least) / s <= 9)
    tick = (int(least / step) + 1) * step
    while tick < most:
        y = panel.y(tick)
        out.append(f'<line x1="{panel.left}" y1="{y:.1f}" x2="{panel.right}" y2="{y:.1f}" class="g"/>'
                   f'<text x="{panel.left - 6}" y="{y + 4:.1f}" class="n" text-anchor="end">{tick:.2f}</text>')
        tick += step
    first, last = panel.steps
    for i in range(5):
        at = first + (last - first) * i / 4
        out.append(f'<text x="{panel.x(at):.1f}" y="{BOTTOM + 18}" class="n" text-anchor="middle">{at:.0f}</text>')
    out.append(f'<text x="{(panel.left + panel.right) / 2}" y="{BOTTOM + 38}" class="n" text-anchor="middle">step</text>')
    return out


def curve(panel, experiment, points):
    points = {step: point for step, point in points.items() if panel.holds(step)}
    inside = lambda loss: min(max(loss, panel.losses[0]), panel.losses[1])
    line = [(panel.x(step), panel.y(inside(middle))) for step, (_, middle, _) in points.items()]
    low = [(panel.x(step), panel.y(inside(least))) for step, (least, _, _) in points.items()]
    high = [(panel.x(step), panel.y(inside(most))) for step, (_, _, most) in points.items()]
    text = lambda all_: " ".join(f"{x:.1f},{y:.1f}" for x, y in all_)
    dash = f' stroke-dasharray="{experiment.dash}"' if experiment.dash else ""
    return [f'<polygon points="{text(high + low[::-1])}" fill="{experiment.colour}" opacity="0.10"/>',
            f'<polyline points="{text(line)}" fill="none" stroke="{experiment.colour}" stroke-width="2"{dash}/>']


def draw(results, scale, seeds):
    """The SVG as text. `results`: name -> the measured runs, one per seed."""
    curves = [(experiment, by_step(results[experiment.name])) for experiment in EXPERIMENTS if results.get(experiment.name)]
    all_points = [(step, point) for _, points in curves for step, point in points.items()]
    later = [point for step, point in all_points if step >= scale.kill_at]
    whole = Panel(60, 440, (0, scale.steps), (min(p[0] for _, p in all_points) - 0.05, max(p[2] for _, p in all_points) + 0.05))
    near = Panel(500, 860, (scale.kill_at, scale.steps), (min(p[0] for p in later) - 0.02, max(p[2] for p in later) + 0.02))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           "<style>.t{font-size:15px;font-weight:bold}.n{font-size:12px}.g{stroke:#ddd}.f{fill:none;stroke:#888}"
           ".k{stroke:#444;stroke-dasharray:3 3}</style>",
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text x="60" y="28" class="t">Validation loss, {scale.stages} stages x {scale.replicas} replicas, '
           f'faults at step {scale.kill_at}; mean and range of {len(seeds)} seed{"s" if len(seeds) > 1 else ""}</text>']
    out += frame(whole, "the whole run (nats per byte)") + frame(near, "from the fault on")
    x = whole.x(scale.kill_at)
    out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}" class="k"/>')
    for panel in (whole, near):
        for experiment, points in curves:
            out += curve(panel, experiment, points)
    order = sorted(curves, key=lambda entry: -list(entry[1].values())[-1][1])
    for i, (experiment, points) in enumerate(order):
        y = TOP + 14 + 34 * i
        dash = f' stroke-dasharray="{experiment.dash}"' if experiment.dash else ""
        label = ("control: " if experiment.control else "") + experiment.name.replace("_", " ")
        out.append(f'<line x1="885" y1="{y}" x2="935" y2="{y}" stroke="{experiment.colour}" stroke-width="2"{dash}/>'
                   f'<text x="943" y="{y + 4}" class="n">{escape(label)}: {list(points.values())[-1][1]:.3f}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"
