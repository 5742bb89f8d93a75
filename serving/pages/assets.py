"""Styles and scripts, shipped with the package and held in memory."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
CACHED = "private, max-age=31536000, immutable"


class Asset(NamedTuple):
    """A file, and what its address ends in: another content has another address."""

    content: bytes
    media_type: str
    version: str


class Assets:
    """All of them, by file name."""

    def __init__(self) -> None:
        self._files: dict[str, Asset] = {}
        for path in (resources.files(__package__) / "assets").iterdir():
            suffix = path.name[path.name.rfind(".") :]
            if suffix in MEDIA_TYPES:
                content = path.read_bytes()
                version = hashlib.sha256(content).hexdigest()[:12]
                self._files[path.name] = Asset(content, MEDIA_TYPES[suffix], version)

    def get(self, name: str) -> Asset | None:
        return self._files.get(name)

    def url(self, name: str) -> str:
        """Where a page finds it; KeyError."""
        return f"/desk/assets/{name}?v={self._files[name].version}"
