"""Owns the table of a policy file's fields: each one's name, kind, place in the policy, meaning.

The reader, the writer, the published JSON schema, the reference page, the templates and the
comparison of two policies are all made from this table. A field's bounds and default are the
policy's (`p2p.subclouds.policy`), translated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pydantic

from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.policy_rules import (
    CallerRules,
    DataRules,
    GatewayRules,
    GpuFloor,
    HardwareFloor,
    ModelName,
    ModelRules,
    OwnModel,
    PriceRules,
    RegionRules,
    ServiceLevel,
    TrustFloor,
)
from resultity.subclouds import kinds
from resultity.subclouds.kinds import Kind


@dataclass(frozen=True, slots=True)
class Part:
    """A mapping in the file. `model`: the part of the policy that it makes.

    `short`: a field that may stand alone in place of a mapping with nothing else.
    """

    model: type[pydantic.BaseModel]
    fields: tuple[Field, ...]
    short: str = ""

    def field(self, name: str) -> Field:
        """Find a field by its name in the file."""
        return next(field for field in self.fields if field.name == name)


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `key`: its name in the policy. `many`: a list of such values.

    `special`: made from more than the text (the name, the end, a digest), by the reader itself.
    """

    name: str
    key: str
    form: Kind | Part
    meaning: str
    many: bool = False
    required: bool = False
    special: bool = False


_HEX = kinds.text("64 digits 0-9 a-f", "[0-9a-f]{64}", numbers=True)
_DIGEST = kinds.text("64 digits 0-9 a-f, or `unverified`", "[0-9a-f]{64}|unverified", numbers=True)
_COUNTRY = kinds.text("a country's two letters (ISO 3166-1) like `DE`", "[A-Z]{2}")
_NAME = kinds.text("a name of 1 to 100 characters", "(?s).{1,100}", numbers=True)
_MODEL_NAME = kinds.text(
    "a model's name (1 to 100 of A-Z a-z 0-9 . _ : / -)", "[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}"
)
_VERSION = kinds.text("a version of 1 to 40 characters", "(?s).{1,40}", numbers=True)
_ANY = kinds.text("a text of at most 500 characters", numbers=True)
_ACCOUNT = kinds.text("an account's ID (acct-...)", "acct-[0-9a-f]{40}")
_LABEL = kinds.text(
    "a name of 1 to 40 of a-z, 0-9 and dashes inside",
    "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?",
    numbers=True,
)
_MODALITIES = kinds.choice(["text", "image"])
_TASKS = kinds.choice(["chat", "embeddings"])

