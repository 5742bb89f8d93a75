"""The bundle: the released folder of everything a scorer needs, checked whole before it is read.

A released bundle may leave out the encoder (90 MB that a package already carries): it is then
completed from the cached export of the encoder that the manifest names, and must reproduce the
manifest's golden vectors.

Hashes show damage, not forgery: whoever can write a bundle can write its hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stillwatch.data.errors import BundleError, OutputError
from stillwatch.model.campaigns.risk import CampaignCalibration
from stillwatch.model.features import feature_names
from stillwatch.model.heads import class_names
from stillwatch.model.onnx_files import check_self_contained
from stillwatch.model.traffic import TRAFFIC_FILE, Traffic

FORMAT = 6
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 8 << 20
MOST_FILE_BYTES = 2 << 30
"""What no file of a bundle is larger than: an ONNX file cannot be."""
_SHOWN_CHARS = 80


class Layout:
    """Names of a bundle's files."""

    DETECTOR = (
        "classifier.onnx", "heads.safetensors", "templates.faiss", "templates.jsonl",
        "benign.faiss", "examples.safetensors", "README.md",
    )  # fmt: skip
    ENCODER = ("encoder.onnx", "tokenizer.json")
    OPTIONAL = (TRAFFIC_FILE,)


class Platt(BaseModel):
    """probability = sigmoid(slope * logit + offset) (Platt 1999)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    slope: float = Field(gt=0)
    offset: float

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """float64, of the shape of `logits`."""
        scaled = self.slope * logits.astype(np.float64) + self.offset
        return np.asarray(1 / (1 + np.exp(-np.clip(scaled, -60, 60))))


class Calibration(BaseModel):
    """Logits to probabilities, of risk and of each intent in the manifest's order, fitted on
    streams of sources not trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    risk: Platt
    intents: list[Platt]


class Thresholds(BaseModel):
    """A stream is flagged when its risk reaches `enter`, until it falls below `leave`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    enter: float = Field(gt=0, lt=1)
    leave: float = Field(gt=0, lt=1)
    max_fpr: float = Field(gt=0, lt=1)
    ordinary_accounts: int
    origin: str

    @model_validator(mode="after")
    def _in_order(self) -> Thresholds:
        if self.leave > self.enter:
            raise ValueError(f"leave must not lie above enter, however: {self.leave}, {self.enter}")
        return self


class EncoderEntry(BaseModel):
    """Which encoder the detector was trained with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    revision: str
    dimensions: int
    precision: str
    golden: list[list[float]]


