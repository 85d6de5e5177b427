"""The vocabulary: every section and key, its kind, its default, its meaning (swanctl.conf(5), plus ours).

`docs/configuration.md` and the JSON schema are made from this file, so that they cannot differ from
it. Keys of swanctl.conf that Cygnet knows and cannot do yet stand in `LATER`: their default passes,
anything else is refused by name, so that nobody believes in protection that is not there.

Sections and keys with a suffix (`local-1`, `ike-branch`, `id2`) are gathered into one field before
validation (`GATHER`); `check` leaves these fields out of the paths that it reports.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

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

_SCALAR: dict[str, Any] = {"type": ["string", "number"]}
_LIST: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_RULES: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"type": ["string", "object"]}},
        {
            "type": "object",
            "patternProperties": {"^[0-9]+$": {"type": ["string", "object"]}},
            "additionalProperties": False,
        },
    ]
}


def _kind(kind: str, schema: dict[str, Any] | None = None) -> WithJsonSchema:
    return WithJsonSchema({**(schema or {"type": "string"}), "x-kind": kind})


def _words(**aliases: str) -> WithJsonSchema:
    words = [word.replace("_or_", "|") for word in aliases]
    return WithJsonSchema({"enum": words, "x-kind": ", ".join(words)})


YesNo = Annotated[bool, PlainValidator(values.boolean), _kind("yes or no", {"type": ["boolean", "string"]})]
YesNoAuto = Annotated[
    bool | None,
    PlainValidator(values.boolean_or_auto),
    _kind("yes, no or auto", {"type": ["boolean", "string"]}),
]
Time = Annotated[float, PlainValidator(values.seconds), _kind("time", _SCALAR)]
Octets = Annotated[int, PlainValidator(values.octet_count), _kind("bytes", _SCALAR)]
MaybeTime = Annotated[float | None, PlainValidator(values.seconds), _kind("time", _SCALAR)]
MaybeOctets = Annotated[int | None, PlainValidator(values.octet_count), _kind("bytes", _SCALAR)]
MaybePackets = Annotated[int | None, PlainValidator(values.packet_count), _kind("number", _SCALAR)]
Packets = Annotated[int, PlainValidator(values.packet_count), _kind("number", _SCALAR)]
Port = Annotated[int, PlainValidator(values.integer(1, 65535)), _kind("1 to 65535", _SCALAR)]
Count = Annotated[int, PlainValidator(values.integer(0, 1_000_000)), _kind("0 to 1000000", _SCALAR)]
Text = Annotated[str, PlainValidator(values.text), _kind("text")]
Device = Annotated[str, PlainValidator(values.device), _kind("name of a device")]
Texts = Annotated[tuple[str, ...], PlainValidator(values.texts), _kind("list", _LIST)]
OneUrl = Annotated[str, PlainValidator(values.one_url), _kind("URL", _SCALAR)]
Urls = Annotated[tuple[str, ...], PlainValidator(values.urls), _kind("list of URLs", _LIST)]
Hashes = Annotated[tuple[str, ...], PlainValidator(values.password_hashes), _kind("list of hashes", _LIST)]
Files = Annotated[
    tuple[str | bytes, ...], PlainValidator(values.names_or_blobs), _kind("list of files", _LIST)
]
MaybeSecret = Annotated[bytes | None, PlainValidator(values.secret), _kind("secret")]
Secret = Annotated[bytes, PlainValidator(values.secret), _kind("secret")]
MaybeDevice = Annotated[str | None, PlainValidator(values.device), _kind("name")]
MaybeNumber = Annotated[int | None, PlainValidator(values.integer(0, 0xFFFFFFFF)), _kind("number", _SCALAR)]
Spi = Annotated[int, PlainValidator(values.spi), _kind("256 to 0xffffffff", _SCALAR)]
Name = Annotated[str, PlainValidator(values.name), _kind("name")]
Endpoints = Annotated[values.Endpoints, PlainValidator(values.endpoints), _kind("list of addresses", _LIST)]
Addresses = Annotated[
    tuple[IpAddress, ...], PlainValidator(values.addresses), _kind("list of addresses", _LIST)
]
Networks = Annotated[
    tuple[TrafficSelector, ...], PlainValidator(values.networks), _kind("list of prefixes", _LIST)
]
Domains = Annotated[tuple[str, ...], PlainValidator(values.domains), _kind("list of domains", _LIST)]
VirtualAddresses = Annotated[
    tuple[IpAddress, ...], PlainValidator(values.virtual_addresses), _kind("list of addresses", _LIST)
]
OneAddress = Annotated[IpAddress, PlainValidator(values.one_address), _kind("address")]
PoolRange = Annotated[AddressRange, PlainValidator(values.pool_addresses), _kind("prefix, range or address")]
Id = Annotated[Identity | None, PlainValidator(identity), _kind("identity")]
Ids = Annotated[tuple[Identity, ...], PlainValidator(identities), _kind("identity", _LIST)]
IkeProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(ike_proposals), _kind("list of proposals", _LIST)
]
EspProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(esp_proposals), _kind("list of proposals", _LIST)
]
AhProposals = Annotated[
    tuple[Proposal, ...] | None, PlainValidator(ah_proposals), _kind("list of proposals", _LIST)
]
Selectors = Annotated[
    tuple[AnySelector, ...] | None, PlainValidator(selectors), _kind("list of selectors", _LIST)
]
Rules = Annotated[NamedRules, PlainValidator(rule_texts), _kind("rules", _RULES)]
AclReference = Annotated[
    str | NamedRules | None,
    PlainValidator(acl_reference),
    _kind("name, or rules", {"anyOf": [{"type": "string"}, _RULES]}),
]
Auth = Annotated[AuthChoice | None, PlainValidator(auth_choice), _kind("psk, pubkey or signature schemes")]

_ACTIONS = {"none": "none", "trap": "trap", "route": "trap", "start": "start", "restart": "start",
            "trap_or_start": "trap_or_start"}  # fmt: skip
StartWord = Annotated[str, PlainValidator(values.choice(**_ACTIONS)), _words(**_ACTIONS)]
_DPD = {
    "clear": "none",
    "none": "none",
    "trap": "trap",
    "route": "trap",
    "start": "start",
    "restart": "start",
}
DpdWord = Annotated[str, PlainValidator(values.choice(**_DPD)), _words(**_DPD)]


def _key(default: Any, description: str, shown: str | None = None) -> Any:
    """A key; `shown` is its default as people write it where the value does not show it."""
    return Field(
        default=default,
        description=description,
        json_schema_extra=None if shown is None else {"x-default": shown},
    )


class Section(BaseModel):
    """A section: unknown keys are errors, keys in `LATER` are taken with their default only."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, frozen=True, hide_input_in_errors=True
    )

    LATER: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that are known and not supported yet, with the values that mean their default."""
    WHY: ClassVar[dict[str, str]] = {}
    """Of these, why some are not."""
    GATHER: ClassVar[dict[str, str]] = {}
    """Prefix of a key to the field that gathers the keys with it."""
    GATHER_VALUES: ClassVar[frozenset[str]] = frozenset()
    """Prefixes whose keys are values; the others' are sections."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        result: dict[str, Any] = {}
        for key, value in data.items():
            if key in cls.__pydantic_fields__ and key not in cls.GATHER.values():
                result[key] = value
            elif key in cls.LATER and values.is_default(value, cls.LATER[key]):
                continue
            elif (prefix := cls.prefix_of(key, value)) is not None:
                result.setdefault(cls.GATHER[prefix], {})[key] = value
            else:
                result[key] = value
        return result

    @classmethod
    def prefix_of(cls, key: object, value: Any) -> str | None:
        """Which prefix of `GATHER` a key that is no field has."""
        for prefix in cls.GATHER:
            if str(key).startswith(prefix) and (prefix in cls.GATHER_VALUES) != isinstance(value, dict):
                return prefix
        return None


