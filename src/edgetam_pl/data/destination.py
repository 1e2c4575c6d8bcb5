"""Where shards are built: a folder, or a place on a server (s3://, gs://), to which finished files are sent whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgetam_pl.data import storage
from edgetam_pl.data.index import Index, index_name
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.errors import BadSampleError


@dataclass(frozen=True)
class Destination:
    """A folder or URL that receives shards. A file that is there is whole: servers show objects that have come whole."""

    place: str

    @cached_property
    def remote(self) -> bool:
        return storage.is_remote(self.place)

    def address(self, name: str) -> str:
        return storage.join(self.place, name)

    def read(self, name: str) -> bytes | None:
        """A file, or None where there is none.

        Raises:
            BadSampleError: it cannot be read.
        """
        try:
            return storage.read(self.address(name))
        except BadSampleError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def write(self, name: str, text: str) -> None:
        """Write a file, at once or not at all."""
        with self.room() as folder:
            write_text(folder / name, text)

    def names(self) -> set[str]:
        """Files that are there now."""
        if self.remote:
            return storage.listed(self.place)
        folder = Path(self.place)
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def index(self, shard: str, *, settings: str) -> Index | None:
        """The index of a shard that is there, whole, and of these settings; None otherwise. Indices are written last."""
        try:
            data = self.read(index_name(shard))
            index = None if data is None else Index.from_json(data, name=index_name(shard))
            if index is None or index.settings != settings or not storage.ends_at(self.address(shard), index.bytes):
                return None
        except BadSampleError:
            return None
        return index

    @contextmanager
    def room(self) -> Iterator[Path]:
        """A folder to write files in: the destination itself, or one whose files are sent there when the block ends well,
        shards before their indices.

        Raises:
            ValueError: they cannot be sent.
        """
        if not self.remote:
            yield Path(self.place)
            return
        with tempfile.TemporaryDirectory(prefix="edgetam-shards-") as folder:
            yield Path(folder)
            for path in sorted(Path(folder).iterdir(), key=lambda path: (path.suffix != ".tar", path.name)):
                storage.put(path, self.address(path.name))
