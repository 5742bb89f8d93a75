"""Ways to spoil a bundle, each of which must be found out before it serves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.model import bundle as bundle_module
from stillwatch.model.bundle import FORMAT, MANIFEST, Manifest

Rng = np.random.Generator


def reseal(folder: Path, **changes: Any) -> None:
    """Change the manifest's fields as its writer could: hashes and checksum are right again."""
    fields = {**json.loads((folder / MANIFEST).read_text()), **changes}
    fields["files"] = {
        name: bundle_module._sha256((folder / name).read_bytes()) for name in fields["files"]
    }
    manifest = Manifest.model_validate(fields)
    fields["checksum"] = bundle_module._checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(fields))


def _fields(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return fields


def _any_file(folder: Path, rng: Rng, manifest: bool = True) -> Path:
    names = sorted(path.name for path in folder.iterdir() if manifest or path.name != MANIFEST)
    return folder / str(rng.choice(names))


def truncated(folder: Path, rng: Rng) -> None:
    path = _any_file(folder, rng)
    content = path.read_bytes()
    # The manifest's last byte is a line's end, which means nothing.
    path.write_bytes(content[: int(rng.integers(len(content) - 1))])


def bits_flipped(folder: Path, rng: Rng) -> None:
    path = _any_file(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def manifest_bit_flipped(folder: Path, rng: Rng) -> None:
    content = bytearray((folder / MANIFEST).read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    (folder / MANIFEST).write_bytes(content)


def files_swapped(folder: Path, rng: Rng) -> None:
    one, other = rng.choice(sorted(path.name for path in folder.iterdir()), 2, replace=False)
    (folder / one).rename(folder / ".aside")
    (folder / other).rename(folder / one)
    (folder / ".aside").rename(folder / other)


def hard_linked(folder: Path, rng: Rng) -> None:
    os.link(_any_file(folder, rng), folder.parent / f"link-{rng.integers(1 << 60)}")


def symlinked(folder: Path, rng: Rng) -> None:
    path = _any_file(folder, rng)
    elsewhere = folder.parent / f"elsewhere-{rng.integers(1 << 60)}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def unlisted(folder: Path, rng: Rng) -> None:
    name = str(rng.choice(["notes.txt", ".hidden", "encoder.onnx", "weights.bin", "a\nb"]))
    if rng.random() < 0.3:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(rng.bytes(10))


def missing(folder: Path, rng: Rng) -> None:
    _any_file(folder, rng).unlink()


def emptied(folder: Path, rng: Rng) -> None:
    _any_file(folder, rng).write_bytes(b"")


def no_plain_file(folder: Path, rng: Rng) -> None:
    path = _any_file(folder, rng)
    path.unlink()
    # To open a pipe that nobody writes to would wait for ever.
    path.mkdir() if rng.random() < 0.5 else os.mkfifo(path)


def field_changed(folder: Path, rng: Rng) -> None:
    """One value somewhere in the manifest, of any depth."""
    fields = _fields(folder)
    place: Any = fields
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = list(keys)[int(rng.integers(len(keys)))]
        if not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    value = place[key]
    if rng.random() < 0.2 and isinstance(place, dict):
        del place[key]
    elif isinstance(value, int | float):
        place[key] = value + float(rng.choice([1e-6, 0.25, 1, -3]))
    elif isinstance(value, str):
        place[key] = value + "x"
    else:
        place[key] = [1]
    (folder / MANIFEST).write_text(json.dumps(fields))


def field_resealed(folder: Path, rng: Rng) -> None:
    """A manifest with right hashes that does not fit its files."""
    fields = _fields(folder)
    encoder, calibration = fields["encoder"], fields["calibration"]
    risk = {**calibration["risk"], "offset": calibration["risk"]["offset"] + 2.0}
    changes: list[dict[str, Any]] = [
        {"intents": fields["intents"][::-1]},
        {"intents": fields["intents"][1:]},
        {"classes": fields["classes"][::-1]},
        {"features": fields["features"][1:]},
        {"features": [*fields["features"][:-1], "another"]},
        {"classifier_state": [1, *fields["classifier_state"][1:]]},
        {"encoder": {**encoder, "dimensions": encoder["dimensions"] + 1}},
        {"encoder": {**encoder, "name": "another"}},
        {"encoder": {**encoder, "precision": "int8"}},
        {"calibration": {**calibration, "risk": risk}},
        {"calibration": {**calibration, "intents": calibration["intents"][1:]}},
        {"benign_sources": fields["benign_sources"][1:]},
        {"golden_risks": [*fields["golden_risks"][:-1], fields["golden_risks"][-1] + 0.1]},
        {"golden_risks": fields["golden_risks"][1:]},
        {"format": fields["format"] + int(rng.choice([-1, 1]))},
    ]
    reseal(folder, **changes[int(rng.integers(len(changes)))])


def cut_and_resealed(folder: Path, rng: Rng) -> None:
    names = ("classifier.onnx", "heads.safetensors", "templates.faiss", "benign.faiss")
    path = folder / str(rng.choice(names))
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])
    reseal(folder)


def no_number(folder: Path, rng: Rng) -> None:
    fields = _fields(folder)
    place = int(rng.integers(len(fields["golden_risks"])))
    fields["golden_risks"][place] = float(rng.choice([np.nan, np.inf]))
    del fields["checksum"]
    (folder / MANIFEST).write_text(json.dumps(fields))


def unsealed(folder: Path, rng: Rng) -> None:
    fields = _fields(folder)
    del fields["checksum"]
    fields["thresholds"]["max_fpr"] = float(rng.uniform(0.001, 0.5))
    (folder / MANIFEST).write_text(json.dumps(fields))


def huge_manifest(folder: Path, rng: Rng) -> None:
    with (folder / MANIFEST).open("a") as file:
        file.write(" " * (bundle_module.MOST_MANIFEST_BYTES + int(rng.integers(1000))))


def deep_manifest(folder: Path, rng: Rng) -> None:
    depth = int(rng.choice([300, 700, 100_000]))
    nested = "[" * depth + "]" * depth
    if rng.random() < 0.5:
        (folder / MANIFEST).write_text(nested)
    else:
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_text(
            text.replace('"settings": {}', f'"settings": {{"a":{nested}}}')
        )


def key_twice(folder: Path, rng: Rng) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("{", f'{{"format": {FORMAT},', 1))


def other_format(folder: Path, rng: Rng) -> None:
    fields = _fields(folder)
    others = [
        FORMAT - 1, FORMAT + 1, FORMAT + 0.5, str(FORMAT), None, True, [FORMAT], {"f": FORMAT},
        10**300,
    ]  # fmt: skip
    fields["format"] = others[int(rng.integers(len(others)))]
    (folder / MANIFEST).write_text(json.dumps(fields))


def no_json(folder: Path, rng: Rng) -> None:
    (folder / MANIFEST).write_bytes(rng.bytes(int(rng.integers(200))))


WAYS: tuple[Callable[[Path, Rng], None], ...] = (
    truncated, bits_flipped, manifest_bit_flipped, files_swapped, hard_linked, symlinked, unlisted,
    missing, emptied, no_plain_file, field_changed, field_resealed, cut_and_resealed, no_number,
    unsealed, huge_manifest, deep_manifest, key_twice, other_format, no_json,
)  # fmt: skip


def spoil(folder: Path, number: int, seed: int = 0) -> str:
    """Spoil the bundle in `folder` in one way or another, the same for the same number; the name
    of the way."""
    way = WAYS[number % len(WAYS)]
    way(folder, np.random.default_rng([seed, number]))
    return way.__name__
