"""Writes the sample log of the demo: data/sample/requests.jsonl and data/sample/labels.jsonl.

The material is hand-written, one TOML file an account, in scripts/sample_material/ (its README
says how a file reads). This script only fills templates and deals out times, sessions and ids.
The same material always gives the same bytes: each account draws from a generator seeded with its
own name, so that a change to one account leaves the others as they are.

    python scripts/make_sample.py [--output data/sample]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = Path(__file__).resolve().parent / "sample_material"

START = datetime(2026, 10, 5, tzinfo=UTC)
"""A Monday, midnight UTC. All times below are seconds from here."""

DAYS = 14
DAY_S = 86_400.0
RELEASE_S = 8 * DAY_S + 15 * 3600.0
"""When atlas-large-3 came out: accounts with `new_model_h` move to it that many hours later."""

SEED = "stillwatch sample 1"
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"

Session = list[str]
Timed = tuple[float, str, int]
"""Seconds from START, prompt, number of the session it belongs to."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the sample log of the demo.")
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "sample")
    output: Path = parser.parse_args().output
    events, labels = make_sample()
    output.mkdir(parents=True, exist_ok=True)
    (output / "requests.jsonl").write_bytes(to_lines(events))
    (output / "labels.jsonl").write_bytes(to_lines(labels))
    print(f"{len(events)} events of {len(labels)} accounts in {output}")


def make_sample(material: Path = MATERIAL) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The event lines, sorted by time, and the label lines, sorted by account."""
    events: list[dict[str, Any]] = []
    labels = []
    for path in sorted(material.glob("*.toml")):
        account = tomllib.loads(path.read_text(encoding="utf-8"))
        labels.append(
            {
                "account_id": account["account"],
                "intents": account["intents"],
                "source": "sample",
                "note": account["note"],
            }
        )
        events += account_events(account)
    events.sort(key=lambda event: (event["timestamp"], event["account_id"]))
    # Ids are dealt in the order of the log, so that they tell nothing of the account.
    rng = random.Random(f"{SEED} ids")
    taken: set[str] = set()
    for event in events:
        event["event_id"] = unused_id(rng, taken)
    labels.sort(key=lambda label: label["account_id"])
    return events, labels


def account_events(account: dict[str, Any]) -> list[dict[str, Any]]:
    """The event lines of one account in no particular order; `event_id` is still empty."""
    name = account["account"]
    rng = random.Random(f"{SEED} {name}")
    network = account.get("network", name)
    networks = [keyed_hash(f"network {network} {k}") for k in range(account.get("networks", 1))]
    payment = account.get("payment")
    clients = account["client"]
    events = []
    for number, part in enumerate(account["parts"]):
        for time_s, prompt, session in sorted(timed(rng, part)):
            model = account["model"]
            if "new_model_h" in account and time_s > RELEASE_S + account["new_model_h"] * 3600:
                model = "atlas-large-3"
            # One session stays on one machine.
            chosen = random.Random(f"{SEED} {name} {number} {session}")
            event = {
                "event_id": "",
                "account_id": name,
                "timestamp": iso(time_s),
                "prompt": prompt,
                "system": part.get("system"),
                "model": model,
                "platform": account.get("platform"),
                "network": chosen.choice(networks),
                "payment": keyed_hash(f"payment {payment}") if payment else None,
                "client": chosen.choice(clients),
                "temperature": part.get("temperature"),
                "max_tokens": part.get("max_tokens"),
                "n": part.get("n"),
                "logprobs": part.get("logprobs"),
            }
            if part.get("sessions", part["timing"] == "human"):
                event["session_id"] = "s_" + digest(f"session {name} {number} {session}")[:10]
            events.append({key: value for key, value in event.items() if value is not None})
    return events


def sessions_of(rng: random.Random, part: dict[str, Any]) -> list[Session]:
    """The prompts of a part, filled in, as groups that belong together."""
    lists = {name: list(lines(text)) for name, text in part.get("lists", {}).items()}
    if "items" in part:
        blocks = re.split(r"\n\s*\n", part["items"].strip())
        # A plain list is of requests that have nothing to do with each other.
        groups = [list(lines(b)) for b in (blocks if len(blocks) > 1 else blocks[0].split("\n"))]
    else:
        groups = [[""]] * part["count"]
    templates = part.get("template", "<<0>>")
    if isinstance(templates, str):
        templates = [templates]
    seen: set[str] = set()
    sessions = []
    for group in groups:
        session = []
        for item in group:
            prompt = fill(rng, templates, item, lists)
            while lists and prompt in seen:
                prompt = fill(rng, templates, item, lists)
            seen.add(prompt)
            session.append(prompt)
        sessions.append(session)
    if part.get("shuffle", False):
        rng.shuffle(sessions)
    return sessions


def fill(rng: random.Random, templates: list[str], item: str, lists: dict[str, list[str]]) -> str:
    """A template with <<0>>, <<1>>, … from the item's fields and <<name>> from the lists."""
    if item.startswith("> "):
        return item[2:]
    prompt = unescape(rng.choice(templates).strip("\n"))
    fields = item.split(" || ")
    for name, values in lists.items():
        while f"<<{name}>>" in prompt:
            prompt = prompt.replace(f"<<{name}>>", rng.choice(values), 1)
    for k, text in enumerate(fields):
        prompt = prompt.replace(f"<<{k}>>", text)
    assert "<<" not in prompt or ">>" not in prompt, f"A slot is left unfilled: {prompt!r}"
    return prompt


def lines(text: str) -> Iterator[str]:
    """The lines of a block of material that are not empty."""
    for line in text.split("\n"):
        if line.strip():
            yield unescape(line.strip())


