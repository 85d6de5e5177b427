"""`connections.<name>.children.<child>`: what is protected, and how."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator

from cygnet.config import values
from cygnet.config.model.kinds import (
    SCALAR,
    AclReference,
    AhProposals,
    DpdWord,
    EspProposals,
    MaybeDevice,
    MaybeNumber,
    MaybeOctets,
    MaybePackets,
    MaybeSecret,
    MaybeTime,
    Octets,
    Packets,
    Selectors,
    Spi,
    StartWord,
    Time,
    YesNo,
    kind,
    words,
)
from cygnet.config.model.section import Section, key


class Manual(Section):
    """`children.<child>.manual`"""

    spi_in: Spi = Field(description="SPI that this gateway receives with; the peer sends with it.")
    spi_out: Spi = Field(description="SPI that it sends with.")
    encryption_key_in: MaybeSecret = key(
        None,
        "Key of the cipher, `0x` and hex digits: what this gateway receives is encrypted with it.",
        "none",
    )
    integrity_key_in: MaybeSecret = key(None, "Key of the integrity algorithm, for what it receives.", "none")
    encryption_key_out: MaybeSecret = key(None, "The same for what it sends.", "none")
    integrity_key_out: MaybeSecret = key(None, "The same for what it sends.", "none")
    replay_window: Annotated[int, PlainValidator(values.replay_window), kind("0, or 32 to 4096", SCALAR)] = (
        key(0, "Anti-replay; 0: off, for numbers begin anew at each restart of either end (RFC 4303, 3.3.3).")
    )


class Child(Section):
    LATER: ClassVar[dict[str, tuple[str, ...]]] = {
        "sha256_96": ("no",), "updown": (), "hostaccess": ("no",), "policies": ("yes",),
        "policies_fwd_out": ("no",), "inactivity": ("0s", "0"), "reqid": ("0",),

        "mark_in": ("0/0", "0/0x00000000", "0"), "mark_in_sa": ("no",),
        "mark_out": ("0/0", "0/0x00000000", "0"),
        "set_mark_in": ("0/0", "0/0x00000000", "0"),
        "label": (), "label_mode": ("system", "simple"),
        "per_cpu_sas": ("no",), "icmp": ("no",),
    }  # fmt: skip
    WHY: ClassVar[dict[str, str]] = {
        "mark_in": "cannot be had: SAs are found by their SPI, and a TUN device carries no marks",
        "mark_out": "cannot be had: a TUN device does not show packets' marks; "
        "`ip rule` takes them to an interface",
        "set_mark_in": "cannot be had: a TUN device carries no marks; "
        "nftables marks what comes from an interface",
    }

    interface: MaybeDevice = key(
        None,
        "Route-based: a TUN device of this name is made, and what the operator routes into it goes through "
        "this child, as far as its selectors allow. (swanctl's key of this name means another thing.)",
        "the connection's",
    )
    if_id_in: MaybeNumber = key(
        None, "Number of the interface; the same in both directions.", "the connection's"
    )
    if_id_out: MaybeNumber = key(None, "The same.", "the connection's")
    manual: Manual | None = key(
        None,
        "SPIs and keys of this child, which nobody negotiates: a section. It needs one proposal.",
        "none",
    )
    acl: AclReference = key(
        None,
        "What is protected, as an access list: a name in `acls`, or the rules themselves. Source is this "
        "side, destination the peer's. Instead of `local_ts` and `remote_ts`.",
    )
    sa: Annotated[
        str,
        PlainValidator(values.choice(**{"per-rule": "per-rule", "aggregate": "aggregate"})),
        words(**{"per-rule": "", "aggregate": ""}),
    ] = key(
        "per-rule", "With `acl`: an SA pair for each permit rule, as switches do, or one for the whole list."
    )
    local_ts: Selectors = key(
        None,
        "What is protected on this side: `10.1.0.0/16`, `10.1.0.1-10.1.0.9`, `dynamic` (the tunnel's own "
        "end), each with `[protocol/port]`: `10.1.0.0/16[tcp/80-90]`.",
        "dynamic",
    )
    remote_ts: Selectors = key(None, "What is protected on the peer's side.", "dynamic")
    esp_proposals: EspProposals = key(
        None,
        "Algorithms of the Child SA, best first; a key exchange in it means PFS when rekeying.",
        "default, or none with ah_proposals",
    )
    ah_proposals: AhProposals = key(
        None,
        "Algorithms of AH instead of ESP: `sha256-x25519-esn`, `default`. AH encrypts nothing, and passes no "
        "NAT. With esp_proposals too, those come first.",
        "none, or `default` with bundle",
    )
    bundle: YesNo = key(
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
        words(tunnel="", transport="", **{"pass": ""}, drop=""),
    ] = key(
        "tunnel",
        "`tunnel` and `transport` (between the two ends themselves) protect; `pass` leaves what matches "
        "alone, `drop` discards it.",
    )
    ipcomp: YesNo = key(False, "Compress what gets shorter (IPComp, DEFLATE), if the peer does too.", "no")
    tfc_padding: Annotated[
        int, PlainValidator(values.padding), kind("octets, or `mtu`", {"type": ["integer", "string"]})
    ] = key(0, "Fill inner packets up to this size, or to what fits (`mtu`), so that none tells its own.")
    dummy_interval: Time = key(
        0.0, "After this long without a packet send one that says nothing (RFC 4303, 2.6); 0: never.", "0s"
    )
    set_mark_out: Annotated[int, PlainValidator(values.mark), kind("number", SCALAR)] = key(
        0, "Mark of sealed packets, for the host's routing and filters: the lower 16 bits of the fwmark."
    )
    hw_offload: Annotated[
        str,
        PlainValidator(values.choice(no="no", auto="auto", yes="crypto", crypto="crypto", packet="packet")),
        words(
            no="",
            auto="as much as there is",
            crypto="the device encrypts, where it can",
            packet="the device does all of IPsec, or the SA is refused",
            yes="as `crypto`",
        ),
    ] = key("no", "Whether the network device helps (engine `kernel`).")
    rekey_time: Time = key(3600.0, "Age at which the Child SA is replaced; 0: never.", "1h")
    life_time: MaybeTime = key(None, "Age at which it is removed if that failed.", "rekey_time + 10 %")
    rand_time: MaybeTime = key(
        None, "A random part of this is taken from rekey_time.", "life_time - rekey_time"
    )
    rekey_bytes: Octets = key(0, "Bytes after which the Child SA is replaced; 0: any number.")
    life_bytes: MaybeOctets = key(
        None, "Bytes after which it is removed if that failed.", "rekey_bytes + 10 %"
    )
    rand_bytes: MaybeOctets = key(
        None, "A random part of this is taken from rekey_bytes.", "life_bytes - rekey_bytes"
    )
    rekey_packets: Packets = key(0, "Packets after which the Child SA is replaced; 0: any number.")
    life_packets: MaybePackets = key(
        None, "Packets after which it is removed if that failed.", "rekey_packets + 10 %"
    )
    rand_packets: Packets = key(
        None, "A random part of this is taken from rekey_packets.", "life_packets - rekey_packets"
    )
    start_action: StartWord = key(
        "none", "When loaded: `start` negotiates at once, `trap` when traffic comes, `trap|start` both."
    )
    close_action: StartWord = key("none", "When the peer closes it: the same words.")
    dpd_action: DpdWord = key(
        "none", "When the peer is dead: `clear`, `trap`, or `start` to negotiate again.", "clear"
    )
    replay_window: Annotated[int, PlainValidator(values.integer(32, 4096)), kind("32 to 4096", SCALAR)] = key(
        32, "Packets that may arrive late and are still taken."
    )
    priority: Annotated[int, PlainValidator(values.integer(0, (1 << 31) - 2)), kind("number", SCALAR)] = key(
        0, "Order among the policies, lower first; 0: the order in which they were loaded."
    )
    copy_df: Annotated[
        str,
        PlainValidator(values.choice(yes="copy", no="clear", copy="copy", clear="clear", set="set")),
        words(yes="", no="", set=""),
    ] = key("copy", "DF of the outer header: the inner one's (`yes`), never (`no`), always (`set`).", "yes")
    fragment: Annotated[
        str, PlainValidator(values.choice(outside="outside", inside="inside")), words(outside="", inside="")
    ] = key(
        "outside",
        "Where an IPv4 packet that may be cut is cut if it does not fit: the sealed one (`outside`) or the "
        "inner one (`inside`).",
    )
    copy_ecn: YesNo = key(True, "Copy ECN to the outer header and back (RFC 6040).", "yes")
    copy_dscp: Annotated[
        str,
        PlainValidator(values.choice(out="out", **{"in": "in"}, yes="yes", no="no")),
        words(out="", **{"in": ""}, yes="", no=""),
    ] = key("out", "Copy DSCP to the outer header (`out`), from it (`in`), both (`yes`) or neither (`no`).")
