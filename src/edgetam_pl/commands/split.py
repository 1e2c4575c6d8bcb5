"""`edgetam split`: lists of videos to train, validate and test on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetam_pl.config.choices import Flags
from edgetam_pl.datasets.layout import SOURCES
from edgetam_pl.datasets.split import look, split, write_lists

SHOWN = 5
"""Videos that cannot be used and are named one by one."""


def main(argv: list[str]) -> int:
    """Write the lists; returns the exit status.

    Raises:
        ValueError: a folder that is not what `--source` says, or a split that cannot be.
    """
    parser = Flags(
        prog="edgetam split",
        description="Share videos out to train.txt, val.txt and test.txt: whole videos, drawn by a seed, short and long "
        "ones alike. `edgetam shards` and `edgetam evaluate` read the lists with split=train, split=val.",
    )
    parser.add_argument("root", type=Path, metavar="FOLDER", help="videos/NAME.mp4 and masks/NAME/00000.png")
    parser.add_argument("--source", default="", choices=["", *SOURCES], help="layout (default: videos, else davis)")
    parser.add_argument("--val", type=float, default=0.1, metavar="SHARE", help="share that validates (default: 0.1)")
    parser.add_argument("--test", type=float, default=0.1, metavar="SHARE", help="share kept for the end (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--out", type=Path, help="folder of the lists (default: FOLDER)")
    args = parser.parse_args(argv)
    root, out = args.root.expanduser(), (args.out or args.root).expanduser()
    source = args.source or ("davis" if (root / "JPEGImages").is_dir() else "videos")
    found = look(root, source=source)
    for name, why in list(found.left_out.items())[:SHOWN]:
        print(f"left out: {name}: {why}.")
    if len(found.left_out) > SHOWN:
        print(f"left out: {len(found.left_out) - SHOWN} more of the same kinds.")
    parts = split(found.lengths, val=args.val, test=args.test, seed=args.seed)
    for path in write_lists(root, parts, out):
        frames = [found.lengths[name] for name in parts[path.stem]]
        few, many = min(frames), max(frames)
        extent = f"{few}" if few == many else f"{few} to {many} (median {np.median(frames):g})"
        print(f"{path}: {len(frames)} {'video' if len(frames) == 1 else 'videos'} of {extent} annotated frames")
    return 0
