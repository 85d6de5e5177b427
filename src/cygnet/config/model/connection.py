"""`connections.<name>`: the ends, how each proves who it is, and the life of the IKE SA."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator

from cygnet.config import values
from cygnet.config.model.child import Child
from cygnet.config.model.kinds import (
    Auth,
    Count,
    Endpoints,
    Files,
    Id,
    IkeProposals,
    MaybeDevice,
    MaybeNumber,
    MaybeTime,
    Name,
    Networks,
    Port,
    Rules,
    Text,
    Texts,
    Time,
    VirtualAddresses,
    YesNo,
    YesNoAuto,
    words,
)
from cygnet.config.model.section import Section, key


class CertificateFile(Section):
    LATER: ClassVar[dict[str, tuple[str, ...]]] = {"handle": (), "slot": (), "module": ()}

    file: Text = Field(description="File of the certificate, PEM or DER.")


class Local(Section):
    GATHER: ClassVar[dict[str, str]] = {"cert": "certificate_sections"}

    round: Count = key(
        0,
        "Order of the rounds (RFC 4739). Who is asked proves itself by `psk` and `pubkey` only, where it has "
        "several; two where the peer does EAP.",
    )
    auth: Auth = key(
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
    eap_id: Id = key(None, "Our name in EAP; its password stands in `secrets.eap`.", "id")
    xauth_id: Id = key(None, "Our name in XAUTH; its password stands in `secrets.xauth`.", "id")
    aaa_id: Id = key(
        None, "Whose certificate the server of EAP-TLS, TTLS or PEAP must have.", "the gateway's identity"
    )
    id: Id = key(
        None,
        "This gateway's identity: address, name, `user@name`, distinguished name, or with prefix (`keyid:`).",
        "the certificate's subject, else the local address",
    )
    certs: Files = key(
        (),
        "Certificates to authenticate with, the first whose key is there; files, relative ones in `x509/`.",
    )
    certificate_sections: dict[str, CertificateFile] = key({}, "`cert<suffix>`: a certificate as a section.")
    pubkeys: Files = key(
        (),
        "Public keys to authenticate with, without a certificate (RFC 7670); files, relative in `pubkey/`.",
    )


class Remote(Section):
    LATER: ClassVar[dict[str, tuple[str, ...]]] = {"cert_policy": (), "ca_id": ()}
    GATHER: ClassVar[dict[str, str]] = {"cacert": "ca_certificate_sections", "cert": "certificate_sections"}

    round: Count = key(0, "Order of the rounds (RFC 4739): a certificate, then EAP, for example.")
    auth: Auth = key(
        None,
        "How the peer must prove who it is; as for `local`, and `eap-dynamic` (what the peer names) and "
        "`eap-radius` (a RADIUS server authenticates it). `eap-tls`, `eap-ttls` or `eap-peap` on both sides: "
        "EAP alone (RFC 5998). `null`: it proves nothing, and the connection is for such peers alone "
        "(RFC 7619).",
        "pubkey",
    )
    eap_id: Id = key(
        None,
        "Names of users that are taken in EAP; may hold wildcards. `%any`: every user, whatever `id` says: "
        "EAP does not prove that.",
        "id",
    )
    groups: Texts = key(
        (), "The user must be a member of one of these (`secrets.eap<suffix>.groups`, or what RADIUS says)."
    )
    id: Id = key(
        None,
        "The identity that the peer must prove; may hold wildcards: `*.example.org`, `*@example.org`.",
        "%any",
    )
    certs: Files = key((), "Accept only these certificates; files, relative ones in `x509/`.")
    certificate_sections: dict[str, CertificateFile] = key({}, "`cert<suffix>`: a certificate as a section.")
    pubkeys: Files = key(
        (),
        "Accept only these public keys, whatever certificate comes with them or none (RFC 7670); files, "
        "relative ones in `pubkey/`. Where `id` is no single one, the key's number is the peer's identity.",
    )
    cacerts: Files = key(
        (),
        "Accept only certificates under these authorities; files, relative ones in `x509ca/`.",
        "all loaded",
    )
    ca_certificate_sections: dict[str, CertificateFile] = key(
        {}, "`cacert<suffix>`: an authority as a section."
    )
    revocation: Annotated[
        str,
        PlainValidator(values.choice(strict="strict", ifuri="ifuri", relaxed="relaxed")),
        words(
            strict="of every certificate under the authority it must be known that it was not revoked",
            ifuri="of those that say where to ask, or whose authority has `crl_uris` or `ocsp_uris`",
            relaxed="only what is known to be revoked is refused",
        ),
    ] = key("relaxed", "How much must be known of whether the peer's certificates were revoked.")


class Connection(Section):
    LATER: ClassVar[dict[str, tuple[str, ...]]] = {
        "dscp": ("000000",), "mobike": ("yes", "no"),
        "mediation": ("no",), "mediated_by": (), "mediation_peer": (),
    }  # fmt: skip
    GATHER: ClassVar[dict[str, str]] = {"local": "local_rounds", "remote": "remote_rounds"}

    version: Annotated[int, PlainValidator(values.ike_version), words(**{"2": "", "1": "", "0": ""})] = key(
        2, "IKE version; 0: start with 2 and answer both. What IKEv1 cannot say makes it 2."
    )
    ppk_id: Id = key(
        None,
        "The postquantum pre-shared key (`secrets.ppk<suffix>`) that goes into the keys as well: before "
        "IKE_AUTH where the peer can (RFC 9867), else with it (RFC 8784).",
    )
    ppk_required: YesNo = key(False, "There is no IKE SA without it.", "no")
    aggressive: YesNo = key(
        False,
        "IKEv1: aggressive mode instead of main mode. Shows identities; with a pre-shared key see "
        "`options.i_dont_care_about_security_and_use_aggressive_mode_psk`.",
        "no",
    )
    pull: YesNo = key(
        True, "IKEv1: the client asks for its settings (mode config); `no`: the gateway sends them.", "yes"
    )
    local_addrs: Endpoints = key(
        ((), ()),
        "Addresses of this gateway for this connection; the first single one is where it starts from.",
        "%any",
    )
    remote_addrs: Endpoints = key(
        ((), ()),
        "Addresses of the peer: address, prefix, range, one host name. `%any`: anyone may start, we cannot.",
        "%any",
    )
    local_port: Port = key(500, "UDP port that we start from.")
    remote_port: Port = key(500, "UDP port that the peer listens on.")
    vips: VirtualAddresses = key(
        (),
        "Virtual addresses to ask the peer for: `0.0.0.0` and `::` any of their family, or certain ones. "
        "`dynamic` in `local_ts` means the address that comes.",
    )
    translate: Networks = key(
        (),
        "With `vips`: networks behind this gateway whose hosts go out under our virtual address (Efficient "
        "VPN's client mode); `local_ts` stays `dynamic`.",
    )
    pools: Texts = key(
        (),
        "Pools that peers get virtual addresses from: names in `pools`, addresses (`10.3.0.7`, "
        "`10.3.0.0/24`), or `radius` for what the RADIUS server says. `dynamic` in `remote_ts` means the "
        "peer's.",
    )
    proposals: IkeProposals = key(
        None, "Algorithms of the IKE SA, best first: `aes256gcm16-prfsha384-x25519`; `default`.", "default"
    )
    encap: YesNoAuto = key(
        None,
        "Force UDP encapsulation, also where there is no NAT. `auto`: where the engine runs in"
        " userspace, which moves encapsulated packets in batches and plain ESP packet by packet.",
        "auto",
    )
    dpd_delay: Time = key(
        0.0, "After this long without a packet the peer is asked whether it lives; 0: never.", "0s"
    )
    dpd_mode: Annotated[
        str,
        PlainValidator(values.choice(**{"periodic": "periodic", "on-demand": "on-demand"})),
        words(**{"periodic": "", "on-demand": ""}),
    ] = key(
        "periodic",
        "`on-demand`: only when packets went out meanwhile and none came in (RFC 3706, section 5.5).",
    )
    dpd_timeout: Time = key(
        0.0, "IKEv1: how long the peer may leave such questions unanswered; 0: 150 s.", "0s"
    )
    fragmentation: Annotated[
        str,
        PlainValidator(values.choice(yes="yes", accept="accept", force="force", no="no")),
        words(yes="", accept="", force="", no=""),
    ] = key("yes", "Send large IKE messages in fragments (RFC 7383).")
    send_certreq: YesNo = key(True, "Ask the peer for a certificate of our authorities.", "yes")
    ocsp: Annotated[
        str,
        PlainValidator(values.choice(reply="reply", request="request", both="both", never="never")),
        words(reply="", request="", both="", never=""),
    ] = key(
        "reply",
        "OCSP in IKE (RFC 4806): `request` the peer to bring along what its CA says of it now, `reply` "
        "to a peer that asks for ours, `both` or `never`.",
    )
    send_cert: Annotated[
        str,
        PlainValidator(values.choice(ifasked="ifasked", always="always", never="never")),
        words(ifasked="", always="", never=""),
    ] = key("ifasked", "When to send our certificate.")
    keyingtries: Count = key(1, "Rounds of retransmissions before starting is given up; 0: never given up.")
    unique: Annotated[
        str,
        PlainValidator(values.choice(no="no", never="never", keep="keep", replace="replace")),
        words(no="", never="", keep="", replace=""),
    ] = key(
        "no",
        "What a second IKE SA with the same identities does: `no` replaces the first if the peer says that "
        "it has restarted, `never` not even then, `replace` always, `keep` refuses the second.",
    )
    reauth_time: Time = key(
        0.0,
        "Age at which the IKE SA is set up anew, with its Child SAs, before the old one is closed; 0: never.",
        "0s",
    )
    childless: Annotated[
        str,
        PlainValidator(values.choice(allow="allow", prefer="prefer", force="force", never="never")),
        words(allow="", prefer="", force="", never=""),
    ] = key(
        "allow",
        "IKE SAs without a first Child SA (RFC 6023): `allow` them, `prefer` them where the peer does them,"
        " `force` them, or `never` as responder.",
    )
    rekey_time: Time = key(14400.0, "Age at which the IKE SA is replaced; 0: never.", "4h")
    over_time: MaybeTime = key(
        None, "How long after that it is closed if that failed.", "10 % of the longest time"
    )
    rand_time: MaybeTime = key(None, "A random part of this is taken from rekey_time.", "over_time")
    acls: dict[Name, Rules] = key(
        {}, "Access lists of this connection alone; they come before those in `acls`."
    )
    interface: MaybeDevice = key(
        None, "Route-based: the TUN device of its children (see there).", "cygnet<if_id>, or none"
    )
    if_id_in: MaybeNumber = key(None, "Route-based: the interface's number.", "none")
    if_id_out: MaybeNumber = key(None, "The same: one interface serves both directions.", "none")
    local_rounds: dict[str, Local] = key({}, "`local<suffix>`: how this gateway authenticates.")
    remote_rounds: dict[str, Remote] = key({}, "`remote<suffix>`: how the peer authenticates.")
    children: dict[Name, Child] = key({}, "What is protected: one section for each child.")
