"""When did each student of a sweep begin to read its memory, and how near its teacher's F_M did it end?

    python experiments/began.py runs/sweeps/latents

Began: the first logged step of the first phase with a dice loss below --below. On generated clips of two frames a student
that guesses among the four objects stays at 0.70.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgetam_pl.training.curves import STEP, read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("--below", type=float, default=0.5)
    args = parser.parse_args()
    for path in sorted(args.sweep.glob("trials/*/curves.jsonl")):
        lines = [line for line in read_lines(path) if "train/dice" in line]
        below = [line[STEP] for line in lines if line["progress/phase"] == 0 and line["train/dice"] < args.below]
        taught = [line for line in lines if "agree/f_m_mse" in line][-1:]
        near = [f"F_M: MSE {line['agree/f_m_mse']:.2f}, cosine {line['agree/f_m_cosine']:.2f}" for line in taught]
        print(path.parent.name, f"began {below[0]:.0f}" if below else "did not begin in the first phase", *near)


if __name__ == "__main__":
    main()