OWN_MODEL = Part(
    OwnModel,
    (
        Field("name", "name", _MODEL_NAME, "What requests call it.", required=True),
        Field("version", "version", _VERSION, "Its version."),
        Field("digest", "digest", _DIGEST, "SHA-256 of the GGUF file; `unverified` for a server of "
              "the operator's own (any OpenAI URL), with `verified_only: false`.",
              required=True, special=True),
        Field("family", "family", _NAME, "Its architecture, if the policy names families."),
        Field("quantisation", "quantisation", _NAME, "As its file says (`Q4_K_M`)."),
        Field("context_tokens", "context_tokens", kinds.whole(), "Its context.", required=True),
        Field("input_price", "input_microcredits_per_million_tokens", kinds.price(),
              "Credits for a million tokens read.", required=True),
        Field("output_price", "output_microcredits_per_million_tokens", kinds.price(),
              "Credits for a million tokens written.", required=True),
        Field("cached_input_price", "cached_input_microcredits_per_million_tokens", kinds.price(),
              "Credits for a million tokens that the node still has from an earlier request."),
        Field("template_allowance_tokens", "template_allowance_tokens", kinds.whole(),
              "What the chat template adds to each message at most."),
        Field("default_output_tokens", "default_output_tokens", kinds.whole(),
              "The most that is written if a request names no maximum."),
        Field("tasks", "tasks", _TASKS, "What it may be used for.", many=True),
        Field("embedding_dimensions", "embedding_dimensions", kinds.whole(),
              "Lengths to which its vectors may be cut.", many=True),
        Field("modalities", "modalities", _MODALITIES, "What it takes.", many=True),
        Field("image_tokens_max", "image_tokens_max", kinds.whole(),
              "What an image adds to the input at most; needed with `image`."),
    ),
)  # fmt: skip
MODELS = Part(
    ModelRules,
    (
        Field("names", "names", Part(ModelName, (
            Field("name", "name", _NAME, "The network's name of the model.", required=True),
            Field("versions", "versions", _NAME, "The only versions; none: all.", many=True),
        ), short="name"), "Models of the network, by name. Without `names`, `families`, `digests` "
              "and `own`: all of them.", many=True),
        Field("families", "families", _NAME, "Models of the network, by architecture (`llama`).",
              many=True),
        Field("digests", "digests", _HEX, "Models of the network, by SHA-256 of the file.",
              many=True),
        Field("minimum_quantisation", "minimum_quantisation", _NAME,
              "The coarsest weights (`Q4_K_M`, `Q8_0`, `F16`)."),
        Field("modalities", "modalities", _NAME, "What a model must take (`text`, `image`).",
              many=True),
        Field("verified_only", "verified_only", kinds.flag(),
              "Only models whose file is known by its digest; no servers of operators."),
        Field("own", "own", OWN_MODEL, "Models that this policy approves by itself, with its own "
              "prices, for jobs of this subcloud only.", many=True),
    ),
)  # fmt: skip
REGIONS = Part(
    RegionRules,
    (
        Field("allow", "allow", _COUNTRY, "Countries where members may be; none: all.", many=True),
        Field("deny", "deny", _COUNTRY, "Countries where they may not be.", many=True),
        Field("evidence", "evidence", kinds.choice(["declared", "consistent", "proven",
              "attested"]), "The weakest evidence that counts for a country."),
    ),
)  # fmt: skip
HARDWARE = Part(
    HardwareFloor,
    (
        Field("gpu", "gpu", Part(GpuFloor, (
            Field("kind", "kind", _ANY, "A part of its name (`RTX`, `A100`)."),
            Field("memory_min", "memory_bytes_min", kinds.memory(), "Its least memory."),
        )), "The least GPU."),
        Field("memory_min", "memory_bytes_min", kinds.memory(), "The least main memory."),
        Field("tokens_per_second_min", "tokens_per_second_min", kinds.rate(),
              "The least speed of one request for the model in question."),
        Field("evidence", "evidence", kinds.choice(["declared", "benchmarked", "attested"]),
              "The weakest evidence that counts for hardware."),
    ),
)  # fmt: skip
TRUST = Part(
    TrustFloor,
    (
        Field("reputation_min", "reputation_min", kinds.share(),
              "The least share of a node's jobs that went well."),
        Field("jobs_min", "jobs_min", kinds.whole(), "Over at least so many jobs."),
    ),
)  # fmt: skip
SERVICE = Part(
    ServiceLevel,
    (
        Field("first_token_max", "first_token_ms_max", kinds.duration("ms"),
              "The longest time to the first token; 0: not asked."),
        Field("tokens_per_second_min", "tokens_per_second_min", kinds.rate(),
              "The least speed that was observed."),
        Field("uptime_min", "uptime_min", kinds.share(), "The least share of the time online."),
        Field("capacity_slots_min", "capacity_slots_min", kinds.whole(),
              "How many requests at once a member keeps room for."),
        Field("window", "window_s", kinds.duration("s"), "The time over which this is measured."),
        Field("jobs_judged_min", "jobs_judged_min", kinds.whole(),
              "A member is judged after so many observed jobs."),
        Field("suspension", "suspension_s", kinds.duration("s"),
              "How long a member below the level is out."),
    ),
)  # fmt: skip
PRICE = Part(
    PriceRules,
    (
        Field("input_max", "input_microcredits_per_million_tokens_max", kinds.price(),
              "The most for a million tokens read."),
        Field("output_max", "output_microcredits_per_million_tokens_max", kinds.price(),
              "The most for a million tokens written."),
        Field("owner_fee", "owner_fee_basis_points", kinds.share(),
              "The owner's share of every charge."),
    ),
)  # fmt: skip
CALLERS = Part(
    CallerRules,
    (
        Field("anyone", "anyone", kinds.flag(), "Whoever has an API key of the network."),
        Field("accounts", "accounts", _ACCOUNT, "Whitelisted accounts.", many=True),
        Field("namespaces", "namespaces", kinds.text("a namespace (acct-.../name)",
              "acct-[0-9a-f]{40}/.{1,64}"), "Whitelisted namespaces.", many=True),
        Field("keys", "keys", kinds.text("the ID of an API key (16 characters, see `key list`)",
              "[a-z2-7]{16}", numbers=True), "Whitelisted API keys, by their IDs.", many=True),
        Field("tokens", "tokens", kinds.flag(),
              "Holders of a token that a delegate signed (`subcloud token`)."),
        Field("source_networks", "source_networks", kinds.text("a network like `192.0.2.0/24`",
              "[0-9a-f.:]{2,45}/[0-9]{1,3}"), "And only from these networks.", many=True),
    ),
)  # fmt: skip
GATEWAYS = Part(
    GatewayRules,
    (
        Field("accounts", "accounts", _ACCOUNT, "Gateways of these accounts.", many=True),
        Field("peers", "peers", kinds.text("a gateway's peer ID (12D3Koo...)",
              "[1-9A-HJ-NP-Za-km-z]{40,60}"), "Gateways, by peer ID.", many=True),
    ),
)  # fmt: skip
DATA = Part(
    DataRules,
    (
        Field("no_content_storage", "no_content_storage", kinds.flag(),
              "Members promise to keep nothing of prompts and answers."),
    ),
)  # fmt: skip
POLICY = Part(
    SubcloudPolicy,
    (
        Field("name", "subcloud_id", _LABEL, "The subcloud's name. With the founding account and "
              "the network it makes the ID.", required=True, special=True),
        Field("contact", "contact", _ANY, "Whom members and callers can ask."),
        Field("expires", "expires_ms", kinds.lifetime(), "How long from its signing the policy "
              "holds (`365d`), or until which day (`2027-12-31`).", required=True, special=True),
        Field("models", "models", MODELS, "Which models are served here."),
        Field("regions", "regions", REGIONS, "Where members are."),
        Field("hardware", "hardware", HARDWARE, "The least hardware."),
        Field("trust", "trust", TRUST, "The least reputation; observed by two gateways or more, or "
              "by the owner's own."),
        Field("service", "service", SERVICE, "What members must keep up."),
        Field("price", "price", PRICE, "The most that a model of the network may cost here, in "
              "credits for a million tokens, and the owner's fee."),
        Field("join", "join", kinds.choice(["open", "semi-open", "private"]), "Who becomes a "
              "member: who qualifies, whom a delegate approves, whom a delegate invites."),
        Field("members_max", "members_max", kinds.whole(), "The most members."),
        Field("cooldown", "cooldown_s", kinds.duration("s"),
              "How long a node that left or was removed stays out."),
        Field("callers", "callers", CALLERS, "Who may send requests. Without it: nobody."),
        Field("isolate", "isolate", kinds.flag(),
              "Members leave the global pool, each by its operator's consent."),
        Field("fallback", "fallback", kinds.choice(["none", "global"]),
              "Where a request goes if no member can take it: nowhere, or to the global pool."),
        Field("running_jobs", "running_jobs", kinds.choice(["finish", "move"]),
              "What becomes of running jobs of a member that is removed."),
        Field("gateways", "gateways", GATEWAYS, "Which gateways may send requests here. Without "
              "it: any; for a private subcloud those of the owner's account."),
        Field("revocation_list_age_max", "revocation_list_age_s_max", kinds.duration("s"),
              "A gateway whose list of revocations is older refuses members with certificates."),
        Field("data", "data", DATA, "What members promise about content."),
        Field("delegate_keys", "delegate_keys", _HEX, "Public keys that sign memberships, "
              "revocations, attestations and tokens; the owner's key stays offline.", many=True),
        Field("ended", "ended", kinds.flag(), "The last version: nothing runs here any more "
              "(`resultity subcloud revoke`)."),
    ),
)  # fmt: skip
ORIGIN_KEYS = frozenset(
    {"format", "network_id", "version", "predecessor_digest", "issued_ms", "owner"}
)
"""What no file has: the command adds it when it signs."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the policy says of a field's value or, for a list, of its length."""

    least: Any = None
    most: Any = None
    items_least: int = 0
    items_most: int | None = None


def bounds_of(part: Part, field: Field) -> Bounds:
    """Find the bounds of a field in the policy's own JSON schema."""
    schema = _properties(part.model)[field.key]
    schema = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
    items_most = schema.get("maxItems")
    items_least = schema.get("minItems", 0)
    if field.many:
        schema = schema.get("items", {})
    return Bounds(schema.get("minimum"), schema.get("maximum"), items_least, items_most)


@functools.cache
def _properties(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties


def default_of(part: Part, field: Field) -> Any:
    """The policy's value if the file does not have the field (None also for required ones)."""
    found = part.model.model_fields[field.key]
    return None if found.is_required() else found.get_default(call_default_factory=True)
