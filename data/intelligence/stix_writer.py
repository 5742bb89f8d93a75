"""From exchange types to STIX 2.1. Ids are made from contents: the same again, the same bundle."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stillwatch.data.intelligence import outgoing
from stillwatch.data.intelligence.review import why_not_shareable
from stillwatch.data.intelligence.types import (
    NotShareable,
    Producer,
    SharedCampaign,
    SharedTemplate,
    Tlp,
)
from stillwatch.data.intelligence.vocabulary import (
    ATLAS_PHASE,
    EPOCH,
    EXTENSION,
    NAMESPACE,
    PATTERN_TYPE,
    PATTERN_VERSION,
    TLP_IDS,
    attack_pattern,
    common_id,
    extension_definition,
    project_identity,
    tlp_marking,
)

_LATEST = 253_402_300_799.0


def producer_uuid(producer: Producer) -> uuid.UUID:
    """What all ids of a producer are made from; tells nothing of its key."""
    return uuid.uuid5(NAMESPACE, hashlib.sha256(f"producer:{producer.key}".encode()).hexdigest())


def own_id(producer: Producer, kind: str, name: str) -> str:
    """The STIX id of something of a producer's."""
    return f"{kind}--{uuid.uuid5(producer_uuid(producer), f'{kind}:{name}')}"


def template_id(producer: Producer, own: str, intent: str, text: str) -> str:
    """The STIX id of a site's template; `own` is the site's id of it."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return own_id(producer, "indicator", f"{own}:{intent}:{digest}")


def timestamp(seconds: float) -> str:
    """STIX's form of a time, in milliseconds."""
    moment = datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def common_objects(intents: Iterable[str], levels: Iterable[Tlp]) -> list[dict[str, Any]]:
    """What the objects of every site refer to."""
    marks = sorted({*levels, Tlp.CLEAR}, key=lambda level: level.value)
    return [
        *map(tlp_marking, marks),
        project_identity(),
        extension_definition(),
        *map(attack_pattern, sorted(set(intents))),
    ]


def identity(producer: Producer) -> dict[str, Any]:
    """Who shares."""
    own = f"identity--{producer_uuid(producer)}"
    return {
        "type": "identity", "spec_version": "2.1", "id": own, "created_by_ref": own,
        "created": EPOCH, "modified": EPOCH, "name": producer.name,
        "identity_class": "organization", "object_marking_refs": [TLP_IDS[Tlp.CLEAR]],
    }  # fmt: skip


def template_objects(producer: Producer, template: SharedTemplate) -> list[dict[str, Any]]:
    """The indicator of a template, and what it indicates. NotShareable for a text that looks as
    if it held something of a customer's."""
    why = why_not_shareable(template.text)
    if why is not None:
        raise NotShareable(
            f"the text of a template must be a frame without anything of a customer's, however: it "
            f"holds {why}; add one without it"
        )
    extension: dict[str, Any] = {
        "extension_type": "property-extension", "intent": template.intent,
        "language": template.language,
    }  # fmt: skip
    if template.family is not None:
        extension["family"] = template.family
    own = {
        "type": "indicator", **_heading(producer, template.id, template),
        "name": outgoing.INDICATOR_NAME, "description": outgoing.INDICATOR_DESCRIPTION,
        "indicator_types": ["malicious-activity"], "pattern": template.text,
        "pattern_type": PATTERN_TYPE, "pattern_version": PATTERN_VERSION,
        "valid_from": timestamp(template.valid_from), "kill_chain_phases": [dict(ATLAS_PHASE)],
        "extensions": {EXTENSION: extension},
    }  # fmt: skip
    if template.valid_until is not None and template.valid_until > template.valid_from:
        own["valid_until"] = timestamp(template.valid_until)
    if template.revoked:
        own["revoked"] = True
    target = common_id("attack-pattern", template.intent)
    return [own, _relation(producer, "indicates", own, target)]