def unescape(text: str) -> str:
    r"""`\n` is a line break inside a prompt, `\\n` the two characters."""
    return re.sub(r"\\(\\n|n)", lambda found: "\n" if found[1] == "n" else "\\n", text)


def timed(rng: random.Random, part: dict[str, Any]) -> list[Timed]:
    """A part's prompts with their times, by the part's `timing`."""
    return TIMINGS[part["timing"]](rng, part, sessions_of(rng, part))


def human(rng: random.Random, part: dict[str, Any], sessions: list[Session]) -> list[Timed]:
    """Somebody at a keyboard: conversations at their waking hours, in the order written."""
    starts = sorted(day_time(rng, part) for _ in sessions)
    events = []
    free_s = 0.0
    for number, (start_s, session) in enumerate(zip(starts, sessions, strict=True)):
        time_s = max(start_s, free_s)
        for prompt in session:
            events.append((time_s, prompt, number))
            # The answer has to be read, and the next question typed.
            reading_s = rng.lognormvariate(0.0, 0.8) * part.get("gap_s", 95.0)
            time_s += 8.0 + reading_s + len(prompt) * rng.uniform(0.02, 0.12)
        free_s = time_s + rng.uniform(300.0, 4000.0)
    return events


def product(rng: random.Random, part: dict[str, Any], sessions: list[Session]) -> list[Timed]:
    """The users of a product: each session by itself, more of them at the busy hours."""
    starts = sorted(day_time(rng, part) for _ in sessions)
    return follow(rng, part, starts, sessions, gap_s=40.0)


def steady(rng: random.Random, part: dict[str, Any], sessions: list[Session]) -> list[Timed]:
    """Around the clock, at a rate that changes little."""
    first, last = part.get("days", [0, DAYS])
    length_s = (last - first) * DAY_S / len(sessions)
    starts = [first * DAY_S + (k + rng.uniform(0.0, 0.95)) * length_s for k in range(len(sessions))]
    return follow(rng, part, starts, sessions, gap_s=20.0)


def burst(rng: random.Random, part: dict[str, Any], sessions: list[Session]) -> list[Timed]:
    """Everything in a few runs, seconds apart."""
    prompts = [prompt for session in sessions for prompt in session]
    runs = part.get("bursts", 1)
    starts = sorted(day_time(rng, part) for _ in range(runs))
    events = []
    cuts = sorted(rng.sample(range(1, len(prompts)), runs - 1))
    free_s = 0.0
    for number, (start_s, low, high) in enumerate(
        zip(starts, [0, *cuts], [*cuts, len(prompts)], strict=True)
    ):
        time_s = max(start_s, free_s)
        for prompt in prompts[low:high]:
            events.append((time_s, prompt, number))
            time_s += rng.lognormvariate(0.0, 0.5) * part.get("gap_s", 6.0)
        free_s = time_s + rng.uniform(600.0, 3000.0)
    return events


def nightly(rng: random.Random, part: dict[str, Any], sessions: list[Session]) -> list[Timed]:
    """A scheduled job: a share of the prompts every day at the same minute."""
    prompts = [prompt for session in sessions for prompt in session]
    first, last = part.get("days", [0, DAYS])
    days = last - first
    events = []
    time_s = 0.0
    for k, prompt in enumerate(prompts):
        day = first + k * days // len(prompts)
        due_s = day * DAY_S + part["at_h"] * 3600.0 + rng.uniform(1.0, 9.0)
        time_s = max(due_s, time_s + rng.lognormvariate(0.0, 0.4) * part.get("gap_s", 4.0))
        events.append((time_s, prompt, day))
    return events


TIMINGS: dict[str, Callable[[random.Random, dict[str, Any], list[Session]], list[Timed]]] = {
    "human": human,
    "product": product,
    "steady": steady,
    "burst": burst,
    "nightly": nightly,
}


def follow(
    rng: random.Random,
    part: dict[str, Any],
    starts: list[float],
    sessions: list[Session],
    gap_s: float,
) -> list[Timed]:
    """Sessions at their starts, the prompts of each about `gap_s` apart."""
    events = []
    for number, (time_s, session) in enumerate(zip(starts, sessions, strict=True)):
        for prompt in session:
            events.append((time_s, prompt, number))
            time_s += rng.lognormvariate(0.0, 0.7) * part.get("gap_s", gap_s)
    return events


def day_time(rng: random.Random, part: dict[str, Any]) -> float:
    """A moment on one of the part's days, in its hours; `utc` is the zone's offset in hours."""
    first, last = part.get("days", [0, DAYS])
    low, high = part.get("hours", [7, 23])
    while True:
        day = rng.randrange(first, last)
        weekend = (START + timedelta(days=day)).weekday() >= 5
        if weekend and part.get("weekdays", False):
            continue
        hour = rng.triangular(low, high) - part.get("utc", 0)
        time_s = day * DAY_S + hour * 3600.0 + rng.uniform(0.0, 60.0)
        if 0.0 <= time_s < (DAYS - 0.1) * DAY_S:
            return time_s


def iso(time_s: float) -> str:
    return (START + timedelta(seconds=int(time_s))).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(text: str) -> str:
    return hashlib.sha256(f"{SEED} {text}".encode()).hexdigest()


def keyed_hash(text: str) -> str:
    return "kh:" + digest(text)[:12]


def unused_id(rng: random.Random, taken: set[str]) -> str:
    while True:
        event_id = "req_" + "".join(rng.choices(ALPHABET, k=10))
        if event_id not in taken:
            taken.add(event_id)
            return event_id


def to_lines(records: list[dict[str, Any]]) -> bytes:
    """JSON Lines in UTF-8."""
    text = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records)
    return "".join(line + "\n" for line in text).encode()


if __name__ == "__main__":
    main()
