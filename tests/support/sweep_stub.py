"""A trial that trains nothing: `python sweep_stub.py WORDS ...` notes that it was started, waits, and leaves a record.

Words of the stub: seed=13 fails, seed=14 is killed. SIGTERM is answered as a training answers it: status 75.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

SECONDS = float(os.environ.get("STUB_SECONDS", "0"))
COST = {"none": 64, "256/0": 16, "0/256": 16, "256/256": 32}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    said = {key: value for key, _, value in (word.partition("=") for word in sys.argv[1:])}
    out = Path(said["out"])
    with (out.parent.parent / "started.txt").open("a") as file:
        file.write(out.name + "\n")
    time.sleep(SECONDS)
    if said.get("seed") == "13":
        sys.exit("ValueError: thirteen brings bad luck")
    if said.get("seed") == "14":
        os.kill(os.getpid(), signal.SIGKILL)
    latents, seed = said.get("latents", "256/256"), int(said.get("seed", "0"))
    tokens = COST.get(latents, 8)
    kind = "none" if latents == "none" else "perceiver"
    numbers = [int(n) for n in latents.split("/")] if "/" in latents else [0, 0]
    record = {
        "format": 1,
        "words": sys.argv[1:],
        "accuracy": {"j": 50.0 + tokens + seed, "f": 50.0 + tokens + seed, "jf": 50.0 + tokens + seed},
        "conditions": {"data": "toy", "num_sequences": 2, "num_objects": 6},
        "cost": {
            "parameters": 1000 + tokens,
            "gflops": {"encode": 1.0, "attend": tokens / 10, "decode": 1.0, "memorize": 1.0, "total": 3 + tokens / 10},
            "memory_tokens": tokens,
            "latency_ms": {"encode": 1.0, "attend": tokens / 10, "decode": 1.0, "memorize": 1.0, "step": 3 + tokens / 10},
            "machine": {"device": "none", "threads": 1, "torch": "2", "date": "2026-11-22"},
            "package_bytes": None,
        },
        "model": {"name": "stub", "kind": kind, "global_latents": numbers[0], "spatial_latents": numbers[1], "pool": 4},
        "validation": {},
        "training": {},
    }
    partial = out / "trial.partial"
    partial.write_text(json.dumps(record))
    partial.replace(out / "trial.json")


if __name__ == "__main__":
    main()
