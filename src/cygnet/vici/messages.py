"""IKE messages as dictionaries, payload by payload, for the ladder and whoever else watches (`ike-message`).

The notations are those of RFC 7296, section 1.2: SAi1, KEi, Ni, SK {IDi, ...}. Peer text is escaped,
octets are shown as hexadecimal up to `MAX_SHOWN`, keys and proofs only by their length.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from cygnet.auth.certificate import parse
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.ike.events import MessageSeen
from cygnet.policy.selectors import format_selector
from cygnet.policy.wire_form import from_wire
from cygnet.vici import messages_v1
from cygnet.vici.shapes import Shape, hosts
from cygnet.wire.message import Header, Message
from cygnet.wire.numbers import (
    AuthMethod,
    CertEncoding,
    CfgAttribute,
    CfgType,
    Encr,
    Esn,
    Exchange,
    HashAlgorithm,
    IdType,
    Integ,
    KeMethod,
    Notify,
    PayloadType,
    Prf,
    Protocol,
    TransformType,
)
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
)
from cygnet.wire.v1.message import Message as MessageV1
from cygnet.wire.v1.numbers import Exchange as ExchangeV1

MAX_SHOWN = 32
"""Octets of a payload that are shown."""

_OPAQUE = (Notify.NAT_DETECTION_SOURCE_IP, Notify.NAT_DETECTION_DESTINATION_IP)
"""Hashes that say nothing to people."""

_TRANSFORMS = {
    TransformType.ENCR: Encr,
    TransformType.PRF: Prf,
    TransformType.INTEG: Integ,
    TransformType.KE: KeMethod,
    TransformType.ESN: Esn,
}


def ike_message(event: MessageSeen, wall: float) -> Shape:
    """`ike-message`: one message with its header and payloads. `wall` is when, in Unix seconds.

    `protected` says that the payloads stood inside SK. Payloads are sections `1`, `2`, ... with `notation`
    (as in the RFC's figures), `type`, `detail` (lines for people), and the fields of their kind.
    """
    header = event.message.header
    shape: Shape = {
        "time": f"{wall:.3f}",
        "direction": "sent" if event.sent else "received",
        **hosts(event.path),
        "ike": event.connection,
        "ikesa-uniqueid": str(event.ike_sa),
        "initiator-spi": header.initiator_spi.hex(),
        "responder-spi": header.responder_spi.hex(),
        "version": f"{header.major}.{header.minor}",
        "exchange": _exchange_name(event.message),
        "message-id": str(header.message_id),
        "response": "yes" if header.response else "no",
        "from-initiator": "yes" if header.from_initiator else "no",
        "protected": "yes" if _is_protected(event.message) else "no",
        "repeat": "yes" if event.repeat else "no",
    }
    if isinstance(event.message, MessageV1):
        shape["payloads"] = messages_v1.payload_shapes(event.message)
        return shape
    shape["payloads"] = {
        str(number): payload_shape(payload, header)
        for number, payload in enumerate(event.message.payloads, 1)
    }
    return shape


def _exchange_name(message: Message | MessageV1) -> str:
    registry = ExchangeV1 if isinstance(message, MessageV1) else Exchange
    return registry.name_of(message.header.exchange)


def _is_protected(message: Message | MessageV1) -> bool:
    if isinstance(message, MessageV1):
        return message.encrypted
    return message.header.exchange != Exchange.IKE_SA_INIT


def payload_shape(payload: object, header: Header) -> Shape:
    """One payload; what has no function of its own is shown by its type."""
    number = getattr(payload, "payload_type", 0)
    shape: Shape = {"type": PayloadType.name_of(number)}
    describe = _DESCRIBE.get(type(payload))
    shape["notation"] = shape["type"]
    if describe is not None:
        shape.update(describe(payload, header))
    return shape


def _side(header: Header) -> str:
    """The letter of who sends: i for the request, r for the answer (RFC 7296, section 1.2)."""
    return "r" if header.response else "i"


def _hex(data: bytes) -> str:
    return data[:MAX_SHOWN].hex() + ("..." if len(data) > MAX_SHOWN else "")


def _sa(payload: SaPayload, header: Header) -> Shape:
    number = {Exchange.IKE_SA_INIT: "1", Exchange.IKE_AUTH: "2"}.get(header.exchange)
    proposals: dict[str, Any] = {}
    lines = []
    for proposal in payload.proposals:
        names = [transform_name(item.type, item.id, item.key_bits) for item in proposal.transforms]
        protocol = Protocol.name_of(proposal.protocol)
        proposals[str(proposal.number)] = {
            "protocol": protocol,
            "spi": proposal.spi.hex(),
            "transforms": names,
        }
        spi = f" SPI {proposal.spi.hex()}" if proposal.spi else ""
        lines.append(f"proposal {proposal.number}: {protocol}{spi}: {', '.join(names)}")
    notation = f"SA{_side(header)}{number}" if number else "SA"
    return {"notation": notation, "detail": lines, "proposals": proposals}


def transform_name(kind: int, number: int, key_bits: int) -> str:
    """`AES_GCM_16-256`, `PRF_HMAC_SHA2_256`, `CURVE_25519`."""
    registry = _TRANSFORMS.get(kind)
    name = registry.name_of(number) if registry is not None else f"{TransformType.name_of(kind)}_{number}"
    return f"{name}-{key_bits}" if key_bits else name


def _ke(payload: KePayload, header: Header) -> Shape:
    group = KeMethod.name_of(payload.group)
    return {
        "notation": f"KE{_side(header)}",
        "detail": [f"{group}, {len(payload.data)} octets"],
        "group": group,
        "length": str(len(payload.data)),
    }


def _nonce(payload: NoncePayload, header: Header) -> Shape:
    length = str(len(payload.data))
    return {"notation": f"N{_side(header)}", "detail": [f"{length} octets"], "length": length}


def _id(payload: IdiPayload | IdrPayload, header: Header) -> Shape:
    try:
        name = str(Identity.from_wire(payload.id_type, payload.data))
    except BadIdentity as error:
        name = f"({error})"
    kind = IdType.name_of(payload.id_type)
    notation = "IDi" if isinstance(payload, IdiPayload) else "IDr"
    return {"notation": notation, "detail": [f"{name} ({kind})"], "id-type": kind, "id": name}


def _cert(payload: CertPayload, header: Header) -> Shape:
    encoding = CertEncoding.name_of(payload.encoding)
    shape: Shape = {"encoding": encoding, "length": str(len(payload.data))}
    text = f"{encoding}, {len(payload.data)} octets"
    if payload.encoding == CertEncoding.X509_SIGNATURE:
        try:
            shape["subject"] = parse(payload.data).title
            text = f"{shape['subject']} ({text})"
        except CredentialError as error:
            text = f"({error}) {text}"
    return {**shape, "notation": "CERT", "detail": [text]}


def _certreq(payload: CertReqPayload, header: Header) -> Shape:
    encoding = CertEncoding.name_of(payload.encoding)
    hashes = [payload.data[at : at + 20].hex() for at in range(0, len(payload.data), 20)][:16]
    count = (len(payload.data) + 19) // 20
    detail = f"{encoding}, {count} authorit{'y' if count == 1 else 'ies'}"
    return {"notation": "CERTREQ", "detail": [detail], "encoding": encoding, "authorities": hashes}


def _auth(payload: AuthPayload, header: Header) -> Shape:
    method = AuthMethod.name_of(payload.method)
    return {"notation": "AUTH", "detail": [f"{method}, {len(payload.data)} octets"], "method": method}


def _notify(payload: NotifyPayload, header: Header) -> Shape:
    name = Notify.name_of(payload.type)
    shape: Shape = {"notation": f"N({name})", "notify": name, "data": _hex(payload.data)}
    detail = []
    if payload.spi:
        shape["protocol"] = Protocol.name_of(payload.protocol)
        shape["spi"] = payload.spi.hex()
        detail.append(f"{shape['protocol']} SPI {shape['spi']}")
    if payload.type == Notify.INVALID_KE_PAYLOAD and len(payload.data) == 2:
        shape["group"] = KeMethod.name_of(int.from_bytes(payload.data, "big"))
        detail.append(f"wants {shape['group']}")
    elif payload.type == Notify.SIGNATURE_HASH_ALGORITHMS:
        numbers = [int.from_bytes(payload.data[at : at + 2], "big") for at in range(0, len(payload.data), 2)]
        shape["hashes"] = [HashAlgorithm.name_of(number) for number in numbers[:MAX_SHOWN]]
        detail.append(" ".join(shape["hashes"]))
    elif payload.data and payload.type not in _OPAQUE:
        detail.append(shape["data"])
    shape["detail"] = [", ".join(detail)] if detail else []
    return shape


def _delete(payload: DeletePayload, header: Header) -> Shape:
    protocol = Protocol.name_of(payload.protocol)
    spis = [spi.hex() for spi in payload.spis[:16]]
    return {
        "notation": "D",
        "detail": [f"{protocol} {' '.join(spis)}" if spis else protocol],
        "protocol": protocol,
        "spis": spis,
    }


def _ts(payload: TsiPayload | TsrPayload, header: Header) -> Shape:
    names = [format_selector(selector) for selector in from_wire(payload.selectors)]
    unknown = len(payload.selectors) - len(payload.ranges)
    if unknown:
        names.append(f"({unknown} of unknown type)")
    notation = "TSi" if isinstance(payload, TsiPayload) else "TSr"
    return {"notation": notation, "detail": names, "selectors": names}


def _cp(payload: ConfigPayload, header: Header) -> Shape:
    kind = CfgType.name_of(payload.cfg_type)
    lines = []
    for attribute in payload.attributes:
        value = str(ip_address(attribute.value)) if len(attribute.value) in (4, 16) else _hex(attribute.value)
        lines.append(f"{CfgAttribute.name_of(attribute.type)} {value}".rstrip())
    return {"notation": f"CP({kind})", "detail": lines, "cfg-type": kind, "attributes": lines}


def _vendor(payload: VendorIdPayload, header: Header) -> Shape:
    return {"notation": "V", "detail": [_hex(payload.data)], "vendor-id": _hex(payload.data)}


def _eap(payload: EapPayload, header: Header) -> Shape:
    codes = {1: "Request", 2: "Response", 3: "Success", 4: "Failure"}
    code = codes.get(payload.data[0], "") if payload.data else ""
    return {"notation": "EAP", "detail": [f"{code} {len(payload.data)} octets".strip()], "code": code}


def _sealed(payload: EncryptedPayload | EncryptedFragmentPayload, header: Header) -> Shape:
    if isinstance(payload, EncryptedFragmentPayload):
        return {"notation": "SKF", "detail": [f"fragment {payload.number} of {payload.total}"]}
    return {"notation": "SK", "detail": [f"{len(payload.body)} octets"]}


def _unknown(payload: UnknownPayload, header: Header) -> Shape:
    critical = ", critical" if payload.critical else ""
    return {
        "notation": PayloadType.name_of(payload.type),
        "detail": [f"{len(payload.data)} octets{critical}"],
        "critical": "yes" if payload.critical else "no",
    }


_DESCRIBE: dict[type[Any], Callable[[Any, Header], Shape]] = {
    SaPayload: _sa,
    KePayload: _ke,
    NoncePayload: _nonce,
    IdiPayload: _id,
    IdrPayload: _id,
    CertPayload: _cert,
    CertReqPayload: _certreq,
    AuthPayload: _auth,
    NotifyPayload: _notify,
    DeletePayload: _delete,
    TsiPayload: _ts,
    TsrPayload: _ts,
    ConfigPayload: _cp,
    VendorIdPayload: _vendor,
    EapPayload: _eap,
    EncryptedPayload: _sealed,
    EncryptedFragmentPayload: _sealed,
    UnknownPayload: _unknown,
}
