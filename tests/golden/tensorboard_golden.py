"""The event files of metrics/tensorboard against TensorBoard's own code.

    pip install tensorboard
    python tests/golden/tensorboard_golden.py tests/golden/tensorboard            # writes them with TensorBoard's messages and records
    python tests/golden/tensorboard_golden.py --check tests/golden/tensorboard    # reads them with TensorBoard's loader

Two files of one run: steps 10, 20 and 30, then, after a return to step 20, steps 30 and 40. tensorboard_test writes the same and
compares byte by byte; it needs no Python. Without the package the check says so and exits with 77.
"""

import pathlib
import sys

FILES = {
    "events.out.tfevents.1700000000.000.starling": (1700000000.5, 10, [
        (1700000001.0, 10, {"train/loss": 3.25, "train/lr": 0.0005}),
        (1700000002.0, 20, {"train/loss": 2.5, "val/loss": 2.75}),
        (1700000003.0, 30, {"train/loss": float("nan")}),
    ]),
    "events.out.tfevents.1700000000.001.starling": (1700000000.75, 30, [
        (1700000004.0, 30, {"train/loss": 2.0}),
        (1700000005.0, 40, {"train/loss": 0.0, "workers/active": 123456.0}),
    ]),
}


def write(folder):
    import struct

    from tensorboard.compat.proto import event_pb2
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    folder.mkdir(parents=True, exist_ok=True)
    for name, (opened, first_step, points) in FILES.items():
        events = [event_pb2.Event(wall_time=opened, file_version="brain.Event:2"),
                  event_pb2.Event(wall_time=opened, step=first_step,
                                  session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))]
        for wall_time, step, scalars in points:
            event = event_pb2.Event(wall_time=wall_time, step=step)
            for tag, value in scalars.items():
                event.summary.value.add(tag=tag, simple_value=value)
            events.append(event)
        with open(folder / name, "wb") as out:
            for event in events:
                data = event.SerializeToString()
                length = struct.pack("<Q", len(data))
                out.write(length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data)))


def check(folder):
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        print("the package tensorboard is not installed")
        sys.exit(77)
    run = EventAccumulator(str(folder))
    run.Reload()
    steps = [(point.step, point.value) for point in run.Scalars("train/loss")]
    assert steps == [(10, 3.25), (20, 2.5), (30, 2.0), (40, 0.0)], steps
    assert [(p.wall_time, p.step, p.value) for p in run.Scalars("val/loss")] == [(1700000002.0, 20, 2.75)]
    assert run.Scalars("workers/active")[0].value == 123456.0
    print("TensorBoard reads", len(steps), "steps of train/loss")


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(pathlib.Path(sys.argv[2]))
    else:
        write(pathlib.Path(sys.argv[1]))