class Manifest(BaseModel):
    """manifest.json. `campaigns` is None in a bundle that was not calibrated for them. `files`
    gives the SHA-256 of each other file, `checksum` that of the manifest without it (None in a
    bundle that was not written yet)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    format: int
    intents: list[str]
    classes: list[str]
    features: list[str]
    classifier_state: list[int]
    encoder: EncoderEntry
    calibration: Calibration
    thresholds: Thresholds
    campaigns: CampaignCalibration | None = None
    benign_sources: list[str]
    head_origins: list[float]
    golden_risks: list[float]
    data_hash: str
    settings: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str]
    checksum: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its manifest and the bytes that were verified, by file name.

    The bytes that were hashed are the bytes that are parsed; nothing is read a second time."""

    path: Path
    manifest: Manifest
    content: Mapping[str, bytes]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that change with any file of the bundle."""
        return _checksum(self.manifest)[:12]

    @property
    def has_encoder(self) -> bool:
        return Layout.ENCODER[0] in self.content

    @property
    def traffic(self) -> Traffic | None:
        """What the traffic looked like that the bundle was calibrated with, if it was."""
        content = self.content.get(TRAFFIC_FILE)
        return None if content is None else Traffic.from_bytes(content)


def released_bundle() -> Path:
    """The bundle that comes with the package."""
    return Path(__file__).resolve().parents[1] / "serving" / "bundle"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checksum(manifest: Manifest) -> str:
    """Of all that a manifest says, however it is laid out."""
    try:
        fields = manifest.model_dump(exclude={"checksum"})
        return _sha256(json.dumps(fields, sort_keys=True).encode())
    # What is nested too deep raises either.
    except (ValueError, RecursionError):
        raise BundleError(
            f"{MANIFEST} must be nested moderately, however: too deep to be read; "
            "take the bundle from its source again"
        ) from None


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle; BundleError names the file and both values."""
    try:
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else None
    except OSError as error:
        raise BundleError(
            f"the bundle must be a readable folder, however: {error.strerror} for {path}; "
            "see to its permissions"
        ) from error
    if names is None:
        raise BundleError(
            f"the bundle must be a folder, however: {path} is not; "
            "name one with --bundle or make one with `stillwatch train`"
        )
    if MANIFEST not in names:
        found = ", ".join(_shown(name) for name in names[:10]) or "nothing"
        raise BundleError(
            f"a bundle must hold {MANIFEST}, however: {path} holds {found}"
            f"{' and more' if len(names) > 10 else ''}; name the bundle's own folder"
        )
    # Installers may hard-link a package's files from their cache; the package is trusted anyway.
    links = path.resolve() == released_bundle()
    manifest = _parse_manifest(path / MANIFEST, links)
    listed = {*manifest.files, MANIFEST}
    unlisted = sorted(set(names) - listed)
    if unlisted:
        raise BundleError(
            "a bundle must hold only what its manifest lists, however: "
            f"{_shown(unlisted[0])} is not listed; take the bundle from its source again"
        )
    needed = set(Layout.DETECTOR)
    if set(manifest.files) & set(Layout.ENCODER):
        needed |= set(Layout.ENCODER)
    if set(manifest.files) - set(Layout.OPTIONAL) != needed:
        odd = _shown(sorted((set(manifest.files) - set(Layout.OPTIONAL)) ^ needed)[0])
        raise BundleError(
            f"the manifest must list {', '.join(sorted(needed))}, however: it differs in {odd}; "
            "take the bundle from its source again"
        )
    content = {}
    for name, expected in manifest.files.items():
        content[name] = _read_plain(path / name, links)
        found = _sha256(content[name])
        if found != expected:
            raise BundleError(
                f"{name} must have SHA-256 {_shown(expected)}, however: {found}; "
                "take the bundle from its source again"
            )
    if manifest.checksum != (found := _checksum(manifest)):
        raise BundleError(
            f"{MANIFEST} must have the checksum {_shown(str(manifest.checksum))}, however: "
            f"{found}; take the bundle from its source again"
        )
    for name in content:
        if name.endswith(".onnx"):
            check_self_contained(content[name], name)
    if TRAFFIC_FILE in content:
        Traffic.from_bytes(content[TRAFFIC_FILE])
    return Bundle(path, manifest, content)


def check_names(manifest: Manifest) -> None:
    """BundleError unless the bundle was made for the features and classes that this code makes."""
    intents = tuple(manifest.intents)
    classes = class_names(intents)
    for what, found, expected in (
        ("classes", tuple(manifest.classes), classes),
        ("features", tuple(manifest.features), feature_names(classes, intents)),
    ):
        if found != expected:
            pairs = zip(found, expected, strict=False)
            odd = next(
                (f"{own!r} in place of {known!r}" for own, known in pairs if own != known),
                f"{len(found)} in place of {len(expected)}",
            )
            raise BundleError(
                f"the bundle's {what} must be those of this version, however: it has {odd}; "
                "use the Stillwatch version that made it, or train again"
            )
    if len(manifest.calibration.intents) != len(intents):
        raise BundleError(
            f"the bundle must calibrate {len(intents)} intents, however: "
            f"{len(manifest.calibration.intents)}; take the bundle from its source again"
        )


def _shown(text: str) -> str:
    """A name from a bundle as a message may hold it: of one line, and not endless."""
    plain = text if text.isprintable() else ascii(text)
    return plain if len(plain) <= _SHOWN_CHARS else f"{plain[:_SHOWN_CHARS]}…"


