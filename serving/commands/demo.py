"""`stillwatch demo`: the bundled sample log, scored with the bundled detector and explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillwatch.serving.commands import intake

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stillwatch.data.events import Label
    from stillwatch.serving.scorer import Scorer
    from stillwatch.serving.verdict import Verdict

EXAMPLE = "Example: stillwatch demo"
WIDTH = 100
LOOK_ALIKES = 5
EXCERPT_CHARS = 90
INTENT_LEAST = 0.1
"""Intents below this probability are not listed."""

NEXT = (
    ("stillwatch score LOG --output verdicts.jsonl", "score a log of your own"),
    ('stillwatch search --templates "think aloud, step by step"', "find templates like a prompt"),
    ("stillwatch templates list --language de", "read the known attack prompts"),
    ("stillwatch calibrate LOG --max-fpr 0.003 --output DIR", "set thresholds from your traffic"),
    ("stillwatch train --help", "train a detector on campaigns of your own"),
    ("README.md", "log formats, how it works, what it misses"),
)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A verdict beside its label; None where there is none."""

    verdict: Verdict
    label: Label | None

    @property
    def is_attack(self) -> bool:
        return self.label is not None and bool(self.label.intents)

    @property
    def was_flagged(self) -> bool:
        """Now or earlier: traffic at a stream's end may take the flag away."""
        return self.verdict.flagged_after is not None

    @property
    def is_ordinary(self) -> bool:
        return self.label is not None and not self.label.intents


def demo(
    threads: intake.ThreadsOption = 1,
    no_progress: intake.NoProgressOption = False,
) -> None:
    """Score a bundled sample log with the bundled detector and explain what it found."""
    from stillwatch.serving.commands.terminal import page

    scorer = intake.load_scorer(None, threads, not no_progress)
    show_demo(sample_folder(), scorer, page(WIDTH), not no_progress)


def sample_folder() -> Path:
    """Where the sample log and its labels lie."""
    import stillwatch.data

    return Path(stillwatch.data.__file__).parent / "sample"


def show_demo(folder: Path, scorer: Scorer, console: Console, show_progress: bool = False) -> None:
    """Scores `requests.jsonl` in `folder` and prints what it found beside `labels.jsonl`."""
    from stillwatch.data.labels import read_labels

    labels: dict[str, Label] = {}
    for label in read_labels(folder / "labels.jsonl"):
        for account in (label.id,) if label.subject == "account" else label.accounts:
            labels[account] = label
    with intake.read_logs(
        [str(folder / "requests.jsonl")], None, None, True, show_progress
    ) as read:
        console.print(
            f"Scoring a sample log: {len(read.spool):,} requests of {read.spool.accounts:,} "
            f"accounts, with bundle {scorer.bundle_id}."
        )
        with intake.chunks(read.spool, "Scoring", show_progress) as chunks:
            for chunk in chunks:
                scorer.ingest(chunk)
    judged = [_Judged(verdict, labels.get(verdict.account_id)) for verdict in scorer.verdicts()]
    judged.sort(key=lambda item: -item.verdict.peak_risk)
    flagged = [item for item in judged if item.was_flagged]
    look_alikes = [item for item in judged if item.is_ordinary and not item.was_flagged]

    console.print(
        f"\n[bold]Flagged accounts[/bold]: a risk of {scorer.threshold:.2f} or more, "
        "after so many events"
    )
    console.print(_flagged_table(flagged) if flagged else "none")
    if look_alikes:
        console.print("\n[bold]Ordinary accounts that come closest[/bold], not flagged")
        console.print(_ordinary_table(look_alikes[:LOOK_ALIKES]))
    console.print("\n[bold]Against the labels[/bold]")
    for line in _counts(judged):
        console.print(line, markup=False)
    console.print("\n[bold]Where to look next[/bold]")
    console.print(_next_table())


def _flagged_table(flagged: Sequence[_Judged]) -> Table:
    from rich.table import Table

    from stillwatch.serving.commands.terminal import show_table_cell as cell
    from stillwatch.serving.verdict import clip, visible

    table = Table(box=None, padding=(0, 2, 1, 0), expand=True, header_style="dim")
    table.add_column("account", max_width=24)
    table.add_column("risk", justify="right")
    table.add_column("peak", justify="right")
    table.add_column("intents")
    table.add_column("events", justify="right")
    table.add_column("after", justify="right")
    table.add_column("nearest template, excerpt", ratio=1)
    for item in flagged:
        verdict = item.verdict
        shown = [(p, name) for name, p in verdict.intents.items() if p >= INTENT_LEAST]
        evidence = "none"
        if verdict.evidence:
            first = verdict.evidence[0]
            template = visible(first.template_id or "no template")
            text = clip(visible(first.excerpt), EXCERPT_CHARS)
            evidence = f"{template} {first.similarity:.2f}\n{text}"
        remark = "" if item.is_attack else ("\nlabelled ordinary" if item.label else "\nno label")
        if not verdict.flagged:
            remark += "\nflagged earlier"
        table.add_row(
            cell(visible(verdict.account_id) + remark),
            f"{verdict.risk:.2f}",
            f"{verdict.peak_risk:.2f}",
            cell("\n".join(f"{name} {p:.2f}" for p, name in sorted(shown, reverse=True))),
            f"{verdict.events:,}",
            f"{verdict.flagged_after:,}" if verdict.flagged_after is not None else "",
            cell(evidence),
        )
    return table


def _ordinary_table(items: Sequence[_Judged]) -> Table:
    from rich.table import Table

    from stillwatch.serving.commands.terminal import show_table_cell as cell
    from stillwatch.serving.verdict import visible

    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("account", max_width=24)
    table.add_column("peak risk", justify="right")
    table.add_column("events", justify="right")
    table.add_column("what the label says it is", ratio=1)
    for item in items:
        verdict = item.verdict
        note = item.label.note if item.label is not None else ""
        table.add_row(
            cell(visible(verdict.account_id)),
            f"{verdict.peak_risk:.2f}",
            f"{verdict.events:,}",
            cell(visible(note)),
        )
    return table


def _counts(judged: Sequence[_Judged]) -> list[str]:
    """Caught and missed, rightly and wrongly flagged, and which."""
    attacks = [item for item in judged if item.is_attack]
    ordinary = [item for item in judged if item.is_ordinary]
    missed = [item for item in attacks if not item.was_flagged]
    wrong = [item for item in ordinary if item.was_flagged]
    lines = [
        f"caught {len(attacks) - len(missed)} of {len(attacks)} labelled attacks; "
        f"flagged {len(wrong)} of {len(ordinary)} ordinary accounts"
    ]
    if missed:
        lines.append("missed: " + _named(missed))
    if wrong:
        lines.append("wrongly flagged: " + _named(wrong))
    unknown = len(judged) - len(attacks) - len(ordinary)
    if unknown:
        lines.append(f"{unknown} without a label, counted in neither")
    return lines


def _named(items: Sequence[_Judged]) -> str:
    from stillwatch.serving.verdict import visible

    return ", ".join(
        f"{visible(item.verdict.account_id)} (peak risk {item.verdict.peak_risk:.2f})"
        for item in items
    )


def _next_table() -> Table:
    from rich.table import Table

    from stillwatch.serving.commands.terminal import show_table_cell as cell

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for command, what in NEXT:
        table.add_row(cell(command), cell(what))
    return table