def campaign_objects(
    producer: Producer, campaign: SharedCampaign, shared: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A campaign, what it does, and which templates indicate it; `shared` maps the site's ids of
    those that go out to their STIX ids."""
    made = own_id(producer, "campaign", campaign.campaign_id)
    first = min(campaign.first_seen, campaign.last_seen)
    last = max(campaign.first_seen, campaign.last_seen)
    own = {
        "type": "campaign", "spec_version": "2.1", "id": made,
        "created_by_ref": f"identity--{producer_uuid(producer)}", "created": timestamp(first),
        "modified": timestamp(max(campaign.updated, first)),
        "name": f"Distillation campaign {made.split('--')[1][:8]}",
        "first_seen": timestamp(first), "last_seen": timestamp(last),
        "object_marking_refs": [TLP_IDS[campaign.tlp]],
        "extensions": {
            EXTENSION: {
                "extension_type": "property-extension",
                "intents": {
                    name: round(float(value), 4) for name, value in campaign.intents.items()
                },
                "accounts": int(campaign.accounts), "events": int(campaign.events),
            }
        },
    }  # fmt: skip
    found = [own]
    for intent, value in campaign.intents.items():
        if value >= 0.5:
            found.append(_relation(producer, "uses", own, common_id("attack-pattern", intent)))
    for template in campaign.templates:
        if template in shared:
            by = {**own, "id": shared[template]}
            found.append(_relation(producer, "indicates", by, made))
    return found


def bundle_of(
    producer: Producer,
    templates: Sequence[SharedTemplate],
    campaigns: Sequence[SharedCampaign] = (),
    local_ids: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All of it as one STIX bundle, looked through and valid. NotShareable."""
    objects = objects_of(producer, templates, campaigns, local_ids)
    content = json.dumps(objects, sort_keys=True, separators=(",", ":")).encode()
    made = own_id(producer, "bundle", hashlib.sha256(content).hexdigest())
    return {"type": "bundle", "id": made, "objects": objects}


def objects_of(
    producer: Producer,
    templates: Sequence[SharedTemplate],
    campaigns: Sequence[SharedCampaign] = (),
    local_ids: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The objects of `bundle_of`."""
    intents = [template.intent for template in templates]
    for campaign in campaigns:
        intents += [name for name, value in campaign.intents.items() if value >= 0.5]
    levels = [one.tlp for one in templates] + [one.tlp for one in campaigns]
    objects = [*common_objects(intents, levels), identity(producer)]
    for template in sorted(templates, key=lambda one: one.id):
        objects += template_objects(producer, template)
    shared = {
        local: own
        for local, own in (local_ids or {}).items()
        if own in {template.id for template in templates}
    }
    for campaign in sorted(campaigns, key=lambda one: one.campaign_id):
        objects += campaign_objects(producer, campaign, shared)
    check(objects)
    return objects


def check(objects: Sequence[Mapping[str, Any]]) -> None:
    """NotShareable unless every object holds what it may alone, and stix2 takes it."""
    outgoing.check_outgoing(objects)
    # Takes half a second to import.
    import stix2

    for one in objects:
        try:
            stix2.parse(dict(one), allow_custom=False, version="2.1")
        except (stix2.exceptions.STIXError, ValueError, TypeError) as error:
            raise NotShareable(
                f"what goes out must be valid STIX 2.1, however: {one['type']} is not, by "
                f"{type(error).__name__}; nothing was shared"
            ) from None


def _heading(producer: Producer, own: str, template: SharedTemplate) -> dict[str, Any]:
    return {
        "spec_version": "2.1", "id": own, "created_by_ref": f"identity--{producer_uuid(producer)}",
        "created": timestamp(template.created),
        "modified": timestamp(max(template.modified, template.created)),
        "object_marking_refs": [TLP_IDS[template.tlp]],
    }  # fmt: skip


def _relation(
    producer: Producer, kind: str, source: Mapping[str, Any], target: str
) -> dict[str, Any]:
    return {
        "type": "relationship", "spec_version": "2.1",
        "id": own_id(producer, "relationship", f"{kind}:{source['id']}:{target}"),
        "created_by_ref": source["created_by_ref"], "created": source["created"],
        "modified": source["created"], "relationship_type": kind, "source_ref": source["id"],
        "target_ref": target, "object_marking_refs": list(source["object_marking_refs"]),
    }  # fmt: skip
