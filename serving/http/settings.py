"""The settings of the service: a TOML file, and the environment over it."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from stillwatch.data.errors import ConfigError
from stillwatch.serving.http.auth import Authenticator, Caller, KeyHash, Role, is_loopback
from stillwatch.serving.http.litellm_settings import LiteLLMSettings
from stillwatch.serving.verdict import clip, visible

PREFIX = "STILLWATCH_SERVE_"
"""Before a setting's name in the environment; `__` stands between the names of nested ones."""
CONFIG_VARIABLE = "STILLWATCH_CONFIG"
SHOWN_CHARS = 60

# What was found is told of these only: others may hold a secret.
_SHOWN = frozenset({
    "host", "port", "threads", "auth", "max_batch", "max_queue", "max_wait_s", "deadline_s",
    "body_limit_bytes", "body_timeout_s", "log_level", "drain_s", "future_tolerance_s",
    "metrics_open", "bundle_poll_s", "role", "mode", "account", "log_patience_s",
    "desk_two_person", "desk_secure_cookies", "archive_days", "archive_backup_hours",
    "campaigns_every_s",
})  # fmt: skip

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class KeyEntry(BaseModel):
    """A key that may call, by its hash: `stillwatch keys new` makes both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    accounts: str = "*"
    """What the ids of its accounts begin with, best with a separator at the end; * is all."""

    @field_validator("accounts")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if value != "*" and (not value or "*" in value):
            raise ValueError("must be * or the start of account ids without *")
        return value


class ServeSettings(BaseSettings):
    """Everything that a site can set. Times end in _s and are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", validate_default=True,
        frozen=True,
    )  # fmt: skip

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    bundle: Path | None = None
    """None is the released bundle."""
    bundle_folder: Path | None = None
    """A folder of bundles, each a folder renamed into place: the newest is taken over, at the
    start and whenever there is another, and a reload may name any of them."""
    bundle_poll_s: Seconds = 5.0
    """Time between two looks into it."""
    store: str = "sqlite:///stillwatch.sqlite"
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of the encoder."""
    keys: tuple[KeyEntry, ...] = ()
    auth: Literal["keys", "off"] = "keys"
    metrics_open: bool = False
    max_batch: int = Field(default=64, ge=1, le=1024)
    """Most events scored together."""
    max_queue: int = Field(default=2048, ge=1, le=1_000_000)
    """Most events that wait; a request with more is refused for good."""
    max_wait_s: Seconds = 0.2
    """A request that would wait longer than this is refused at once."""
    deadline_s: Seconds = 10.0
    """A request that was not begun by then is not scored; a caller may ask for less."""
    body_limit_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 30)
    """Longest body, before and after decompression."""
    body_timeout_s: Seconds = 10.0
    future_tolerance_s: float = Field(default=600.0, ge=0, le=86_400, allow_inf_nan=False)
    """A time further ahead than this is replaced by the time of arrival."""
    dead_letters: Path = Path("dead-letters.jsonl")
    """Where events go that cannot be scored: prompts are in it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_s: Seconds = 10.0
    """How long a stop waits for what is in flight."""
    litellm: LiteLLMSettings = LiteLLMSettings()
    policy: Path | None = None
    """What is advised and enforced: a file, read again when it changes, or `default` for the one
    of the package. Without it nothing is either."""
    desk_folder: Path | None = None
    """Where analysts' decisions and their audit log are kept; without it there are no pages for
    them. The archive is in `archive` there, unless it is named."""
    archive: str | None = None
    """The archive of prompts: a folder, or postgresql://…"""
    archive_days: float | None = Field(default=None, gt=0, le=36_500)
    """Events are removed from the archive after so long; None keeps them."""
    archive_backup_hours: float | None = Field(default=None, gt=0, le=8760, allow_inf_nan=False)
    """Time between two copies of the archive in its folder; None makes none. It is none unless a
    site asks for it: copies hold every prompt again, and three times the room of the archive."""
    desk_two_person: bool = False
    """Whether a confirmation counts only when a second reviewer has confirmed too."""
    desk_secure_cookies: bool | None = None
    """Whether cookies of the pages are sent over TLS alone; None is so unless host is a loopback
    address. Behind a proxy that speaks TLS on this machine it should be true."""
    desk_report: Path | None = None
    """A page with the evaluation of the bundle in use, to be linked to."""
    campaigns_every_s: float = Field(default=300.0, ge=0, le=86_400, allow_inf_nan=False)
    """Between two looks for campaigns among the archive's events, by a process of their own; 0 is
    never."""

    @field_validator("keys")
    @classmethod
    def _differ(cls, value: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        for name in ("id", "sha256"):
            if len({getattr(entry, name) for entry in value}) != len(value):
                raise ValueError(f"must differ in {name}")
        return value

    @field_validator("auth")
    @classmethod
    def _is_guarded(cls, value: str, info: ValidationInfo) -> str:
        if value == "keys" and info.data.get("keys") == ():
            raise ValueError(
                "must be off while there are no keys; add one with stillwatch keys new, or set "
                'auth = "off" on a loopback address'
            )
        if value == "off" and "host" in info.data and not is_loopback(info.data["host"]):
            raise ValueError("must be keys unless host is a loopback address")
        return value

    @field_validator("archive_backup_hours")
    @classmethod
    def _is_in_a_folder(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and "://" in (info.data.get("archive") or ""):
            raise ValueError(
                "must be left out while the archive is in PostgreSQL, whose own tools back it up"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What is given in code is all there is: a test's settings depend on no environment.
        return (init_settings,)

    def authenticator(self) -> Authenticator:
        """Who knows these keys."""
        hashes = [
            KeyHash(Caller(entry.id, entry.role, entry.accounts), entry.sha256)
            for entry in self.keys
        ]
        return Authenticator(hashes, open_to_all=self.auth == "off")


class SettingsError(ConfigError):
    """Every fault of the settings, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def load_settings(
    config: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> ServeSettings:
    """Settings from a TOML file (None is the one that STILLWATCH_CONFIG names, if any), the
    environment over it, `overrides` over both. Raises SettingsError with all that is wrong."""
    path = config or (Path(named) if (named := os.environ.get(CONFIG_VARIABLE)) else None)
    lines: list[str] = []
    values = _read_file(path, lines) if path is not None else {}
    values = _merged(values, _read_environment(lines))
    values |= {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings = ServeSettings(**values)
    except ValidationError as error:
        lines += explain(error)
    if lines:
        raise SettingsError(lines)
    return settings


def explain(error: ValidationError) -> list[str]:
    """A line for each fault: its name, what must hold, and what was found unless it is secret."""
    found = error.errors(include_url=False, include_context=False)
    return [_line(dict(fault)) for fault in found]


def _read_file(path: Path, lines: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        lines.append(f"the settings file must be readable, however: {reason}: {path}")
    except UnicodeDecodeError:
        lines.append(f"the settings file must be UTF-8, however: another encoding: {path}")
    except tomllib.TOMLDecodeError as error:
        # Its message names a line and column; a character at most is quoted.
        lines.append(f"the settings file must be TOML, however: {error}: {path}")
    return {}


def _read_environment(lines: list[str]) -> dict[str, Any]:
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX):
            setting = name[len(PREFIX) :].split("__")[0].lower()
            if setting not in ServeSettings.model_fields:
                lines.append(_unknown(name, setting))
    try:
        found = EnvSettingsSource(ServeSettings, env_prefix=PREFIX, env_nested_delimiter="__")()
    except SourceError:
        # Its message holds the value.
        lines.append(f"lists and tables in {PREFIX}… must be JSON, however: one is not")
        return {}
    return {name: value for name, value in found.items() if name in ServeSettings.model_fields}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[name] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _line(fault: Mapping[str, Any]) -> str:
    place = list(fault["loc"])
    name = ".".join(str(part) for part in place) or "the settings"
    if fault["type"] == "extra_forbidden":
        models: dict[object, type[BaseModel]] = {"keys": KeyEntry, "litellm": LiteLLMSettings}
        known = models[place[0]] if len(place) > 1 else ServeSettings
        return _unknown(name, str(place[-1]), known.model_fields)
    if fault["type"] == "missing":
        return f"{name} must be given, however: it is missing"
    if name.endswith("sha256"):
        rule = "must be 64 lower-case hex digits, the SHA-256 of a key"
    elif fault["type"] == "value_error":
        rule = str(fault["msg"]).removeprefix("Value error, ")
    else:
        rule = str(fault["msg"]).replace("Input should be", "must be", 1)
        rule = rule.replace("String should", "must", 1).replace("Value should", "must", 1)
    shown = next((part for part in reversed(place) if isinstance(part, str)), "")
    value = fault.get("input")
    if shown in _SHOWN and isinstance(value, str | int | float):
        return f"{name} {rule}, however: {clip(visible(str(value)), SHOWN_CHARS)}"
    return f"{name} {rule}, however: another value"


def _unknown(name: str, setting: str, known: Mapping[str, Any] | None = None) -> str:
    names = list(ServeSettings.model_fields if known is None else known)
    near = difflib.get_close_matches(setting, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{clip(visible(name), SHOWN_CHARS)} must be a known setting, however: it is not{hint}"