class CertificateFile(Section):
    LATER = {"handle": (), "slot": (), "module": ()}

    file: Text = Field(description="File of the certificate, PEM or DER.")


class Local(Section):
    GATHER = {"cert": "certificate_sections"}

    round: Count = _key(
        0,
        "Order of the rounds (RFC 4739). Who is asked proves itself by `psk` and `pubkey` only, where it has "
        "several; two where the peer does EAP.",
    )
    auth: Auth = _key(
        None,
        "How this gateway proves who it is: `psk`, `pubkey` (a certificate and its key), or with certain "
        "signatures only: `ike:rsa/pss-sha256`, `ike:ecdsa-sha384`, `ike:ed25519`, joined by `-`; "
        "`eap` (any method that makes a key) or one method: `eap-mschapv2`, `eap-tls`, `eap-ttls`, "
        "`eap-peap`, `eap-md5`, `eap-gtc`; `eap-ttls-pap` and "
        "`eap-ttls-mschapv2` say so inside the tunnel without EAP. "
        "`null`: it proves nothing (RFC 7619). "
        "With IKEv1, as a second round or (hybrid) the only one: `xauth`.",
        "pubkey",
    )
    eap_id: Id = _key(None, "Our name in EAP; its password stands in `secrets.eap`.", "id")
    xauth_id: Id = _key(None, "Our name in XAUTH; its password stands in `secrets.xauth`.", "id")
    aaa_id: Id = _key(
        None, "Whose certificate the server of EAP-TLS, TTLS or PEAP must have.", "the gateway's identity"
    )
    id: Id = _key(
        None,
        "This gateway's identity: address, name, `user@name`, distinguished name, or with prefix (`keyid:`).",
        "the certificate's subject, else the local address",
    )
    certs: Files = _key(
        (),
        "Certificates to authenticate with, the first whose key is there; files, relative ones in `x509/`.",
    )
    certificate_sections: dict[str, CertificateFile] = _key({}, "`cert<suffix>`: a certificate as a section.")
    pubkeys: Files = _key(
        (),
        "Public keys to authenticate with, without a certificate (RFC 7670); files, relative in `pubkey/`.",
    )


