#!/usr/bin/env python3
"""The scalars of a TensorBoard event file, as the real package reads them: JSON of tag to [[wall time, step, value], ...].

    pip install tensorboard==2.21.0    # and no TensorFlow
    python3 scripts/tensorboard_scalars.py results/EXPERIMENT/RUN/tensorboard/events.out.tfevents.sharelora

Prints `skipped` and succeeds where the package is missing. `crates/report/tests/tensorboard.rs` runs it, with the Python of SHARELORA_PYTHON
where that is set. A damaged checksum ends it with an error: TensorBoard itself stops reading there without a word.
"""

import json
import sys


def main(path):
    try:
        from tensorboard.backend.event_processing import event_accumulator, event_file_loader
    except ImportError as error:
        print(f"skipped: {error}")
        return
    with open(path, "rb") as file:
        records = count(file.read())
    read = sum(1 for _ in event_file_loader.EventFileLoader(path).Load())
    assert read == records, f"{read} of {records} records were read"
    # 0: all events instead of a sample of them.
    accumulator = event_accumulator.EventAccumulator(path, size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {tag: [[e.wall_time, e.step, e.value] for e in accumulator.Scalars(tag)] for tag in tags["scalars"]}
    print(json.dumps(scalars, sort_keys=True))


def count(data):
    """Records of the file by their lengths alone."""
    place, records = 0, 0
    while place < len(data):
        place += 8 + 4 + int.from_bytes(data[place : place + 8], "little") + 4
        records += 1
    assert place == len(data), "the last record is cut off"
    return records


if __name__ == "__main__":
    main(sys.argv[1])
