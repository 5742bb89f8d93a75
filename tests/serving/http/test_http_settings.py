"""Settings: where they come from, and that every fault is told at once, without secrets."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stillwatch.serving.commands import serve
from stillwatch.serving.http.auth import new_key
from stillwatch.serving.http.settings import ServeSettings, SettingsError, load_settings

SECRET = "secret-8899"


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("STILLWATCH_SERVE_", "STILLWATCH_CONFIG")):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    path = folder / "stillwatch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(config: Path | None = None, **overrides: object) -> list[str]:
    with pytest.raises(SettingsError) as found:
        load_settings(config, overrides)
    return found.value.lines


def test_options_stand_over_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(tmp_path, 'auth = "off"\nport = 1\nthreads = 2\nmax_batch = 3\n')
    monkeypatch.setenv("STILLWATCH_SERVE_PORT", "4")
    monkeypatch.setenv("STILLWATCH_SERVE_MAX_BATCH", "5")
    found = load_settings(config, {"port": 6, "host": None})
    assert (found.port, found.max_batch, found.threads) == (6, 5, 2)
    monkeypatch.setenv("STILLWATCH_CONFIG", str(config))
    assert load_settings().threads == 2


def test_keys_come_from_the_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = new_key().sha256
    entry = f'[[keys]]\nid = "gateway"\nrole = "scorer"\nsha256 = "{digest}"\naccounts = "acme/"\n'
    (found,) = load_settings(written(tmp_path, entry)).keys
    assert found.accounts == "acme/"
    monkeypatch.setenv(
        "STILLWATCH_SERVE_KEYS", f'[{{"id":"other","role":"admin","sha256":"{digest}"}}]'
    )
    (found,) = load_settings().keys
    assert (found.id, found.accounts) == ("other", "*")


def test_every_fault_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(
        tmp_path,
        f"""
        prot = 8080
        host = "0.0.0.0"
        auth = "off"
        threads = 0
        max_wait_s = nan
        store = ["{SECRET}"]
        [[keys]]
        id = "two words"
        role = "boss"
        sha256 = "{SECRET}"
        [[keys]]
        id = "x"
        """,
    )
    monkeypatch.setenv("STILLWATCH_SERVE_PORT", "many")
    monkeypatch.setenv("STILLWATCH_SERVE_BATCH", "1")
    lines = faults(config)
    told = "\n".join(lines)
    for start in (
        "prot must be a known setting, however: it is not; did you mean port?",
        "STILLWATCH_SERVE_BATCH must be a known setting",
        "threads must be greater than or equal to 1, however: 0",
        "max_wait_s must be a finite number, however: nan",
        "store must be a valid string, however: another value",
        "keys.0.id must",
        "keys.0.role must be 'scorer', 'analyst', 'admin' or 'peer', however: boss",
        "keys.0.sha256 must be 64 lower-case hex digits",
        "keys.1.role must be given",
        "port must be a valid integer",
        "auth must be keys unless host is a loopback address, however: off",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, told)
    assert SECRET not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "auth must be off while there are no keys"),
        ("port = ", "the settings file must be TOML"),
        ('host = "192.0.2.1"\nauth = "off"', "auth must be keys unless host is a loopback"),
        ('host = "example.test"\nauth = "off"', "auth must be keys unless host is a loopback"),
    ],
)
def test_a_service_open_to_all_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert any(line.startswith(told) for line in faults(written(tmp_path, text)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_a_loopback_address_auth_may_be_off(host: str) -> None:
    assert ServeSettings(auth="off", host=host).host == host


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([{"id": "a"}, {"id": "a"}], "keys must differ in id"),
        ([{"accounts": "acme*"}], "keys.0.accounts must be * or the start"),
        ([{"accounts": ""}], "keys.0.accounts must be * or the start"),
    ],
)
def test_keys_are_checked(keys: list[dict[str, str]], told: str) -> None:
    entries = [{"id": "k", "role": "admin", "sha256": new_key().sha256, **key} for key in keys]
    assert any(line.startswith(told) for line in faults(keys=entries))


def test_a_list_that_is_no_json_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLWATCH_SERVE_KEYS", f"[{SECRET}")
    lines = faults()
    assert any("must be JSON" in line for line in lines)
    assert SECRET not in "".join(lines)


APP = typer.Typer()
APP.command("serve")(serve.serve)
APP.add_typer(serve.keys_app, name="keys")


def test_the_command_lists_the_faults_and_ends_with_2(tmp_path: Path) -> None:
    config = written(tmp_path, "threads = 0\nmax_batch = 0\n")
    result = CliRunner().invoke(APP, ["serve", "--config", str(config)])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("stillwatch: ") for line in lines)


def test_a_new_key_opens_the_service_that_has_its_entry(tmp_path: Path) -> None:
    argv = ["keys", "new", "--id", "gateway", "--role", "scorer", "--accounts", 'ac"me/']
    result = CliRunner().invoke(APP, argv)
    assert result.exit_code == 0
    key, _, entry = result.stdout.partition("\n")
    (found,) = load_settings(written(tmp_path, entry)).keys
    assert tomllib.loads(entry)["keys"][0]["accounts"] == 'ac"me/'
    assert found.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in entry


@pytest.mark.parametrize(
    "argv", [["--id", "a b", "--role", "scorer"], ["--id", "a", "--role", "x"]]
)
def test_a_key_that_could_not_be_used_is_not_made(argv: list[str]) -> None:
    result = CliRunner().invoke(APP, ["keys", "new", *argv])
    assert result.exit_code != 0
    assert not result.stdout