class Remote(Section):
    LATER = {"cert_policy": (), "ca_id": ()}
    GATHER = {"cacert": "ca_certificate_sections", "cert": "certificate_sections"}

    round: Count = _key(0, "Order of the rounds (RFC 4739): a certificate, then EAP, for example.")
    auth: Auth = _key(
        None,
        "How the peer must prove who it is; as for `local`, and `eap-dynamic` (what the peer names) and "
        "`eap-radius` (a RADIUS server authenticates it). `eap-tls`, `eap-ttls` or `eap-peap` on both sides: "
        "EAP alone (RFC 5998). `null`: it proves nothing, and the connection is for such peers alone "
        "(RFC 7619).",
        "pubkey",
    )
    eap_id: Id = _key(None, "Names of users that are taken in EAP; may hold wildcards.", "%any")
    groups: Texts = _key(
        (), "The user must be a member of one of these (`secrets.eap<suffix>.groups`, or what RADIUS says)."
    )
    id: Id = _key(
        None,
        "The identity that the peer must prove; may hold wildcards: `*.example.org`, `*@example.org`.",
        "%any",
    )
    certs: Files = _key((), "Accept only these certificates; files, relative ones in `x509/`.")
    certificate_sections: dict[str, CertificateFile] = _key({}, "`cert<suffix>`: a certificate as a section.")
    pubkeys: Files = _key(
        (),
        "Accept only these public keys, whatever certificate comes with them or none (RFC 7670); files, "
        "relative ones in `pubkey/`. Where `id` is no single one, the key's number is the peer's identity.",
    )
    cacerts: Files = _key(
        (),
        "Accept only certificates under these authorities; files, relative ones in `x509ca/`.",
        "all loaded",
    )
    ca_certificate_sections: dict[str, CertificateFile] = _key(
        {}, "`cacert<suffix>`: an authority as a section."
    )
    revocation: Annotated[
        str,
        PlainValidator(values.choice(strict="strict", ifuri="ifuri", relaxed="relaxed")),
        _words(
            strict="of every certificate under the authority it must be known that it was not revoked",
            ifuri="of those that say where to ask, or whose authority has `crl_uris` or `ocsp_uris`",
            relaxed="only what is known to be revoked is refused",
        ),
    ] = _key("relaxed", "How much must be known of whether the peer's certificates were revoked.")


class Manual(Section):
    """`children.<child>.manual`"""

    spi_in: Spi = Field(description="SPI that this gateway receives with; the peer sends with it.")
    spi_out: Spi = Field(description="SPI that it sends with.")
    encryption_key_in: MaybeSecret = _key(
        None,
        "Key of the cipher, `0x` and hex digits: what this gateway receives is encrypted with it.",
        "none",
    )
    integrity_key_in: MaybeSecret = _key(
        None, "Key of the integrity algorithm, for what it receives.", "none"
    )
    encryption_key_out: MaybeSecret = _key(None, "The same for what it sends.", "none")
    integrity_key_out: MaybeSecret = _key(None, "The same for what it sends.", "none")
    replay_window: Annotated[
        int, PlainValidator(values.replay_window), _kind("0, or 32 to 4096", _SCALAR)
    ] = _key(
        0, "Anti-replay; 0: off, for numbers begin anew at each restart of either end (RFC 4303, 3.3.3)."
    )


