"""The trained index on disk: one file a generation, and a manifest that says which one counts.

A file is written beside the others, synced, and only then named in the manifest, which is replaced
whole. FAISS parses no file whose size and SHA-256 are not those that the manifest says; what is
damaged is removed and built anew from the tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import faiss

from stillwatch.data.errors import StoreError
from stillwatch.model.flat import _faiss_limit
from stillwatch.serving.archive.spool import sync_folder
from stillwatch.serving.archive.vectors import Trained

# FAISS's own type hints do not know what its Python layer adds.
_faiss: Any = faiss
FORMAT = 1
MANIFEST = "manifest.json"
SUFFIX = ".faiss"
_BLOCK = 2**20
_MAX_MANIFEST = 65_536
_SLACK_BYTES = 2**20
"""What a file may hold beside its vectors, ids and centroids."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is said of the index file that counts."""

    format: int
    archive: str
    """Of the tables that it was made from."""
    generation: int
    file: str
    bytes: int
    sha256: str
    dimensions: int
    vectors: int
    lists: int
    probes: int
    recall: float
    built: int
    seq: int
    removal: int


class Generations:
    """The index files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = 0
        """The generation that was saved or loaded last; 0 if there is none."""
        self.file = ""
        """The file of it."""

    def exists(self) -> bool:
        """Whether there is anything of an index, sound or not."""
        return self.folder.is_dir() and any(self.folder.iterdir())

    def save(self, trained: Trained, archive: str) -> None:
        """Write an index, which must not change meanwhile, and remove all files before it.
        StoreError if there is no room: the generation before it still counts then."""
        number = self.current + 1
        path = self.folder / f"{number:08d}-{secrets.token_hex(4)}{SUFFIX}"
        index = trained.index
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _create(path) as file:
                written = _Hashed(file)
                try:
                    writer = _faiss.PyCallbackIOWriter(written.write, _BLOCK)
                    faiss.write_index(index, writer)
                except RuntimeError:
                    # FAISS puts its own error in the place of the file's.
                    raise written.error or OSError() from None
                file.flush()
                os.fsync(file.fileno())
            manifest = Manifest(
                FORMAT, archive, number, path.name, written.size, written.digest.hexdigest(),
                index.d, index.ntotal, index.nlist, trained.probes, trained.recall, trained.built,
                trained.seq, trained.removal,
            )  # fmt: skip
            _write_manifest(self.folder, manifest)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            reason = os.strerror(error.errno or 0)
            raise StoreError(
                f"the archive's index must be writable, however: {reason}; make room in its folder"
            ) from error
        self.current, self.file = number, path.name
        self.remove_others(path.name)

    def load(self, archive: str, dimensions: int) -> Trained | None:
        """The index that counts; None if there is none, or if it is damaged or of other tables."""
        try:
            manifest = _read_manifest(self.folder)
            if manifest.archive != archive or manifest.dimensions != dimensions:
                return None
            with (self.folder / manifest.file).open("rb") as file:
                index = _read_index(file, manifest)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.current, self.file = manifest.generation, manifest.file
        return Trained(
            index, manifest.probes, manifest.recall, manifest.built, manifest.seq, manifest.removal
        )

    def remove_others(self, kept: str = "") -> None:
        """Remove every file but one, and the manifest too if that is none. StoreError."""
        try:
            if not self.folder.is_dir():
                return
            for path in self.folder.iterdir():
                if path.name != kept and (path.name != MANIFEST or not kept):
                    path.unlink(missing_ok=True)
            sync_folder(self.folder)
        except OSError as error:
            raise StoreError(
                "the archive's older index files must be removable, however: "
                f"{os.strerror(error.errno or 0)}; see to its folder"
            ) from error


class _Hashed:
    """Writes to a file what it hashes. FAISS drops the errors of what it calls: they are kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, block: bytes) -> int:
        try:
            self._file.write(block)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(block)
        self.size += len(block)
        return len(block)


@contextmanager
def _limited_to(size: int) -> Iterator[None]:
    # The limit is one for the whole process: whoever reads a bundle's index takes the same lock.
    with _faiss_limit:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _read_index(file: BufferedReader, manifest: Manifest) -> faiss.IndexIVFScalarQuantizer:
    """Hash a file, then parse it; the same open file, so that no other can take its place."""
    size = os.fstat(file.fileno()).st_size
    largest = (manifest.vectors + manifest.lists) * (4 * manifest.dimensions + 8) + _SLACK_BYTES
    if size != manifest.bytes or size > largest:
        raise ValueError("its size")
    if hashlib.file_digest(file, "sha256").hexdigest() != manifest.sha256:
        raise ValueError("its hash")
    file.seek(0)
    reader = _faiss.PyCallbackIOReader(file.read, _BLOCK)
    try:
        with _limited_to(size):
            index = faiss.read_index(reader)
    # FAISS throws RuntimeError; a length in the file that no memory holds ends in MemoryError.
    except (RuntimeError, MemoryError, AssertionError):
        raise ValueError("its content") from None
    if (
        type(index) is not faiss.IndexIVFScalarQuantizer
        or index.metric_type != faiss.METRIC_INNER_PRODUCT
        or (index.d, index.ntotal, index.nlist)
        != (manifest.dimensions, manifest.vectors, manifest.lists)
    ):
        raise ValueError("its kind")
    return index


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    content = json.dumps(asdict(manifest), sort_keys=True)
    seal = hashlib.sha256(content.encode()).hexdigest()
    temporary = folder / f".{MANIFEST}.partial"
    with temporary.open("w", encoding="ascii") as file:
        file.write(f"{content}\n{seal}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)
    sync_folder(folder)


def _read_manifest(folder: Path) -> Manifest:
    with (folder / MANIFEST).open("rb") as file:
        content, seal = file.read(_MAX_MANIFEST).decode("ascii").splitlines()
    if hashlib.sha256(content.encode()).hexdigest() != seal:
        raise ValueError("its manifest")
    fields: dict[str, Any] = json.loads(content)
    manifest = Manifest(**fields)
    if manifest.format != FORMAT or Path(manifest.file).name != manifest.file:
        raise ValueError("its manifest")
    return manifest
