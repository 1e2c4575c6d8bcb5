"""run.json: whose run a folder holds. Rank 0 writes it; what lies there instead of one is never believed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from edgetam_pl.io.atomic import write_json
from edgetam_pl.training.checkpoints import DamagedError
from edgetam_pl.training.identity import Identity

RECORD = "run.json"

CHECKSUM = "sha256"
"""Key of run.json that holds the digest of everything else in it. Files of earlier versions have none."""


def is_rank_zero() -> bool:
    """Is this the one process of the run that writes? Also known before any process group is."""
    return rank_zero_only.rank == 0 and int(os.environ.get("NODE_RANK", 0)) == 0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Record:
    """run.json."""

    content: dict[str, Any]

    @property
    def run_id(self) -> str:
        return self.content["run_id"]

    @property
    def identity(self) -> Identity | None:
        """None: written before runs had one."""
        return Identity(self.content["identity"]) if "identity" in self.content else None

    @property
    def accepted(self) -> list[tuple[str, Any]]:
        """Keys that were changed on demand, and what they became."""
        return [(key, both[1]) for change in self.content.get("changes", []) for key, both in change["keys"].items()]

    @property
    def weights_sha256(self) -> str | None:
        """Of the weights.pt of a finished run; None: not finished, as far as this knows."""
        return self.content.get("finished", {}).get("weights_sha256")

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """None: there is none.

        Raises:
            DamagedError: what lies there is no record; the message says why.
        """
        if not path.is_file():
            if os.path.lexists(path):
                raise DamagedError("is no file")
            return None
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError, RecursionError) as error:
            raise DamagedError(f"cannot be read as JSON ({error})") from error
        kinds = {"run_id": str, "identity": dict, "changes": list, "finished": dict}
        wrong = isinstance(content, dict) and [
            k for k, kind in kinds.items() if k in content and not isinstance(content[k], kind)
        ]
        if not isinstance(content, dict) or "run_id" not in content or wrong:
            raise DamagedError("does not say of which run it is")
        if not all(isinstance(one, dict) and isinstance(one.get("keys"), dict) for one in content.get("changes", [])):
            raise DamagedError("holds changes that cannot be read")
        if CHECKSUM in content and content.pop(CHECKSUM) != _digest(content):
            raise DamagedError("is not as it was written (its checksum is of other contents)")
        return cls(content)

    def write(self, path: Path) -> None:
        """Write the file, with its checksum."""
        write_json(path, {**self.content, CHECKSUM: _digest(self.content)})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_of(out: Path) -> dict[str, Any]:
    """What run.json of a run says; {} where there is none.

    Raises:
        ValueError: it is damaged; the file is named.
    """
    try:
        record = Record.read(out / RECORD)
    except DamagedError as error:
        raise ValueError(
            f"{out / RECORD} {error}. Move it away: the next start of the run writes it anew, from its newest checkpoint."
        ) from error
    return {} if record is None else record.content