class Child(Section):
    LATER = {
        "sha256_96": ("no",), "updown": (), "hostaccess": ("no",), "policies": ("yes",),
        "policies_fwd_out": ("no",), "inactivity": ("0s", "0"), "reqid": ("0",),

        "mark_in": ("0/0", "0/0x00000000", "0"), "mark_in_sa": ("no",),
        "mark_out": ("0/0", "0/0x00000000", "0"),
        "set_mark_in": ("0/0", "0/0x00000000", "0"),
        "label": (), "label_mode": ("system", "simple"),
        "per_cpu_sas": ("no",), "icmp": ("no",),
    }  # fmt: skip
    WHY = {
        "mark_in": "cannot be had: SAs are found by their SPI, and a TUN device carries no marks",
        "mark_out": "cannot be had: a TUN device does not show packets' marks; "
        "`ip rule` takes them to an interface",
        "set_mark_in": "cannot be had: a TUN device carries no marks; "
        "nftables marks what comes from an interface",
    }

    interface: MaybeDevice = _key(
        None,
        "Route-based: a TUN device of this name is made, and what the operator routes into it goes through "
        "this child, as far as its selectors allow. (swanctl's key of this name means another thing.)",
        "the connection's",
    )
    if_id_in: MaybeNumber = _key(
        None, "Number of the interface; the same in both directions.", "the connection's"
    )
    if_id_out: MaybeNumber = _key(None, "The same.", "the connection's")
    manual: Manual | None = _key(
        None,
        "SPIs and keys of this child, which nobody negotiates: a section. It needs one proposal.",
        "none",
    )
    acl: AclReference = _key(
        None,
        "What is protected, as an access list: a name in `acls`, or the rules themselves. Source is this "
        "side, destination the peer's. Instead of `local_ts` and `remote_ts`.",
    )
    sa: Annotated[
        str,
        PlainValidator(values.choice(**{"per-rule": "per-rule", "aggregate": "aggregate"})),
        _words(**{"per-rule": "", "aggregate": ""}),
    ] = _key(
        "per-rule", "With `acl`: an SA pair for each permit rule, as switches do, or one for the whole list."
    )
    local_ts: Selectors = _key(
        None,
        "What is protected on this side: `10.1.0.0/16`, `10.1.0.1-10.1.0.9`, `dynamic` (the tunnel's own "
        "end), each with `[protocol/port]`: `10.1.0.0/16[tcp/80-90]`.",
        "dynamic",
    )
    remote_ts: Selectors = _key(None, "What is protected on the peer's side.", "dynamic")
    esp_proposals: EspProposals = _key(
        None,
        "Algorithms of the Child SA, best first; a key exchange in it means PFS when rekeying.",
        "default, or none with ah_proposals",
    )
    ah_proposals: AhProposals = _key(
        None,
        "Algorithms of AH instead of ESP: `sha256-x25519-esn`, `default`. AH encrypts nothing, and passes no "
        "NAT. With esp_proposals too, those come first.",
        "none, or `default` with bundle",
    )
    bundle: YesNo = _key(
        False,
        "AH around ESP, both at once (switches call it `transform ah-esp`), instead of one of them: "
        "ah_proposals around esp_proposals. Not behind a NAT.",
        "no",
    )
    mode: Annotated[
        str,
        PlainValidator(
            values.word_or_later(
                ("tunnel", "transport", "pass", "drop"), ("transport_proxy", "iptfs", "beet")
            )
        ),
        _words(tunnel="", transport="", **{"pass": ""}, drop=""),
    ] = _key(
        "tunnel",
        "`tunnel` and `transport` (between the two ends themselves) protect; `pass` leaves what matches "
        "alone, `drop` discards it.",
    )
    ipcomp: YesNo = _key(False, "Compress what gets shorter (IPComp, DEFLATE), if the peer does too.", "no")
    tfc_padding: Annotated[
        int, PlainValidator(values.padding), _kind("octets, or `mtu`", {"type": ["integer", "string"]})
    ] = _key(0, "Fill inner packets up to this size, or to what fits (`mtu`), so that none tells its own.")
    dummy_interval: Time = _key(
        0.0, "After this long without a packet send one that says nothing (RFC 4303, 2.6); 0: never.", "0s"
    )
    set_mark_out: Annotated[int, PlainValidator(values.mark), _kind("number", _SCALAR)] = _key(
        0, "Mark of sealed packets, for the host's routing and filters: the lower 16 bits of the fwmark."
    )
    hw_offload: Annotated[
        str,
        PlainValidator(values.choice(no="no", auto="auto", yes="crypto", crypto="crypto", packet="packet")),
        _words(
            no="",
            auto="as much as there is",
            crypto="the device encrypts, where it can",
            packet="the device does all of IPsec, or the SA is refused",
            yes="as `crypto`",
        ),
    ] = _key("no", "Whether the network device helps (engine `kernel`).")
    rekey_time: Time = _key(3600.0, "Age at which the Child SA is replaced; 0: never.", "1h")
    life_time: MaybeTime = _key(None, "Age at which it is removed if that failed.", "rekey_time + 10 %")
    rand_time: MaybeTime = _key(
        None, "A random part of this is taken from rekey_time.", "life_time - rekey_time"
    )
    rekey_bytes: Octets = _key(0, "Bytes after which the Child SA is replaced; 0: any number.")
    life_bytes: MaybeOctets = _key(
        None, "Bytes after which it is removed if that failed.", "rekey_bytes + 10 %"
    )
    rand_bytes: MaybeOctets = _key(
        None, "A random part of this is taken from rekey_bytes.", "life_bytes - rekey_bytes"
    )
    rekey_packets: Packets = _key(0, "Packets after which the Child SA is replaced; 0: any number.")
    life_packets: MaybePackets = _key(
        None, "Packets after which it is removed if that failed.", "rekey_packets + 10 %"
    )
    rand_packets: Packets = _key(
        None, "A random part of this is taken from rekey_packets.", "life_packets - rekey_packets"
    )
    start_action: StartWord = _key(
        "none", "When loaded: `start` negotiates at once, `trap` when traffic comes, `trap|start` both."
    )
    close_action: StartWord = _key("none", "When the peer closes it: the same words.")
    dpd_action: DpdWord = _key(
        "none", "When the peer is dead: `clear`, `trap`, or `start` to negotiate again.", "clear"
    )
    replay_window: Annotated[int, PlainValidator(values.integer(32, 4096)), _kind("32 to 4096", _SCALAR)] = (
        _key(32, "Packets that may arrive late and are still taken.")
    )
    priority: Annotated[int, PlainValidator(values.integer(0, (1 << 31) - 2)), _kind("number", _SCALAR)] = (
        _key(0, "Order among the policies, lower first; 0: the order in which they were loaded.")
    )
    copy_df: Annotated[
        str,
        PlainValidator(values.choice(yes="copy", no="clear", copy="copy", clear="clear", set="set")),
        _words(yes="", no="", set=""),
    ] = _key("copy", "DF of the outer header: the inner one's (`yes`), never (`no`), always (`set`).", "yes")
    fragment: Annotated[
        str, PlainValidator(values.choice(outside="outside", inside="inside")), _words(outside="", inside="")
    ] = _key(
        "outside",
        "Where an IPv4 packet that may be cut is cut if it does not fit: the sealed one (`outside`) or the "
        "inner one (`inside`).",
    )
    copy_ecn: YesNo = _key(True, "Copy ECN to the outer header and back (RFC 6040).", "yes")
    copy_dscp: Annotated[
        str,
        PlainValidator(values.choice(out="out", **{"in": "in"}, yes="yes", no="no")),
        _words(out="", **{"in": ""}, yes="", no=""),
    ] = _key("out", "Copy DSCP to the outer header (`out`), from it (`in`), both (`yes`) or neither (`no`).")


