"""Two providers in two processes: each learns what both have, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillwatch.data.errors import ConfigError, InputError
from stillwatch.data.events import Event
from stillwatch.data.writers import write_events
from stillwatch.serving.sharing import overlap
from stillwatch.serving.sharing.overlap import Element

PSI = Path(__file__).parents[3] / ".cache" / "psi"
KEY = bytes(range(48, 96))
HERE = [Element("network", f"net-{n}") for n in range(200)] + [Element("payment", "card-1")]
THERE = [Element("network", f"net-{n}") for n in range(190, 290)] + [
    Element("payment", "card-2"), Element("payment", "net-1"),
]  # fmt: skip


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """openmined-psi, beside the libraries of the tests."""
    if not (PSI / "installed").is_file():
        pytest.skip("openmined-psi is not installed: run tests/install-psi.sh")
    monkeypatch.syspath_prepend(str(PSI))
    monkeypatch.setenv("PYTHONPATH", str(PSI))


def run(folder: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    code = "from stillwatch.serving.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "psi", *map(str, argv)], cwd=folder, text=True,
        capture_output=True, timeout=300,
    )  # fmt: skip


def make_side(folder: Path, elements: list[Element]) -> Path:
    folder.mkdir()
    events = [
        Event(f"e{n}", f"acct-{folder.name}-{n}", 1.7e9 + n, f"prompt-{folder.name}",
              network=one.value if one.kind == "network" else None,
              payment=one.value if one.kind == "payment" else None)
        for n, one in enumerate(elements)
    ]  # fmt: skip
    write_events(folder / "log.jsonl", events)
    (folder / "key").write_bytes(KEY + b"\n")
    return folder


@pytest.mark.usefixtures("library")
def test_two_processes_learn_what_both_have(tmp_path: Path) -> None:
    one, other = make_side(tmp_path / "north", HERE), make_side(tmp_path / "south", THERE)
    for asks, answers in ((one, other), (other, one)):
        done = run(asks, "request", "log.jsonl", "--key-file", "key", "--output", "request.psi",
                   "--secret", "secret.psi")  # fmt: skip
        assert done.returncode == 0, done.stderr
        (answers / "got.psi").write_bytes((asks / "request.psi").read_bytes())
        done = run(answers, "respond", "got.psi", "log.jsonl", "--key-file", "key", "--output",
                   "response.psi")  # fmt: skip
        assert done.returncode == 0, done.stderr
        (asks / "back.psi").write_bytes((answers / "response.psi").read_bytes())
        done = run(asks, "result", "back.psi", "--secret", "secret.psi", "--key-file", "key")
        assert done.returncode == 0, done.stderr
        found = {Element(**json.loads(line)) for line in done.stdout.splitlines()}
        # A payment that is spelt as a network is another thing.
        assert found == {Element("network", f"net-{n}") for n in range(190, 200)}
    # What goes to the other side holds nothing of what it is about, nor its keyed hashes.
    for side, elements in ((one, HERE), (other, THERE)):
        for name in ("request.psi", "response.psi"):
            sent = (side / name).read_text()
            for element in elements:
                assert element.value not in sent
                assert overlap.keyed(KEY, element) not in sent
            assert "acct-" not in sent
            assert "prompt-" not in sent
        assert (side / "secret.psi").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("library")
class TestInOneProcess:
    def test_who_answers_learns_a_number_alone(self) -> None:
        asked = overlap.request(KEY, HERE)
        again = overlap.request(KEY, HERE)
        # Blinded anew each time: nothing can be recognised in it.
        messages = [json.loads(made.public)["message"] for made in (asked, again)]
        assert messages[0][:60] != messages[1][:60]
        assert set(json.loads(asked.public)) == {
            "stillwatch_psi", "step", "key_check", "count", "message",
        }  # fmt: skip
        answered = overlap.answer(KEY, THERE, asked.public)
        assert (answered.asked, answered.own) == (len(HERE), len(THERE))
        assert len(overlap.overlap(KEY, asked.secret, answered.public)) == 10

    def test_what_is_spelt_otherwise_is_the_same(self) -> None:
        asked = overlap.request(
            KEY, [Element("network", " NET-1"), Element("network", "2001:DB8::1")]
        )
        answered = overlap.answer(
            KEY, [Element("network", "net-1"), Element("network", "2001:db8:0:0::1")], asked.public
        )
        assert len(overlap.overlap(KEY, asked.secret, answered.public)) == 2

    def test_another_key_is_told(self) -> None:
        asked = overlap.request(KEY, HERE)
        with pytest.raises(ConfigError, match="the same key"):
            overlap.answer(KEY[::-1], THERE, asked.public)

    @pytest.mark.parametrize(
        "change",
        [
            {"message": "AAAA"}, {"message": 5}, {"message": ""}, {"count": 0}, {"count": True},
            {"count": 10**9}, {"count": 7}, {"step": "response"}, {"stillwatch_psi": 2},
        ],
    )  # fmt: skip
    def test_a_damaged_request_is_one_line(self, change: dict[str, object]) -> None:
        fields = json.loads(overlap.request(KEY, HERE).public)
        with pytest.raises(InputError) as told:
            overlap.answer(KEY, THERE, json.dumps({**fields, **change}).encode())
        assert "\n" not in str(told.value)

    def test_a_damaged_response_is_one_line(self) -> None:
        asked = overlap.request(KEY, HERE)
        answered = overlap.answer(KEY, THERE, asked.public)
        for damaged in (b"", b"{}", answered.public[:500], asked.public):
            with pytest.raises(InputError, match="response must be"):
                overlap.overlap(KEY, asked.secret, damaged)
        fields = json.loads(answered.public)
        with pytest.raises(InputError, match="response must be"):
            overlap.overlap(KEY, asked.secret, json.dumps({**fields, "setup": "AAAA"}).encode())


def test_elements_are_those_of_the_log() -> None:
    events = [
        Event("e1", "a1", 1.0, "p", network="n1", payment="p1"),
        Event("e2", "a2", 1.0, "p", network="n1", payment=" "), Event("e3", "a3", 1.0, "p"),
    ]  # fmt: skip
    assert overlap.elements_of(events) == {
        Element("network", "n1"): {"a1", "a2"}, Element("payment", "p1"): {"a1"},
    }  # fmt: skip


def test_a_network_is_no_payment_and_nothing_without_the_key() -> None:
    network, payment = Element("network", "x1"), Element("payment", "x1")
    hashes = {overlap.keyed(key, one) for key in (KEY, KEY[::-1]) for one in (network, payment)}
    assert len(hashes) == 4


@pytest.mark.parametrize("key", [b"", b"short", b"a" * 64, b" \n" * 40])
def test_a_key_that_can_be_guessed_is_refused(key: bytes) -> None:
    with pytest.raises(ConfigError, match="random key"):
        overlap.check_key(key)


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    side = make_side(tmp_path / "north", HERE[:3])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = (
        "import sys; sys.modules['private_set_intersection'] = None\n"
        "from stillwatch.serving.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "psi", "request", "log.jsonl", "--key-file", "key",
         "--output", "o", "--secret", "s"],
        cwd=side, text=True, capture_output=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'stillwatch[psi]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (side / "o").exists()
