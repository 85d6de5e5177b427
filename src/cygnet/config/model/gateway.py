"""`options`, `pools` and `radius`: what belongs to the whole gateway."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from cygnet.config import values
from cygnet.config.model.kinds import (
    SCALAR,
    Addresses,
    Count,
    Device,
    Domains,
    MaybeSecret,
    Name,
    Networks,
    OneAddress,
    PoolRange,
    Port,
    Secret,
    Text,
    Texts,
    Time,
    YesNo,
    kind,
    words,
)
from cygnet.config.model.section import Section, key


class Options(Section):
    """What belongs to the whole gateway; names as in strongswan.conf's charon section where it has them."""

    control_socket: Text = key("/run/cygnet/cygnet.vici", "Path of the control socket (VICI).")
    control_socket_group: Text = key(
        "", "Group that may use the control socket besides its owner.", "nobody else"
    )
    engine: Annotated[
        str,
        PlainValidator(values.word_or_later(("auto", "kernel", "native", "portable"), ())),
        words(auto="", kernel="", native="", portable=""),
    ] = key(
        "auto",
        "What moves the packets: `kernel` (its ESP and AH, over XFRM), `native` (Rust), `portable` (Python). "
        "`auto`: the first of these that this machine has.",
    )
    gso: Annotated[str, PlainValidator(values.choice(auto="auto", off="off")), words(auto="", off="")] = key(
        "auto", "Batches by segmentation offload (TSO, UDP_SEGMENT, UDP_GRO): probed, or off."
    )
    listen: Addresses = key((), "Local addresses to listen on.", "all")
    port: Port = key(500, "UDP port for IKE.")
    port_nat_t: Port = key(4500, "UDP port for IKE and encapsulated ESP.")
    tun: Device = key("cygnet0", "Name of the TUN device.")
    state_directory: Text = key("/var/lib/cygnet", "Where leases are kept over a restart.")
    resolver: Text = key(
        "auto",
        "Who is told the DNS servers that a gateway gave us: `resolved` (systemd), `resolvconf`, `none`, or"
        " the path of a file like /etc/resolv.conf. `auto`: the first of these that is here, else"
        " /etc/resolv.conf.",
    )
    default_action: Annotated[
        str, PlainValidator(values.choice(bypass="bypass", discard="discard")), words(bypass="", discard="")
    ] = key(
        "bypass",
        "What happens to traffic that no policy matches: it is left alone, or discarded. `discard` concerns"
        " what this machine sends, receives and forwards, but IKE, ESP, loopback, neighbour discovery,"
        " and what it says and hears of packets that are too big.",
    )
    log_level: Annotated[
        str,
        PlainValidator(values.choice(error="error", warning="warning", info="info", debug="debug")),
        words(error="", warning="", info="", debug=""),
    ] = key("info", "What is logged.")
    retransmit_timeout: Time = key(4.0, "Wait before the first retransmission.", "4s")
    retransmit_base: Annotated[float, PlainValidator(values.decimal(1, 10)), kind("1 to 10", SCALAR)] = key(
        1.8, "Each wait is this times the last."
    )
    retransmit_tries: Annotated[int, PlainValidator(values.integer(0, 50)), kind("0 to 50", SCALAR)] = key(
        5, "Retransmissions before the peer counts as unreachable."
    )
    retransmit_jitter: Annotated[int, PlainValidator(values.integer(0, 100)), kind("0 to 100", SCALAR)] = key(
        0, "Percent by which each wait is randomly shortened."
    )
    retransmit_limit: Time = key(0.0, "Longest single wait; 0: none.", "0s")
    i_dont_care_about_security_and_use_aggressive_mode_psk: Annotated[
        str,
        PlainValidator(values.choice(no="no", yes="yes", force="force")),
        words(no="", yes="", force=""),
    ] = key(
        "no",
        "IKEv1: answer aggressive mode with a pre-shared key. Whoever asks gets a hash from which the key can"
        " be guessed offline: keys under 20 octets are refused, unless `force`.",
    )
    half_open_timeout: Time = key(30.0, "How long a peer may take to finish a first negotiation.", "30s")
    cookie_threshold: Count = key(30, "Half-open IKE SAs from which on cookies are asked for; 0: never.")
    cookie_threshold_ip: Count = key(3, "The same for one source address.")
    block_threshold: Count = key(
        5, "Half-open IKE SAs of one source; beyond, a new one takes the oldest one's place; 0: no limit."
    )
    init_limit_half_open: Count = key(10_000, "The same for all sources together.")
    hash_and_url: YesNo = key(
        False,
        "Certificates by hash and URL (RFC 7296, 3.6): fetched from `authorities.<name>.cert_uri_base` "
        "alone, though their sender is nobody yet, and sent so to peers that fetch.",
        "no",
    )
    keep_alive: Time = key(20.0, "Interval of NAT keepalives; 0: none.", "20s")
    delete_rekeyed_delay: Time = key(5.0, "How long a replaced inbound SA still receives.", "5s")
    fragment_size: Annotated[
        int, PlainValidator(values.integer(576, 65535)), kind("576 to 65535", SCALAR)
    ] = key(1280, "Size of IP packets from which on IKE messages are sent in fragments.")