class Connection(Section):
    LATER = {
        "dscp": ("000000",), "mobike": ("yes", "no"),
        "mediation": ("no",), "mediated_by": (), "mediation_peer": (),
    }  # fmt: skip
    GATHER = {"local": "local_rounds", "remote": "remote_rounds"}

    version: Annotated[int, PlainValidator(values.ike_version), _words(**{"2": "", "1": "", "0": ""})] = _key(
        2, "IKE version; 0: start with 2 and answer both. What IKEv1 cannot say makes it 2."
    )
    ppk_id: Id = _key(
        None,
        "The postquantum pre-shared key (`secrets.ppk<suffix>`) that goes into the keys as well: before "
        "IKE_AUTH where the peer can (RFC 9867), else with it (RFC 8784).",
    )
    ppk_required: YesNo = _key(False, "There is no IKE SA without it.", "no")
    aggressive: YesNo = _key(
        False,
        "IKEv1: aggressive mode instead of main mode. Shows identities; with a pre-shared key see "
        "`options.i_dont_care_about_security_and_use_aggressive_mode_psk`.",
        "no",
    )
    pull: YesNo = _key(
        True, "IKEv1: the client asks for its settings (mode config); `no`: the gateway sends them.", "yes"
    )
    local_addrs: Endpoints = _key(
        ((), ()),
        "Addresses of this gateway for this connection; the first single one is where it starts from.",
        "%any",
    )
    remote_addrs: Endpoints = _key(
        ((), ()),
        "Addresses of the peer: address, prefix, range, one host name. `%any`: anyone may start, we cannot.",
        "%any",
    )
    local_port: Port = _key(500, "UDP port that we start from.")
    remote_port: Port = _key(500, "UDP port that the peer listens on.")
    vips: VirtualAddresses = _key(
        (),
        "Virtual addresses to ask the peer for: `0.0.0.0` and `::` any of their family, or certain ones. "
        "`dynamic` in `local_ts` means the address that comes.",
    )
    translate: Networks = _key(
        (),
        "With `vips`: networks behind this gateway whose hosts go out under our virtual address (Efficient "
        "VPN's client mode); `local_ts` stays `dynamic`.",
    )
    pools: Texts = _key(
        (),
        "Pools that peers get virtual addresses from: names in `pools`, addresses (`10.3.0.7`, "
        "`10.3.0.0/24`), or `radius` for what the RADIUS server says. `dynamic` in `remote_ts` means the "
        "peer's.",
    )
    proposals: IkeProposals = _key(
        None, "Algorithms of the IKE SA, best first: `aes256gcm16-prfsha384-x25519`; `default`.", "default"
    )
    encap: YesNoAuto = _key(
        None,
        "Force UDP encapsulation, also where there is no NAT. `auto`: where the engine runs in"
        " userspace, which moves encapsulated packets in batches and plain ESP packet by packet.",
        "auto",
    )
    dpd_delay: Time = _key(
        0.0, "After this long without a packet the peer is asked whether it lives; 0: never.", "0s"
    )
    dpd_mode: Annotated[
        str,
        PlainValidator(values.choice(**{"periodic": "periodic", "on-demand": "on-demand"})),
        _words(**{"periodic": "", "on-demand": ""}),
    ] = _key(
        "periodic",
        "`on-demand`: only when packets went out meanwhile and none came in (RFC 3706, section 5.5).",
    )
    dpd_timeout: Time = _key(
        0.0, "IKEv1: how long the peer may leave such questions unanswered; 0: 150 s.", "0s"
    )
    fragmentation: Annotated[
        str,
        PlainValidator(values.choice(yes="yes", accept="accept", force="force", no="no")),
        _words(yes="", accept="", force="", no=""),
    ] = _key("yes", "Send large IKE messages in fragments (RFC 7383).")
    send_certreq: YesNo = _key(True, "Ask the peer for a certificate of our authorities.", "yes")
    ocsp: Annotated[
        str,
        PlainValidator(values.choice(reply="reply", request="request", both="both", never="never")),
        _words(reply="", request="", both="", never=""),
    ] = _key(
        "reply",
        "OCSP in IKE (RFC 4806): `request` the peer to bring along what its CA says of it now, `reply` "
        "to a peer that asks for ours, `both` or `never`.",
    )
    send_cert: Annotated[
        str,
        PlainValidator(values.choice(ifasked="ifasked", always="always", never="never")),
        _words(ifasked="", always="", never=""),
    ] = _key("ifasked", "When to send our certificate.")
    keyingtries: Count = _key(1, "Rounds of retransmissions before starting is given up; 0: never given up.")
    unique: Annotated[
        str,
        PlainValidator(values.choice(no="no", never="never", keep="keep", replace="replace")),
        _words(no="", never="", keep="", replace=""),
    ] = _key(
        "no",
        "What a second IKE SA with the same identities does: `no` replaces the first if the peer says that "
        "it has restarted, `never` not even then, `replace` always, `keep` refuses the second.",
    )
    reauth_time: Time = _key(
        0.0,
        "Age at which the IKE SA is set up anew, with its Child SAs, before the old one is closed; 0: never.",
        "0s",
    )
    childless: Annotated[
        str,
        PlainValidator(values.choice(allow="allow", prefer="prefer", force="force", never="never")),
        _words(allow="", prefer="", force="", never=""),
    ] = _key(
        "allow",
        "IKE SAs without a first Child SA (RFC 6023): `allow` them, `prefer` them where the peer does them,"
        " `force` them, or `never`.",
    )
    rekey_time: Time = _key(14400.0, "Age at which the IKE SA is replaced; 0: never.", "4h")
    over_time: MaybeTime = _key(
        None, "How long after that it is closed if that failed.", "10 % of the longest time"
    )
    rand_time: MaybeTime = _key(None, "A random part of this is taken from rekey_time.", "over_time")
    acls: dict[Name, Rules] = _key(
        {}, "Access lists of this connection alone; they come before those in `acls`."
    )
    interface: MaybeDevice = _key(
        None, "Route-based: the TUN device of its children (see there).", "cygnet<if_id>, or none"
    )
    if_id_in: MaybeNumber = _key(None, "Route-based: the interface's number.", "none")
    if_id_out: MaybeNumber = _key(None, "The same: one interface serves both directions.", "none")
    local_rounds: dict[str, Local] = _key({}, "`local<suffix>`: how this gateway authenticates.")
    remote_rounds: dict[str, Remote] = _key({}, "`remote<suffix>`: how the peer authenticates.")
    children: dict[Name, Child] = _key({}, "What is protected: one section for each child.")


