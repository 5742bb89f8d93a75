"""Bundles: read whole or refused by the name of the file at fault, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillwatch.data.errors import BundleError, OutputError
from stillwatch.model import bundle as bundle_module
from stillwatch.model.bundle import (
    FORMAT,
    MANIFEST,
    Bundle,
    Layout,
    load_bundle,
    manifest_fields,
    write_bundle,
)
from tests.support import tiny_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def folder(made: Bundle, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made.path, tmp_path / "bundle"))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = json.loads((folder / MANIFEST).read_text())
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(made: Bundle, tmp_path: Path) -> None:
    assert set(made.content) == set(Layout.DETECTOR)
    again = write_bundle(tmp_path / "again", manifest_fields(made.manifest), made.content)
    assert again.content == made.content
    assert again.manifest == made.manifest
    assert again.id == made.id
    assert len(made.id) == 12
    assert files_of(again.path) == files_of(made.path)
    assert not made.has_encoder


def test_the_encoder_is_taken_whole_or_not_at_all(made: Bundle, tmp_path: Path) -> None:
    fields = manifest_fields(made.manifest)
    files = {**made.content, "encoder.onnx": b"model", "tokenizer.json": b"{}"}
    complete = write_bundle(tmp_path / "complete", fields, files)
    assert complete.has_encoder
    assert complete.id != made.id
    del files["tokenizer.json"]
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        write_bundle(tmp_path / "half", fields, files)


@pytest.mark.parametrize("name", Layout.DETECTOR)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_changed_bit_is_refused(folder: Path, name: str, where: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[where]] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} must have SHA-256 [0-9a-f]{{64}}, however: "):
        load_bundle(folder)


@pytest.mark.parametrize("name", Layout.DETECTOR)
def test_a_short_or_a_missing_file_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)
    (folder / name).write_bytes(whole)
    load_bundle(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "notes.txt", ".hidden", "README.md.bak"])
def test_a_file_that_is_not_listed_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name} is not listed"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, "classifier.onnx"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_of_either_kind_are_refused(
    folder: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    elsewhere = folder.parent / "elsewhere"
    (folder / name).rename(elsewhere)
    link(elsewhere, folder / name)
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)


def test_the_package_s_own_bundle_may_be_hard_linked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(folder / MANIFEST, folder.parent / "cache")
    with pytest.raises(BundleError, match="linked"):
        load_bundle(folder)
    monkeypatch.setattr("stillwatch.model.bundle.released_bundle", lambda: folder.resolve())
    assert load_bundle(folder).manifest.intents


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "templates.jsonl").unlink()
    (folder / "templates.jsonl").mkdir()
    with pytest.raises(BundleError, match=r"templates\.jsonl must be a readable plain file"):
        load_bundle(folder)


@pytest.mark.parametrize("found", [0, 1, "2", None])
def test_another_format_is_refused(folder: Path, found: object) -> None:
    edit_manifest(folder, lambda fields: fields.update(format=found))
    with pytest.raises(BundleError, match=f"format must be {FORMAT}, however: {found}"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "{}", "\ufffe", "NaN"])
def test_a_broken_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json|the bundle's format"):
        load_bundle(folder)


def test_a_manifest_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"manifest\.json must be JSON"):
        load_bundle(folder)


def test_unknown_missing_and_wrong_fields_of_the_manifest_are_named(folder: Path) -> None:
    whole = (folder / MANIFEST).read_text()
    changes: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda fields: fields.update(extra=1), "extra"),
        (lambda fields: fields["thresholds"].update(extra=1), r"thresholds\.extra"),
        (lambda fields: fields.pop("intents"), "intents"),
        (lambda fields: fields["encoder"].pop("golden"), r"encoder\.golden"),
        (lambda fields: fields["thresholds"].update(enter="high"), r"thresholds\.enter"),
        (lambda fields: fields["thresholds"].update(enter=float("nan")), r"thresholds\.enter"),
        (lambda fields: fields["thresholds"].update(enter=1.0), r"thresholds\.enter"),
        (lambda fields: fields["thresholds"].update(leave=0.9), "thresholds: .*leave must not"),
        (lambda fields: fields["calibration"]["risk"].update(slope=0.0), r"calibration\.risk"),
        (
            lambda fields: fields["calibration"]["intents"][0].update(slope=float("inf")),
            r"calibration\.intents\.0\.slope",
        ),
    ]
    for change, place in changes:
        (folder / MANIFEST).write_text(whole)
        edit_manifest(folder, change)
        with pytest.raises(BundleError, match=rf"manifest\.json must be valid, however: {place}"):
            load_bundle(folder)


@pytest.mark.parametrize("name", ["../elsewhere", "classifier.onnx/", "another.bin"])
def test_a_manifest_may_not_list_other_names(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda fields: fields["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="must list"):
        load_bundle(folder)
    edit_manifest(folder, lambda fields: (fields["files"].pop(name), fields["files"].popitem()))
    with pytest.raises(BundleError, match=r"templates\.jsonl is not listed"):
        load_bundle(folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BundleError, match=str(path)):
            load_bundle(path)


def test_a_folder_of_something_else_is_never_replaced(made: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(OutputError, match="must be new, empty or a bundle"):
        write_bundle(tmp_path, manifest_fields(made.manifest), made.content)
    assert files_of(tmp_path) == {"thesis.txt": b"the only copy"}


def test_a_file_is_never_replaced(made: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(OutputError, match="must be a folder"):
        write_bundle(tmp_path / "thesis.txt", manifest_fields(made.manifest), made.content)
    assert files_of(tmp_path) == {"thesis.txt": b"the only copy"}


def test_an_empty_folder_and_an_older_bundle_are_replaced(made: Bundle, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    fields = manifest_fields(made.manifest)
    write_bundle(tmp_path / "new", fields, made.content)
    changed = {**made.content, "README.md": b"# Another card\n"}
    again = write_bundle(tmp_path / "new", fields, changed)
    assert again.content["README.md"] == b"# Another card\n"
    assert load_bundle(tmp_path / "new").id == again.id != made.id
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_failed_write_leaves_the_old_bundle(
    made: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(folder)
    written = Path.write_bytes

    def full_disk(self: Path, data: bytes) -> int:
        if self.name == "templates.faiss":
            raise OSError(28, "No space left on device")
        return written(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="however: No space left on device; make room"):
        write_bundle(folder, manifest_fields(made.manifest), made.content)
    monkeypatch.undo()
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_write_that_fails_at_the_exchange_leaves_the_old_bundle(
    made: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(folder)
    replace = Path.replace
    calls = []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OutputError, match="Input/output error"):
        write_bundle(folder, manifest_fields(made.manifest), made.content)
    monkeypatch.undo()
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_wrong_manifest_is_never_written(made: Bundle, tmp_path: Path) -> None:
    fields = {**manifest_fields(made.manifest), "unknown": 1}
    with pytest.raises(ValueError, match="unknown"):
        write_bundle(tmp_path / "new", fields, made.content)
    assert not list(tmp_path.iterdir())


def test_the_id_changes_with_thresholds_and_files(made: Bundle, tmp_path: Path) -> None:
    fields = manifest_fields(made.manifest)
    ids = {made.id}
    for change in ({"enter": 0.51}, {"leave": 0.39}, {"origin": "another test"}):
        changed = {**fields, "thresholds": {**fields["thresholds"], **change}}
        ids.add(write_bundle(tmp_path / "changed", changed, made.content).id)
    ids.add(write_bundle(tmp_path / "changed", {**fields, "data_hash": "1"}, made.content).id)
    assert len(ids) == 5
    assert load_bundle(shutil.copytree(made.path, tmp_path / "copy")).id == made.id


def test_the_bytes_that_were_checked_are_the_bytes_that_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_plain = bundle_module._read_plain

    def counted(path: Path, hard_links: bool) -> bytes:
        reads.append(path.name)
        return read_plain(path, hard_links)

    monkeypatch.setattr(bundle_module, "_read_plain", counted)
    loaded = load_bundle(folder)
    assert sorted(reads) == sorted([MANIFEST, *Layout.DETECTOR])
    (folder / "classifier.onnx").write_bytes(b"changed after the check")
    assert loaded.content["classifier.onnx"] != b"changed after the check"
