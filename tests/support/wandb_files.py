"""What W&B's offline pieces hold: LevelDB's log format (blocks of 32 KiB, records in parts) around protocol buffers."""

from __future__ import annotations

import struct
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD = 32768, 7


def history(folder: Path) -> list[dict[str, str]]:
    """The lines of all pieces in a folder, oldest piece first: values as JSON by name."""
    return [line for path in sorted(folder.glob("offline-run-*/*.wandb")) for line in _lines(path.read_bytes())]


def _lines(data: bytes) -> list[dict[str, str]]:
    lines, whole, at = [], b"", HEAD
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEAD])
        whole += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(whole)
            if record.WhichOneof("record_type") == "history":
                lines.append({item.key or item.nested_key[0]: item.value_json for item in record.history.item})
            whole = b""
    return lines
