"""`edgetam track`: follow objects through a video from points, boxes or masks; a session driven by flags.

Writes an overlay video, a palette PNG a frame, and a JSON with a COCO RLE for each object and frame.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from edgetam_pl.build import load_model
from edgetam_pl.commands.compose import model_for
from edgetam_pl.commands.prompt_flags import Prompt, PromptAction, object_number, read_prompts
from edgetam_pl.config.choices import Flags
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.interactive import example_clip
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io import rle, shipped
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.io.environment import warn_of_slow_bf16
from edgetam_pl.io.frames import FrameMasks, Frames
from edgetam_pl.io.label_png import read_labels, write_labels
from edgetam_pl.io.overlay import paint_labels
from edgetam_pl.io.video import VideoFile, VideoWriter, fill_holes, open_video

EXAMPLE = "example"
"""Instead of a video: the clip that comes with the package."""

EPILOG = """\
Coordinates are pixels of the video; @FRAME is the frame that a prompt is for, 0 if left out. --object N says which object
the prompts after it are about (1 until then); a PNG of several objects prompts each of them by its number.

  edgetam track example --point 115,63 --out chair_tracked.mp4
  edgetam track dog.mp4 --point 640,360 --weights edgetam.pt --out dog_tracked.mp4
  edgetam track street.mp4 --box 10,20,200,300 --object 2 --point 700,400@5 --negative 650,380@5 --weights edgetam.pt
"""


def main(argv: list[str]) -> int:
    """Track; returns the exit status.

    Raises:
        ValueError: something was asked that cannot be done; nothing has been written then.
    """
    args = _parser().parse_args(argv)
    video = open_video(example_clip.FRAMES if args.video == EXAMPLE and not Path(EXAMPLE).exists() else args.video)
    prompts = read_prompts(args.prompts)
    out = _free_outputs(args)
    if args.frames is not None and args.frames < 1:
        raise ValueError(f"--frames is {args.frames}; it must be at least 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.model, args.weights = shipped.resolve(args.model, args.weights)
    tracker = load_tracker(args.model, args.weights, device=args.device)
    if args.bf16:
        warn_of_slow_bf16(args.device, instead="no --bf16")
    session = Session(tracker, video, options=options_of(args), device=args.device, fill_holes=fill_holes)
    for prompt in prompts:
        say(session, prompt)
    with atomic_path(out.masks) as folder:
        folder.mkdir()
        found = _follow(session, folder, max_frames=args.frames, both_ways=args.both_ways, quiet=args.quiet)
        _write_video(out.video, video, folder, last=max(found), quiet=args.quiet)
        write_json(out.json, _record(args, video, prompts, found), indent=None)
    print(f"{len(found)} frames, objects {', '.join(map(str, session.objects))}: {out.video}, {out.masks}/, {out.json}")
    return 0


def load_tracker(model: str | None = None, weights: str | None = None, *, device: str = "cpu", seed: int = 0) -> FastTracker:
    """A model of the zoo, or the one that the weights record, fused and ready; neither: the shipped one (`shipped.resolve`).

    Raises:
        ValueError: no such model or device, weights of another model, or none where the package holds none.
    """
    model, weights = shipped.resolve(model, weights)
    place = checked_device(device)
    return FastTracker(load_model(model_for(model, weights), weights, seed=seed).to(place))


def checked_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it cannot be used here.
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device}, which cannot be used here ({error}); use cpu.") from error
    return place


def options_of(args: argparse.Namespace) -> SessionOptions:
    """The session's habits that the flags ask for."""
    options = SessionOptions.released() if args.released else SessionOptions()
    return replace(options, channels_last=True, autocast=torch.bfloat16 if args.bf16 else None)


def say(session: Session, prompt: Prompt) -> FrameMasks:
    """Give one prompt to a session."""
    return session.prompt(
        prompt.object_id, prompt.frame, points=prompt.points, labels=prompt.labels, box=prompt.box, mask=prompt.mask
    )


# ---------------------------------------------------------------------- following and writing