def _open_no_link(name: str, flags: int) -> int:
    # To open a pipe would wait for its writer.
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_plain(path: Path, hard_links: bool) -> bytes:
    """The bytes of a plain file; links are refused, hard ones unless they are allowed, since what
    they point to can change after the check."""
    most = MOST_MANIFEST_BYTES if path.name == MANIFEST else MOST_FILE_BYTES
    try:
        with open(path, "rb", opener=_open_no_link) as file:
            status = os.fstat(file.fileno())
            linked = status.st_nlink != 1 and not hard_links
            if not stat.S_ISREG(status.st_mode) or linked:
                raise BundleError(
                    f"{path.name} must be a plain file with one name, however: it is linked; "
                    "copy the bundle's files instead of linking them"
                )
            # It may grow while it is read.
            content = file.read(most + 1) if status.st_size <= most else b""
            if max(status.st_size, len(content)) > most:
                raise BundleError(
                    f"{path.name} must have at most {most:,} bytes, however: "
                    f"{max(status.st_size, len(content)):,}; take the bundle from its source again"
                )
            return content
    except OSError as error:
        raise BundleError(
            f"{path.name} must be a readable plain file, however: {error.strerror}; "
            "take the bundle from its source again"
        ) from error


def _parse_manifest(path: Path, hard_links: bool) -> Manifest:
    try:
        fields = json.loads(_read_plain(path, hard_links), object_pairs_hook=_unique)
    # Deep nesting ends the parser by RecursionError.
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{MANIFEST} must be JSON, however: it is broken; take the bundle from its source again"
        ) from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"the bundle's format must be {FORMAT}, however: {_format_shown(found)}; "
            "use the Stillwatch version that made it, or train again"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = _shown(".".join(str(part) for part in first["loc"]))
        raise BundleError(
            f"{MANIFEST} must be valid, however: {place}: {first['msg']}; "
            "take the bundle from its source again"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields


def _format_shown(found: object) -> str:
    plain = found is None or isinstance(found, str | int | float)
    return _shown(str(found)) if plain else f"a {type(found).__name__}"


def in_memory(fields: Mapping[str, Any], content: Mapping[str, bytes]) -> Bundle:
    """A bundle that lies in no folder yet. `fields` are the manifest's, without format, files and
    checksum."""
    files = {name: _sha256(data) for name, data in sorted(content.items())}
    manifest = Manifest.model_validate({**fields, "format": FORMAT, "files": files})
    return Bundle(Path(), manifest, content)


def write_bundle(path: Path, fields: Mapping[str, Any], content: Mapping[str, bytes]) -> Bundle:
    """Write a bundle whole or not at all and load it back. `fields` are the manifest's, without
    format, files and checksum. An existing folder is replaced only if it is a bundle or empty."""
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} must be a folder, however: it is a file; name another")
    if path.exists() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise OutputError(
            f"{path} must be new, empty or a bundle, however: it holds other files; "
            "name another folder"
        )
    manifest = in_memory(fields, content).manifest
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise OutputError(
            f"{path.parent} must be writable, however: {error.strerror}; name another folder"
        ) from error
    try:
        for name, data in content.items():
            (temporary / name).write_bytes(data)
        text = _manifest_text(manifest)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _put_in_place(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path} must be writable, however: {error.strerror}; make room or name another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(path)


def _manifest_text(manifest: Manifest) -> str:
    # As it will be read: a tuple is a list then, and a number that was a key is a text.
    read = Manifest.model_validate(json.loads(json.dumps(manifest.model_dump())))
    fields = {**read.model_dump(), "checksum": _checksum(read)}
    return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False)


def _put_in_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what stood there is removed, or put back if that fails."""
    if not path.exists():
        new.replace(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent)) / "bundle"
    try:
        path.replace(aside)
        new.replace(path)
    except BaseException:
        if aside.exists():
            aside.replace(path)
        aside.parent.rmdir()
        raise
    shutil.rmtree(aside.parent, ignore_errors=True)


def manifest_fields(manifest: Manifest) -> dict[str, Any]:
    """The manifest's fields in the form that `write_bundle` takes."""
    return manifest.model_dump(exclude={"format", "files", "checksum"})
