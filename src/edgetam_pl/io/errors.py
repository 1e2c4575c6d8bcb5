"""What can be wrong with a sample, by name. Skips are counted under these causes, never hidden by a retry."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Why a sample, a frame or a shard was left out."""

    SHARD_UNREADABLE = "shard unreadable"  # missing, no permission, the network failed for good
    SHARD_TRUNCATED = "shard truncated"  # ends before the bytes it should hold
    TAR = "broken tar structure"
    MEMBER_NAME = "unsafe member name"
    MEMBER_MISSING = "member missing"
    MEMBER_EMPTY = "member empty"
    CHECKSUM = "checksum differs"
    HEADER = "broken header"
    IMAGE = "undecodable image"
    IMAGE_SIZE = "image size differs"
    MASK = "invalid mask"
    MASK_SIZE = "mask size differs"
    NO_MASK = "no mask"
    NO_OBJECT = "no object visible"
    VOID = "void region"  # pixels nobody is asked about, as COCO's crowds
    TOO_SHORT = "clip too short"
    VIDEO = "undecodable video"
    ANNOTATION = "broken annotation"


class ExplainedError(RuntimeError):
    """An end that its message explains: the command line prints that and no traceback."""


class DiskFullError(OSError):
    """No room for what was to be written. `strerror` says where, how much and what to do. What was there before is whole."""


class BadSampleError(ValueError):
    """A sample that cannot be used. `cause` is what it is counted under; the message names the thing. `place` is its place
    in a batch, where it was met in one."""

    def __init__(self, cause: Cause, message: str, place: int = -1) -> None:
        super().__init__(cause, message, place)  # all, so that it survives pickling between processes
        self.cause = cause
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return f"{self.cause}: {self.message}"
