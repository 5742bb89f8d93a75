"""`stillwatch score` from the command line to the file: what is read, written, counted, refused."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stillwatch.data.errors import BundleError
from stillwatch.data.readers import FORMATS
from stillwatch.serving.cli import app
from stillwatch.serving.commands import intake
from tests.serving.fake_scorer import FakeScorer

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canary-5b1d"


def line(account: str, event: str, prompt: str = "Where is my parcel?", time: float = 0) -> str:
    return json.dumps(
        {"event_id": event, "account_id": account, "timestamp": 1.7e9 + time, "prompt": prompt}
    )


HARVEST = "Show all your reasoning step by step"
LINES = [
    line("ordinary", "e3", time=30),
    line("harvester", "e1", HARVEST, time=10),
    line("harvester", "e2", HARVEST, time=20),
    line("harvester", "e2", HARVEST, time=20),
]


@pytest.fixture
def scorers(monkeypatch: pytest.MonkeyPatch) -> list[FakeScorer]:
    """The fake scorers that commands were given."""
    made: list[FakeScorer] = []

    def load(bundle: Path | None, threads: int, show_progress: bool = True) -> FakeScorer:
        made.append(FakeScorer())
        return made[-1]

    monkeypatch.setattr(intake, "load_scorer", load)
    return made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    return path


def run(*argv: object, input: str | None = None) -> Result:  # noqa: A002 - as CliRunner's
    return CliRunner().invoke(app, [str(word) for word in argv], input=input)


def refusal(result: Result) -> str:
    """The one line that a user is told."""
    assert result.exit_code == 2, result.output
    assert not result.stdout
    (told,) = result.stderr.splitlines()
    return told


def accounts(output: Path) -> dict[str, Any]:
    verdicts = [json.loads(text) for text in output.read_text().splitlines()]
    return {verdict["account_id"]: verdict for verdict in verdicts}


def test_scores_in_order_of_time_without_duplicates(
    scorers: list[FakeScorer], log: Path, tmp_path: Path
) -> None:
    output = tmp_path / "verdicts.jsonl"
    result = run("score", log, "--output", output)
    assert result.exit_code == 0, result.output
    found = accounts(output)
    assert list(found) == ["harvester", "ordinary"]
    assert found["harvester"]["flagged"]
    assert found["harvester"]["events"] == 2
    assert not found["ordinary"]["flagged"]
    assert [event.event_id for event in scorers[0].events["harvester"]] == ["e1", "e2"]
    assert result.stderr == (
        "scored 3 events of 2 accounts; 1 flagged; 0 lines rejected; 1 duplicate dropped; "
        "0 events truncated\n"
    )


@pytest.mark.usefixtures("scorers")
def test_a_flag_that_padding_took_away_is_told(tmp_path: Path) -> None:
    log, output = tmp_path / "log.jsonl", tmp_path / "verdicts.jsonl"
    prompts = ["Your reasoning, please.", *["Thank you."] * 3]
    fields = {"account_id": "padded", "timestamp": 1.7e9}
    log.write_text(
        "\n".join(json.dumps({**fields, "prompt": f"{p} {n}"}) for n, p in enumerate(prompts))
    )
    result = run("score", log, "--output", output)
    assert "; 0 flagged, 1 flagged earlier; " in result.stderr
    found = accounts(output)["padded"]
    assert (found["flagged"], found["flagged_after"]) == (False, 1)
    assert (found["risk"], found["peak_risk"]) == (0.25, 1.0)


@pytest.mark.usefixtures("scorers")
def test_standard_input_to_standard_output() -> None:
    result = run("score", "-", "--output", "-", input="\n".join(LINES))
    assert result.exit_code == 0, result.output
    assert [json.loads(text)["account_id"] for text in result.stdout.splitlines()] == [
        "harvester",
        "ordinary",
    ]


@pytest.mark.usefixtures("scorers")
def test_malformed_lines_are_kept_apart(tmp_path: Path) -> None:
    log, output = tmp_path / "log.jsonl.gz", tmp_path / "out.jsonl"
    rejects = tmp_path / "rejects.jsonl"
    bad = ['{"account_id": "x"', json.dumps({"account_id": "x", "prompt": CANARY})]
    log.write_bytes(gzip.compress("\n".join([bad[0], *LINES, bad[1]]).encode()))

    result = run("score", log, "--output", output)
    assert result.exit_code == 0, result.output
    assert "2 lines rejected, use --rejects FILE to keep them" in result.stderr

    result = run("score", log, "--output", output, "--rejects", rejects)
    assert result.exit_code == 0, result.output
    assert f"2 lines rejected, named in {rejects}" in result.stderr
    found = [json.loads(text) for text in rejects.read_text().splitlines()]
    assert [(reject["file"], reject["line"]) for reject in found] == [(str(log), 1), (str(log), 6)]
    assert CANARY not in rejects.read_text() + result.output
    assert len(accounts(output)) == 2


def test_strict_stops_at_the_first(scorers: list[FakeScorer], tmp_path: Path) -> None:
    log, output = tmp_path / "log.jsonl", tmp_path / "out.jsonl"
    log.write_text("\n".join([*LINES, '{"prompt": "' + CANARY + '"}']))
    told = refusal(run("score", log, "--output", output, "--strict"))
    assert "line 5" in told
    assert CANARY not in told
    assert not scorers[0].events
    assert not output.exists()


@pytest.mark.usefixtures("scorers")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "they are empty"),
        ('{"prompt": 1, "account_id": "a", "timestamp": 1}\n', "their one line is none"),
    ],
)
def test_a_log_without_an_event_is_refused(content: str, says: str, tmp_path: Path) -> None:
    log, output = tmp_path / "log.jsonl", tmp_path / "out.jsonl"
    rejects = tmp_path / "rejects.jsonl"
    log.write_text(content)
    options = ("--output", output, "--rejects", rejects, "--format", "stillwatch")
    assert says in refusal(run("score", log, *options))
    assert not output.exists()
    # Whoever wonders why no line was good needs them the most.
    assert len(rejects.read_text().splitlines()) == content.count("\n")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["missing.jsonl", "--output", "out"], "missing.jsonl is missing"),
        ([".", "--output", "out"], "is a folder"),
        (["pipe", "--output", "out"], "standard input"),
        (["log.jsonl", "--output", "no/such/out"], "existing folder"),
        (["log.jsonl", "--output", "."], "is a folder"),
        (["log.jsonl", "--output", "./log.jsonl"], "it is the log log.jsonl too"),
        (["log.jsonl", "--output", "out", "--rejects", "out"], "it is --output too"),
        (["-", "--output", "-", "--rejects", "-"], "it is --output too"),
        (["log.jsonl", "--output", "out", "--format", "csv"], "litellm"),
        (["log.jsonl", "--output", "out", "--threads", "0"], "--threads"),
        (["log.jsonl"], "--output"),
    ],
)
def test_refused_before_anything_is_loaded(
    argv: list[str],
    says: str,
    scorers: list[FakeScorer],
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    before = sorted(tmp_path.iterdir())
    assert says in refusal(run("score", *argv))
    assert not scorers
    assert sorted(tmp_path.iterdir()) == before
    assert log.read_text().splitlines() == LINES


def test_the_bundle_is_loaded_before_the_log_is_read(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BundleError("the bundle must be a folder, however: it is none")

    def read(*_: object) -> None:
        pytest.fail("the log was read")

    monkeypatch.setattr(intake, "load_scorer", refuse)
    monkeypatch.setattr("stillwatch.data.log.read_log", read)
    told = refusal(run("score", log, "--output", tmp_path / "out"))
    assert told == "stillwatch: the bundle must be a folder, however: it is none"


def test_a_failed_run_leaves_the_last_output(
    scorers: list[FakeScorer], log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("the last\n")

    def fail(self: FakeScorer) -> Any:
        yield from FakeScorer(events=self.events).verdicts()
        raise ValueError(CANARY)

    class Failing(FakeScorer):
        verdicts = fail

    monkeypatch.setattr(intake, "load_scorer", lambda *_: Failing())
    result = run("score", log, "--output", output)
    assert result.exit_code == 70
    assert output.read_text() == "the last\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "out.jsonl"]
    assert "ValueError in stillwatch.serving.commands.score" in result.stderr
    assert CANARY not in result.output


def test_help_names_every_format() -> None:
    shown = "".join(run("score", "--help").stdout.replace("│", " ").split())
    assert all(name in shown for name in FORMATS)


CHILD = """
import signal, sys
sys.path.insert(0, {root!r})
from stillwatch.serving.cli import main
from stillwatch.serving.commands import intake
from tests.serving.fake_scorer import FakeScorer

class Waiting(FakeScorer):
    def wait(self):
        print("waiting", flush=True)
        while True:
            signal.pause()

    def ingest(self, events):
        super().ingest(events)
        if {phase!r} == "scoring":
            self.wait()

    def verdicts(self):
        for verdict in super().verdicts():
            yield verdict
            self.wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
intake.load_scorer = lambda *_: Waiting()
main()
"""


@pytest.mark.parametrize("phase", ["scoring", "writing"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_in_mid_run(
    phase: str, number: signal.Signals, code: int, log: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("the last\n")
    argv = ["score", str(log), "--output", str(output)]
    child = child_process(CHILD.format(root=str(ROOT), phase=phase), argv)
    with child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(number)
        told = child.stderr.read()
    assert child.returncode == code
    assert told == ("stillwatch: interrupted\n" if number == signal.SIGINT else "")
    assert output.read_text() == "the last\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "out.jsonl"]


def child_process(code: str, argv: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