class Pool(Section):
    addrs: PoolRange = Field(
        description="The addresses: one prefix (without its first and its last), one range, or one address."
    )
    dns: Addresses = key((), "DNS servers that clients are told.")
    nbns: Addresses = key((), "WINS servers.")
    dhcp: Addresses = key((), "DHCP servers.")
    netmask: Texts = key((), "Netmasks; kept, clients are not told.")
    server: Texts = key((), "Servers; kept, clients are not told.")
    subnet: Networks = key((), "Protected subnets that clients are told.")
    p_cscf: Texts = key((), "SIP proxies (RFC 7651); kept, clients are not told.")
    split_include: Networks = key((), "Subnets to send through the tunnel: as `subnet`.")
    split_exclude: Networks = key((), "Subnets not to; only IKEv1 can tell it.")
    domains: Domains = key(
        (), "Domains that the DNS servers answer for (RFC 8598); of IKEv1 clients the first is the default."
    )
    banner: Text = key("", "Text that IKEv1 clients show to their user.")
    save_password: YesNo = key(False, "IKEv1 clients may keep their user's password.", "no")


class RadiusServer(Section):
    address: OneAddress = Field(description="Address of the server.")
    secret: Secret = Field(repr=False, description="The secret that it shares with us.")
    auth_port: Port = key(1812, "UDP port for authentication.")
    acct_port: Port = key(1813, "UDP port for accounting.")


class RadiusChanges(Section):
    enable: YesNo = key(False, "Take Disconnect-Request and CoA-Request (RFC 5176).", "no")
    listen: OneAddress | None = key(None, "Local address to listen on.", "all")
    port: Port = key(3799, "UDP port to listen on.")
    secret: MaybeSecret = Field(
        default=None,
        repr=False,
        description="The secret of those who may send them.",
        json_schema_extra={"x-default": ""},
    )


class Radius(Section):
    """RADIUS servers that authenticate peers (`remote.auth = eap-radius`) and are told what peers use."""

    servers: dict[Name, RadiusServer] = key(
        {}, "The servers by name, tried in this order; one that is silent is passed over for a minute."
    )
    nas_identifier: Text = key("cygnet", "What we call ourselves (NAS-Identifier).")
    accounting: YesNo = key(False, "Send accounting records, for users authenticated by EAP.", "no")
    accounting_interval: Time = key(
        0.0, "Interim records this often; what the server says with Acct-Interim-Interval wins.", "0s"
    )
    retransmit_timeout: Time = key(2.0, "Wait before a request is repeated; then 1.4 times as long.", "2s")
    retransmit_tries: Annotated[int, PlainValidator(values.integer(1, 10)), kind("1 to 10", SCALAR)] = key(
        3, "How often a request is sent before the next server is asked."
    )
    dae: RadiusChanges = Field(
        default_factory=RadiusChanges, description="What servers may tell us: to disconnect, to change."
    )
