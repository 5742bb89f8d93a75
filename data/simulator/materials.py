"""What streams are composed of: corpus sources, wrappers, products and phrases, in folds.

A fold holds whole sources, whole hands of wrappers and whole product trades, so that a detector
can be tested on material of which it has seen nothing.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from stillwatch.data.corpora import CorpusPrompt, Source, read_corpora
from stillwatch.data.simulator.content import Product, Wrapper, read_products, read_wrappers
from stillwatch.data.simulator.phrases import Phrase, load_phrases

ROLE_INTENT = {
    "attack_harvest": "output_harvesting",
    "attack_cot": "cot_harvesting",
    "attack_probe": "capability_probing",
    "attack_boundary": "capability_probing",
}

# Which slots a source can fill. A source that is not named here fills those of its role.
SOURCE_SLOTS: dict[str, tuple[str, ...]] = {
    "glaive_toolcall": ("tool_request", "dialogue_turn"),
    "gpteacher_toolformer": ("tool_request", "instruction"),
    "plexpt_questionlist_zh": ("question", "instruction"),
    "preference_distil_mix": ("instruction", "question"),
    "gorilla_apibench": ("tool_request", "instruction"),
    "limo_reasoning": ("math",),
    "prompt_extraction": (),
    "mmlu": ("exam", "question"),
    "agieval": ("exam", "math"),
    "humaneval": ("code",),
    "agentbench": ("question", "tool_request"),
    "gaokao_zh": ("exam", "math"),
    "mtbench_vicuna": ("question", "instruction", "code"),
    "garak_snowball": ("question", "math"),
    "garak_probes": ("boundary",),
    "llmbar": ("judge_item",),
    "fastchat_judge": ("judge_item",),
    "pandalm": ("judge_item",),
    "limo_examiner": ("judge_item", "student_work"),
    "topical_chat": ("dialogue_turn", "sentence"),
    "sgd": ("customer_message", "dialogue_turn", "tool_request"),
    "crosswoz_zh": ("customer_message", "dialogue_turn"),
    "awesome_prompts": ("instruction",),
    "arena_hard_queries": ("question", "instruction", "code"),
    "xpersona": ("dialogue_turn", "sentence"),
    "openassistant": ("question", "instruction", "topic"),
    "prism_openings": ("question", "topic"),
    "banking77": ("customer_message",),
    "clinc150": ("customer_message", "search_query"),
    "code_bugfix": ("snippet",),
    "msdocs_translate": ("sentence",),
    "nl2bash": ("command",),
    "p3_templates": ("document", "question"),
    "xquad_rag": ("document", "answer"),
    "snips": ("customer_message", "tool_request", "search_query"),
    "cosqa_websearch": ("search_query", "code", "topic"),
    "mathdial_teacher": ("student_work", "dialogue_turn"),
    "purplellama_frr": ("command", "code"),
}
_ROLE_SLOTS: dict[str, tuple[str, ...]] = {
    "attack_harvest": ("instruction", "question"),
    "attack_cot": ("question", "math"),
    "attack_probe": ("exam", "question"),
    "attack_boundary": ("boundary",),
    "judge": ("judge_item",),
    "chat": ("question", "dialogue_turn"),
    "app": ("customer_message", "document"),
    "lookalike": ("question",),
}
_SLOT_FALLBACK: dict[str, tuple[str, ...]] = {
    "answer": ("document", "sentence"),
    "topic": ("search_query", "question", "sentence"),
    "code": ("command", "snippet", "search_query", "instruction"),
    "snippet": ("code", "command", "document"),
    "math": ("exam", "question"),
    "exam": ("question", "math"),
    "student_work": ("dialogue_turn", "question", "sentence"),
    "judge_item": ("document", "question"),
    "command": ("instruction", "search_query", "customer_message"),
    "tool_request": ("customer_message", "instruction"),
    "search_query": ("question", "customer_message", "sentence"),
    "boundary": ("question", "instruction"),
    "instruction": ("question",),
    "question": ("instruction", "search_query", "sentence"),
    "document": ("sentence", "dialogue_turn"),
    "sentence": ("dialogue_turn", "document"),
    "dialogue_turn": ("customer_message", "sentence", "question"),
    "customer_message": ("dialogue_turn", "question"),
}
ATTACK_ROLES = frozenset(ROLE_INTENT)
OWN_SOURCES = Path(__file__).with_name("sources")
"""Small sources of our own writing, in the form of a corpora folder."""
SEALED = Path(__file__).with_name("sealed")
"""Sources, wrappers and products that nothing is ever trained on: what a bundle is tested with."""


def source_slots(source: Source) -> tuple[str, ...]:
    """Slot kinds that the prompts of a source can fill."""
    return source.slots or SOURCE_SLOTS.get(source.name, _ROLE_SLOTS[source.role])


@dataclass(frozen=True)
class Materials:
    """A selection of everything that streams are made of."""

    sources: tuple[Source, ...]
    wrappers: tuple[Wrapper, ...]
    products: tuple[Product, ...]
    phrases: dict[str, tuple[Phrase, ...]]
    _slots: dict[tuple[str, bool], tuple[Source, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _kinds: dict[tuple[str, ...], tuple[Product, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def by_role(self, *roles: str) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.role in roles)

    def named(self, *names: str) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.name in names)

    def products_of(self, *kinds: str) -> tuple[Product, ...]:
        """Products of these kinds; all if there are none."""
        if kinds not in self._kinds:
            found = tuple(product for product in self.products if product.kind in kinds)
            self._kinds[kinds] = found or self.products
        return self._kinds[kinds]

    @cached_property
    def products_with_system(self) -> tuple[Product, ...]:
        """Products that send a system prompt."""
        return tuple(product for product in self.products if product.system)

    def for_slot(self, kind: str, attack: bool) -> tuple[Source, ...]:
        """Sources for a slot. An attack may ask about anything; an ordinary product is not fed
        with benchmarks or refusal probes, save for exercises. Falls back to the next kind that
        this selection has."""
        key = (kind, attack)
        if key not in self._slots:
            self._slots[key] = self._find_slot(kind, attack)
        return self._slots[key]

    def _find_slot(self, kind: str, attack: bool) -> tuple[Source, ...]:
        school = {"exam", "math", "student_work", "code"}
        for wanted in (kind, *_SLOT_FALLBACK.get(kind, ())):
            found = tuple(
                source
                for source in self.sources
                if wanted in source_slots(source)
                and (attack or source.role not in ATTACK_ROLES or wanted in school)
            )
            if found:
                return found
        allowed = [s for s in self.sources if attack or s.role not in ATTACK_ROLES]
        return tuple(allowed or self.sources)

    def hold_out(self, names: Collection[str]) -> Materials:
        """Without the sources, wrapper ids, wrapper families, products and trades named."""
        return Materials(
            tuple(s for s in self.sources if s.name not in names),
            tuple(w for w in self.wrappers if w.id not in names and w.family not in names),
            tuple(p for p in self.products if p.id not in names and p.trade not in names),
            self.phrases,
        )

    def portion(self, parts: Collection[int], of: int) -> Materials:
        """The prompts of each source whose hash falls in these parts of `of`, sessions kept
        whole: "other prompts of known sources"."""

        def keep(prompt: CorpusPrompt) -> bool:
            unit = prompt.session or prompt.text
            return zlib.crc32(unit.encode("utf-8", "replace")) % of in parts

        sources = []
        for source in self.sources:
            kept = [p for p, prompt in enumerate(source.prompts) if keep(prompt)]
            renumbered = {old: new for new, old in enumerate(kept)}
            sessions = tuple(
                tuple(renumbered[p] for p in group)
                for group in source.sessions
                if all(p in renumbered for p in group)
            )
            prompts = tuple(source.prompts[p] for p in kept)
            if prompts:
                sources.append(replace(source, prompts=prompts, sessions=sessions))
        return Materials(tuple(sources), self.wrappers, self.products, self.phrases)


def load_sealed() -> Materials:
    """The sealed materials, with the phrases that all composing shares."""
    return Materials(
        read_corpora(SEALED / "sources"),
        read_wrappers(SEALED / "wrappers.jsonl"),
        read_products(SEALED / "products.jsonl"),
        load_phrases(),
    )


def load_passages() -> tuple[str, ...]:
    """Ordinary English passages, a paragraph each, behind which a payload may stand. Sealed too."""
    return tuple((SEALED / "passages.txt").read_text(encoding="utf-8").splitlines())


def split_folds(materials: Materials, folds: int) -> list[Materials]:
    """Deal the materials into folds: each source, wrapper hand and product trade whole.

    Sources are dealt by role, large ones first, so that each fold has some of each role where
    there are enough; hands by intent, so that a fold's wrappers share no wording with the others',
    though behaviours may recur; phrases by position within kind and language.
    """
    source_fold = _deal([(s.role, -len(s.prompts), s.name) for s in materials.sources], folds)
    hand_fold = _deal(sorted({(w.intent, 0, w.hand) for w in materials.wrappers}), folds)
    trades = Counter(product.trade for product in materials.products)
    trade_fold = _deal([("trade", -count, trade) for trade, count in trades.items()], folds)
    return [
        Materials(
            tuple(s for s in materials.sources if source_fold[s.name] == fold),
            tuple(w for w in materials.wrappers if hand_fold[w.hand] == fold),
            tuple(p for p in materials.products if trade_fold[p.trade] == fold),
            {kind: _every(phrases, fold, folds) for kind, phrases in materials.phrases.items()},
        )
        for fold in range(folds)
    ]


def _deal(items: Sequence[tuple[str, int, str]], folds: int) -> dict[str, int]:
    """(group, order, name) -> fold. Each group goes on where the last one stopped."""
    dealt = {}
    for position, (_, _, name) in enumerate(sorted(items)):
        dealt[name] = position % folds
    return dealt


def _every(phrases: tuple[Phrase, ...], fold: int, folds: int) -> tuple[Phrase, ...]:
    return tuple(phrase for p, phrase in enumerate(phrases) if p % folds == fold)
