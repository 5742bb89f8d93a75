"""Names and ids that every Stillwatch site has in common, and those of OASIS and MITRE ATLAS."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from stillwatch.data.intelligence.types import Tlp

NAMESPACE: Final = uuid.UUID("6a0f2b0c-6f0e-5d57-9b6e-3d1c7d0a4f21")
"""Of the ids that are made from names (UUIDv5)."""
EPOCH: Final = "2026-01-01T00:00:00.000Z"
"""When the common objects were made."""

PATTERN_TYPE: Final = "stillwatch-prompt-template"
PATTERN_VERSION: Final = "1"
"""Of our pattern language: a prompt's frame, with `{slot}` once at most where the rest stands."""
MAX_PATTERN_CHARS: Final = 4000
SLOT: Final = "{slot}"

INTENT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
LANGUAGE: Final = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
FAMILY: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

TLP_EXTENSION: Final = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d"
_TLP_CREATED = "2022-10-01T00:00:00.000Z"
TLP_IDS: Final[Mapping[Tlp, str]] = {
    Tlp.CLEAR: "marking-definition--94868c89-83c2-464b-929b-a1a8aa3c8487",
    Tlp.GREEN: "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb",
    Tlp.AMBER: "marking-definition--55d920b0-5e8b-4f79-9ee9-91f868d9b421",
    Tlp.AMBER_STRICT: "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003",
    Tlp.RED: "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1",
}
TLP_OF: Final = {own: level for level, own in TLP_IDS.items()}

EXTRACT_MODEL: Final = "AML.T0024.002"
ATLAS_PHASE: Final = {"kill_chain_name": "mitre-atlas", "phase_name": "exfiltration"}
_TOLD = {
    "capability_probing": (
        "Capability probing",
        "Maps what a model can do and where its limits are, as a ground for copying it.",
    ),
    "cot_harvesting": (
        "Chain-of-thought harvesting",
        "Elicits a model's reasoning traces to train another model on.",
    ),
    "output_harvesting": (
        "Output harvesting",
        "Collects a model's answers in bulk to train another model on.",
    ),
}


def common_id(kind: str, name: str) -> str:
    """The STIX id of something that every site calls by the same name."""
    return f"{kind}--{uuid.uuid5(NAMESPACE, f'{kind}:{name}')}"


EXTENSION: Final = common_id("extension-definition", "prompt-template-sharing-1")
PROJECT: Final = common_id("identity", "stillwatch")


def tlp_marking(level: Tlp) -> dict[str, Any]:
    """The marking as OASIS defines it."""
    return {
        "type": "marking-definition", "spec_version": "2.1", "id": TLP_IDS[level],
        "created": _TLP_CREATED, "name": str(level),
        "extensions": {
            TLP_EXTENSION: {"extension_type": "property-extension", "tlp_2_0": level.value}
        },
    }  # fmt: skip


def project_identity() -> dict[str, Any]:
    """Who defines the extension and the attack patterns."""
    return {
        "type": "identity", "spec_version": "2.1", "id": PROJECT, "created": EPOCH,
        "modified": EPOCH, "name": "Stillwatch", "identity_class": "system",
        "object_marking_refs": [TLP_IDS[Tlp.CLEAR]],
    }  # fmt: skip


def extension_definition() -> dict[str, Any]:
    """What an indicator and a campaign of ours have beside the properties of STIX."""
    return {
        "type": "extension-definition", "spec_version": "2.1", "id": EXTENSION,
        "created_by_ref": PROJECT, "created": EPOCH, "modified": EPOCH,
        "name": "Stillwatch prompt templates and campaigns",
        "description": "The intent and language of an indicator whose pattern is a prompt "
        "template; the intents of a campaign and how many accounts and requests it had.",
        "schema": "indicator: intent (string), language (string), family (string, optional). "
        "campaign: intents (dictionary of string to float), accounts (integer), events (integer).",
        "version": "1.0.0", "extension_types": ["property-extension"],
        "object_marking_refs": [TLP_IDS[Tlp.CLEAR]],
    }  # fmt: skip


def attack_pattern(intent: str) -> dict[str, Any]:
    """What whoever has this intent does, in terms of MITRE ATLAS."""
    name, description = _TOLD.get(
        intent, (intent.replace("_", " ").capitalize(), "Queries a model in order to copy it.")
    )
    return {
        "type": "attack-pattern", "spec_version": "2.1",
        "id": common_id("attack-pattern", intent), "created_by_ref": PROJECT, "created": EPOCH,
        "modified": EPOCH, "name": name, "description": description,
        "kill_chain_phases": [dict(ATLAS_PHASE)],
        "external_references": [
            {"source_name": "mitre-atlas", "external_id": EXTRACT_MODEL}
        ],
        "object_marking_refs": [TLP_IDS[Tlp.CLEAR]],
    }  # fmt: skip