class Shared(Section):
    GATHER = {"id": "ids"}
    GATHER_VALUES = frozenset({"id"})

    secret: Secret = Field(
        repr=False, description="The secret: text, `0x` and hex digits, or `0s` and base64."
    )
    ids: dict[str, Ids] = _key({}, "`id<suffix>`: identities of those who share it; none: everybody.")


class Password(Section):
    GATHER = {"id": "ids"}
    GATHER_VALUES = frozenset({"id"})

    secret: MaybeSecret = Field(
        default=None,
        repr=False,
        description="The password: text, `0x` and hex digits, or `0s` and base64. Serves every method.",
        json_schema_extra={"x-default": ""},
    )
    hash: Hashes = Field(
        default=(),
        repr=False,
        description="Instead of the password what is kept of it (`cygnet client hash` makes them): "
        "`$scrypt$...` for EAP-GTC, PAP and XAUTH, `$nt$...` for EAP-MSCHAPv2.",
    )
    groups: Texts = _key((), "Groups that the user is a member of; see `remote.groups`.")
    ids: dict[str, Ids] = _key({}, "`id<suffix>`: names of the user.")


class Key(Section):
    file: Text = Field(
        description="File of the private key, PEM, DER or PKCS#12; relative ones in `private/`."
    )
    secret: MaybeSecret = Field(default=None, repr=False, description="Passphrase of an encrypted key.")