def _follow(
    session: Session, folder: Path, *, max_frames: int | None, both_ways: bool, quiet: bool
) -> dict[int, dict[int, dict[str, Any]]]:
    """Propagate; write the label map of each frame, return RLEs and scores by frame and object."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    height, width = session.frames.size
    for backwards in (False, True) if both_ways else (False,):
        answers = session.propagate(backwards=backwards, max_frames=max_frames)
        title = "tracking backwards" if backwards else "tracking"
        for out in tqdm(answers, desc=title, unit="frame", total=max_frames or session.frames.count, disable=quiet):
            path = folder / f"{out.frame:05d}.png"
            labels = out.label_map().cpu().numpy().astype(np.uint16)
            if path.exists():  # objects that were followed the other way keep their pixels
                before = read_labels(path)
                labels = np.where(before > 0, before, labels)
            write_labels(path, labels)
            found.setdefault(out.frame, {}).update(_scored(out))
    for t in range(max(found)):
        if t not in found:
            write_labels(folder / f"{t:05d}.png", np.zeros((height, width), np.uint8))
    return found


def _scored(out: FrameMasks) -> dict[int, dict[str, Any]]:
    """{object: RLE and scores} of one frame."""
    masks = out.masks.cpu().numpy()
    entries = {}
    for index, number in enumerate(out.objects):
        coded = {"size": list(masks.shape[1:]), "counts": rle.encode(masks[index])}
        presence, iou = float(out.presence[index]), float(out.iou[index])
        entries[number] = {"rle": coded, "presence": round(presence, 4), "iou": round(iou, 4)}
    return entries


def _record(
    args: argparse.Namespace, video: Frames, prompts: list[Prompt], found: dict[int, dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    height, width = video.size
    return {
        "video": Path(args.video).name,
        "size": [height, width],
        "rate": float(_rate(video)),
        "model": model_for(args.model, args.weights).name,
        "weights": Path(args.weights).name,
        "prompts": [
            {
                "object": prompt.object_id,
                "frame": prompt.frame,
                "points": [[*point, label] for point, label in zip(prompt.points, prompt.labels)],
                "box": prompt.box,
                "mask": prompt.mask is not None,
            }
            for prompt in prompts
        ],
        "frames": [
            {"frame": t, "objects": {str(number): entry for number, entry in sorted(found[t].items())}}
            for t in sorted(found)
        ],
    }


def _rate(video: Frames) -> Fraction:
    return video.rate if isinstance(video, VideoFile) else Fraction(25)


def _write_video(path: Path, video: Frames, folder: Path, *, last: int, quiet: bool) -> None:
    with VideoWriter(path, size=video.size, rate=_rate(video)) as writer:
        for t in tqdm(range(last + 1), desc="writing", unit="frame", disable=quiet):
            writer.write(paint_labels(video[t], read_labels(folder / f"{t:05d}.png")))


# ---------------------------------------------------------------------- the command line


@dataclass(frozen=True)
class Outputs:
    """Where the three results go."""

    video: Path
    masks: Path
    json: Path


def _free_outputs(args: argparse.Namespace) -> Outputs:
    """The places to write to.

    Raises:
        ValueError: one of them is taken, or its folder is missing.
    """
    video = Path(args.out)
    if video.suffix.lower() != ".mp4":
        raise ValueError(f"--out is {video}; the overlay video is an mp4, so give a name that ends in .mp4.")
    out = Outputs(
        video, Path(args.masks or video.with_name(f"{video.stem}_masks")), Path(args.json or video.with_suffix(".json"))
    )
    for path in (out.video, out.masks, out.json):
        if path.exists() and not args.overwrite:
            raise ValueError(f"{path} exists; give another name, or --overwrite.")
        if not path.parent.is_dir():
            raise ValueError(f"There is no folder {path.parent} for {path.name}; make it first.")
    return out


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """--weights and --model, as `shipped.resolve` takes them."""
    parser.add_argument(
        "--weights",
        help="checkpoint (official or ours), a release by name (edgetam), or `random` (default: the shipped tracker)",
    )
    parser.add_argument("--model", help="a file in configs/model (default: what the weights record, or edgetam)")


def _parser() -> argparse.ArgumentParser:
    parser = Flags(
        prog="edgetam track",
        description="Follow objects through a video from points, boxes or masks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(prompts=[], current=1)
    parser.add_argument("video", help=f"video file, or folder of images; {EXAMPLE}: the clip that comes with the package")
    parser.add_argument("--point", action=PromptAction, metavar="X,Y[@FRAME]", help="a point on the object")
    parser.add_argument("--negative", action=PromptAction, metavar="X,Y[@FRAME]", help="a point that is not on the object")
    parser.add_argument("--box", action=PromptAction, metavar="X0,Y0,X1,Y1[@FRAME]", help="a box around the object")
    parser.add_argument(
        "--mask", action=PromptAction, metavar="FILE[@FRAME]", help="the object itself, as an image of the video's size"
    )
    parser.add_argument(
        "--object", action=PromptAction, type=object_number, metavar="N", help="what follows is about object N, 1 to 254"
    )
    add_model_flags(parser)
    parser.add_argument("--out", required=True, help="overlay video to write, .mp4")
    parser.add_argument("--masks", help="folder for the palette PNGs (default: NAME_masks beside the video)")
    parser.add_argument("--json", help="file for the RLEs (default: NAME.json beside the video)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    parser.add_argument("--both-ways", action="store_true", help="follow backwards from the first prompt as well")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames (in each direction)")
    parser.add_argument(
        "--released", action="store_true", help="the habits of SAM 2's released predictor (docs/interactive.md)"
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="threads on a CPU (default: PyTorch's choice)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser
