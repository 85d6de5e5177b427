"""What a key may hold: each kind with its validator, and what the schema and documentation call it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from cygnet.auth.identity import Identity
from cygnet.config import values
from cygnet.config.typed import (
    AuthChoice,
    NamedRules,
    acl_reference,
    ah_proposals,
    auth_choice,
    esp_proposals,
    identities,
    identity,
    ike_proposals,
    rule_texts,
    selectors,
)
from cygnet.crypto.proposals import Proposal
from cygnet.ike.configuration import AddressRange
from cygnet.policy.selectors import AnySelector, IpAddress, TrafficSelector

SCALAR: dict[str, Any] = {"type": ["string", "number"]}
LIST: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
RULES: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": ["string", "object"]}},
        {
            "type": "object",
            "patternProperties": {"^[0-9]+$": {"type": ["string", "object"]}},
            "additionalProperties": False,
        },
    ]
}


def kind(kind: str, schema: dict[str, Any] | None = None) -> WithJsonSchema:
    return WithJsonSchema({**(schema or {"type": "string"}), "x-kind": kind})


def words(**aliases: str) -> WithJsonSchema:
    words = [word.replace("_or_", "|") for word in aliases]
    return WithJsonSchema({"enum": words, "x-kind": ", ".join(words)})


YesNo = Annotated[bool, PlainValidator(values.boolean), kind("yes or no", {"type": ["boolean", "string"]})]
YesNoAuto = Annotated[
    bool | None,
    PlainValidator(values.boolean_or_auto),
    kind("yes, no or auto", {"type": ["boolean", "string"]}),
]
Time = Annotated[float, PlainValidator(values.seconds), kind("time", SCALAR)]
Octets = Annotated[int, PlainValidator(values.octet_count), kind("bytes", SCALAR)]
MaybeTime = Annotated[float | None, PlainValidator(values.seconds), kind("time", SCALAR)]
MaybeOctets = Annotated[int | None, PlainValidator(values.octet_count), kind("bytes", SCALAR)]
MaybePackets = Annotated[int | None, PlainValidator(values.packet_count), kind("number", SCALAR)]
Packets = Annotated[int, PlainValidator(values.packet_count), kind("number", SCALAR)]
Port = Annotated[int, PlainValidator(values.integer(1, 65535)), kind("1 to 65535", SCALAR)]
Count = Annotated[int, PlainValidator(values.integer(0, 1_000_000)), kind("0 to 1000000", SCALAR)]
Text = Annotated[str, PlainValidator(values.text), kind("text")]
Device = Annotated[str, PlainValidator(values.device), kind("name of a device")]
Texts = Annotated[tuple[str, ...], PlainValidator(values.texts), kind("list", LIST)]
OneUrl = Annotated[str, PlainValidator(values.one_url), kind("URL", SCALAR)]
Urls = Annotated[tuple[str, ...], PlainValidator(values.urls), kind("list of URLs", LIST)]
Hashes = Annotated[tuple[str, ...], PlainValidator(values.password_hashes), kind("list of hashes", LIST)]
Files = Annotated[tuple[str | bytes, ...], PlainValidator(values.names_or_blobs), kind("list of files", LIST)]
MaybeSecret = Annotated[bytes | None, PlainValidator(values.secret), kind("secret")]
Secret = Annotated[bytes, PlainValidator(values.secret), kind("secret")]
MaybeDevice = Annotated[str | None, PlainValidator(values.device), kind("name")]
MaybeNumber = Annotated[int | None, PlainValidator(values.integer(0, 0xFFFFFFFF)), kind("number", SCALAR)]
Spi = Annotated[int, PlainValidator(values.spi), kind("256 to 0xffffffff", SCALAR)]
Name = Annotated[str, PlainValidator(values.name), kind("name")]
Endpoints = Annotated[values.Endpoints, PlainValidator(values.endpoints), kind("list of addresses", LIST)]
Addresses = Annotated[
    tuple[IpAddress, ...], PlainValidator(values.addresses), kind("list of addresses", LIST)
]
Networks = Annotated[
    tuple[TrafficSelector, ...], PlainValidator(values.networks), kind("list of prefixes", LIST)
]
Domains = Annotated[tuple[str, ...], PlainValidator(values.domains), kind("list of domains", LIST)]
VirtualAddresses = Annotated[
    tuple[IpAddress, ...], PlainValidator(values.virtual_addresses), kind("list of addresses", LIST)
]
OneAddress = Annotated[IpAddress, PlainValidator(values.one_address), kind("address")]
PoolRange = Annotated[AddressRange, PlainValidator(values.pool_addresses), kind("prefix, range or address")]
Id = Annotated[Identity | None, PlainValidator(identity), kind("identity")]
Ids = Annotated[tuple[Identity, ...], PlainValidator(identities), kind("identity", LIST)]
IkeProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(ike_proposals), kind("list of proposals", LIST)
]
EspProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(esp_proposals), kind("list of proposals", LIST)
]
AhProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(ah_proposals), kind("list of proposals", LIST)
]
Selectors = Annotated[
    tuple[AnySelector, ...] | None, PlainValidator(selectors), kind("list of selectors", LIST)
]
Rules = Annotated[NamedRules, PlainValidator(rule_texts), kind("rules", RULES)]
AclReference = Annotated[
    str | NamedRules | None,
    PlainValidator(acl_reference),
    kind("name, or rules", {"anyOf": [{"type": "string"}, RULES]}),
]
Auth = Annotated[AuthChoice | None, PlainValidator(auth_choice), kind("psk, pubkey or signature schemes")]

_ACTIONS = {"none": "none", "trap": "trap", "route": "trap", "start": "start", "restart": "start",
            "trap_or_start": "trap_or_start"}  # fmt: skip
StartWord = Annotated[str, PlainValidator(values.choice(**_ACTIONS)), words(**_ACTIONS)]
_DPD = {
    "clear": "none",
    "none": "none",
    "trap": "trap",
    "route": "trap",
    "start": "start",
    "restart": "start",
}
DpdWord = Annotated[str, PlainValidator(values.choice(**_DPD)), words(**_DPD)]