class Secrets(Section):
    GATHER = {
        "ike": "ike", "eap": "eap", "xauth": "xauth", "ntlm": "ntlm", "ppk": "ppk", "private": "private",
        "rsa": "rsa", "ecdsa": "ecdsa", "pkcs8": "pkcs8", "pkcs12": "pkcs12",
    }  # fmt: skip

    ike: dict[str, Shared] = _key({}, "`ike<suffix>`: pre-shared keys.")
    users: Files = _key(
        (),
        "Files of users, one a line: a name, what is kept of the password (`hash` of an `eap` section, one or"
        " two), and `groups=a,b`; `#` begins a comment.",
    )
    eap: dict[str, Password] = _key({}, "`eap<suffix>`: the password of a user.")
    xauth: dict[str, Password] = _key({}, "`xauth<suffix>`: the same.")
    ntlm: dict[str, Shared] = _key({}, "`ntlm<suffix>`: the NT hash of a user's password, 16 octets.")
    ppk: dict[str, Shared] = _key(
        {}, "`ppk<suffix>`: postquantum pre-shared keys (RFC 8784), named by their `id`."
    )
    private: dict[str, Key] = _key(
        {}, "`private<suffix>`: a private key, and its passphrase if it is encrypted."
    )
    rsa: dict[str, Key] = _key({}, "`rsa<suffix>`: the same, in `rsa/`.")
    ecdsa: dict[str, Key] = _key({}, "`ecdsa<suffix>`: the same, in `ecdsa/`.")
    pkcs8: dict[str, Key] = _key({}, "`pkcs8<suffix>`: the same, in `pkcs8/`.")
    pkcs12: dict[str, Key] = _key({}, "`pkcs12<suffix>`: a key with its certificates, in `pkcs12/`.")


class Pool(Section):
    addrs: PoolRange = Field(
        description="The addresses: one prefix (without its first and its last), one range, or one address."
    )
    dns: Addresses = _key((), "DNS servers that clients are told.")
    nbns: Addresses = _key((), "WINS servers.")
    dhcp: Addresses = _key((), "DHCP servers.")
    netmask: Texts = _key((), "Netmasks; kept, clients are not told.")
    server: Texts = _key((), "Servers; kept, clients are not told.")
    subnet: Networks = _key((), "Protected subnets that clients are told.")
    p_cscf: Texts = _key((), "SIP proxies (RFC 7651); kept, clients are not told.")
    split_include: Networks = _key((), "Subnets to send through the tunnel: as `subnet`.")
    split_exclude: Networks = _key((), "Subnets not to; only IKEv1 can tell it.")
    domains: Domains = _key(
        (), "Domains that the DNS servers answer for (RFC 8598); of IKEv1 clients the first is the default."
    )
    banner: Text = _key("", "Text that IKEv1 clients show to their user.")
    save_password: YesNo = _key(False, "IKEv1 clients may keep their user's password.", "no")


class Authority(Section):
    LATER = {"handle": (), "slot": (), "module": ()}

    cacert: Files = _key((), "The authority's certificate: a file, relative ones in `x509ca/`.")
    file: Text = _key("", "The same, by absolute path.")
    crl_uris: Urls = _key((), "Where its revocation lists are, besides where its certificates say.")
    ocsp_uris: Urls = _key((), "Who answers OCSP for it, besides whom its certificates name.")
    cert_uri_base: OneUrl = _key(
        "",
        "Where its certificates are, with `options.hash_and_url`: by their SHA-1 in hex, added to this.",
    )


class Options(Section):
    """What belongs to the whole gateway; names as in strongswan.conf's charon section where it has them."""

    control_socket: Text = _key("/run/cygnet/cygnet.vici", "Path of the control socket (VICI).")
    control_socket_group: Text = _key(
        "", "Group that may use the control socket besides its owner.", "nobody else"
    )
    engine: Annotated[
        str,
        PlainValidator(values.word_or_later(("auto", "kernel", "native", "portable"), ())),
        _words(
            auto="`native` where it was built with this installation, else `portable`",
            kernel="the kernel's own ESP and AH, over XFRM netlink; only by this name",
            native="in Rust",
            portable="in Python",
        ),
    ] = _key("auto", "What moves the packets.")
    gso: Annotated[str, PlainValidator(values.choice(auto="auto", off="off")), _words(auto="", off="")] = (
        _key("auto", "Batches by segmentation offload (TSO, UDP_SEGMENT, UDP_GRO): probed, or off.")
    )
    listen: Addresses = _key((), "Local addresses to listen on.", "all")
    port: Port = _key(500, "UDP port for IKE.")
    port_nat_t: Port = _key(4500, "UDP port for IKE and encapsulated ESP.")
    tun: Device = _key("cygnet0", "Name of the TUN device.")
    state_directory: Text = _key("/var/lib/cygnet", "Where leases are kept over a restart.")
    resolver: Text = _key(
        "auto",
        "Who is told the DNS servers that a gateway gave us: `resolved` (systemd), `resolvconf`, `none`, or"
        " the path of a file like /etc/resolv.conf. `auto`: the first of these that is here, else"
        " /etc/resolv.conf.",
    )
    default_action: Annotated[
        str, PlainValidator(values.choice(bypass="bypass", discard="discard")), _words(bypass="", discard="")
    ] = _key(
        "bypass",
        "What happens to traffic that no policy matches: it is left alone, or discarded. `discard` concerns"
        " what this machine sends, receives and forwards, but IKE, ESP, loopback, neighbour discovery,"
        " and what it says and hears of packets that are too big.",
    )
    log_level: Annotated[
        str,
        PlainValidator(values.choice(error="error", warning="warning", info="info", debug="debug")),
        _words(error="", warning="", info="", debug=""),
    ] = _key("info", "What is logged.")
    retransmit_timeout: Time = _key(4.0, "Wait before the first retransmission.", "4s")
    retransmit_base: Annotated[float, PlainValidator(values.decimal(1, 10)), _kind("1 to 10", _SCALAR)] = (
        _key(1.8, "Each wait is this times the last.")
    )
    retransmit_tries: Annotated[int, PlainValidator(values.integer(0, 50)), _kind("0 to 50", _SCALAR)] = _key(
        5, "Retransmissions before the peer counts as unreachable."
    )
    retransmit_jitter: Annotated[int, PlainValidator(values.integer(0, 100)), _kind("0 to 100", _SCALAR)] = (
        _key(0, "Percent by which each wait is randomly shortened.")
    )
    retransmit_limit: Time = _key(0.0, "Longest single wait; 0: none.", "0s")
    i_dont_care_about_security_and_use_aggressive_mode_psk: Annotated[
        str,
        PlainValidator(values.choice(no="no", yes="yes", force="force")),
        _words(no="", yes="", force=""),
    ] = _key(
        "no",
        "IKEv1: answer aggressive mode with a pre-shared key. Whoever asks gets a hash from which the key can"
        " be guessed offline: keys under 20 octets are refused, unless `force`.",
    )
    half_open_timeout: Time = _key(30.0, "How long a peer may take to finish a first negotiation.", "30s")
    cookie_threshold: Count = _key(30, "Half-open IKE SAs from which on cookies are asked for; 0: never.")
    cookie_threshold_ip: Count = _key(3, "The same for one source address.")
    block_threshold: Count = _key(
        5, "Half-open IKE SAs of one source; beyond, a new one takes the oldest one's place; 0: no limit."
    )
    init_limit_half_open: Count = _key(10_000, "The same for all sources together.")
    hash_and_url: YesNo = _key(
        False,
        "Certificates by hash and URL (RFC 7296, 3.6): fetched from `authorities.<name>.cert_uri_base` "
        "alone, though their sender is nobody yet, and sent so to peers that fetch.",
        "no",
    )
    keep_alive: Time = _key(20.0, "Interval of NAT keepalives; 0: none.", "20s")
    delete_rekeyed_delay: Time = _key(5.0, "How long a replaced inbound SA still receives.", "5s")
    fragment_size: Annotated[
        int, PlainValidator(values.integer(576, 65535)), _kind("576 to 65535", _SCALAR)
    ] = _key(1280, "Size of IP packets from which on IKE messages are sent in fragments.")


class RadiusServer(Section):
    address: OneAddress = Field(description="Address of the server.")
    secret: Secret = Field(repr=False, description="The secret that it shares with us.")
    auth_port: Port = _key(1812, "UDP port for authentication.")
    acct_port: Port = _key(1813, "UDP port for accounting.")


class RadiusChanges(Section):
    enable: YesNo = _key(False, "Take Disconnect-Request and CoA-Request (RFC 5176).", "no")
    listen: OneAddress | None = _key(None, "Local address to listen on.", "all")
    port: Port = _key(3799, "UDP port to listen on.")
    secret: MaybeSecret = Field(
        default=None,
        repr=False,
        description="The secret of those who may send them.",
        json_schema_extra={"x-default": ""},
    )


class Radius(Section):
    """RADIUS servers that authenticate peers (`remote.auth = eap-radius`) and are told what peers use."""

    servers: dict[Name, RadiusServer] = _key(
        {}, "The servers by name, tried in this order; one that is silent is passed over for a minute."
    )
    nas_identifier: Text = _key("cygnet", "What we call ourselves (NAS-Identifier).")
    accounting: YesNo = _key(False, "Send accounting records, for users authenticated by EAP.", "no")
    accounting_interval: Time = _key(
        0.0, "Interim records this often; what the server says with Acct-Interim-Interval wins.", "0s"
    )
    retransmit_timeout: Time = _key(2.0, "Wait before a request is repeated; then 1.4 times as long.", "2s")
    retransmit_tries: Annotated[int, PlainValidator(values.integer(1, 10)), _kind("1 to 10", _SCALAR)] = _key(
        3, "How often a request is sent before the next server is asked."
    )
    dae: RadiusChanges = Field(
        default_factory=RadiusChanges, description="What servers may tell us: to disconnect, to change."
    )


class Root(Section):
    options: Options = Field(default_factory=Options, description="The gateway itself.")
    acls: dict[Name, Rules] = _key({}, "Access lists, by name.")
    connections: dict[Name, Connection] = _key({}, "Connections, by name.")
    secrets: Secrets = Field(
        default_factory=Secrets, description="Pre-shared keys, passphrases, private keys."
    )
    pools: dict[Name, Pool] = _key(
        {}, "Pools of virtual addresses, by name: what connections with `pools` lease to their peers."
    )
    authorities: dict[Name, Authority] = _key({}, "Certification authorities, by name.")
    radius: Radius = Field(default_factory=Radius, description="RADIUS servers.")
