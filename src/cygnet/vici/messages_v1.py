"""Messages of IKEv1 as dictionaries, in the notations of RFC 2409, section 3.2: HDR*, SA, KE, Ni, IDii,
HASH(1).

The ladder reads them as it reads IKEv2's (`vici.messages`); the fields are the same where they exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cygnet.auth.certificate import parse
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.ike.v1 import proposals
from cygnet.vici.shapes import Shape
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import (
    CertEncoding,
    CfgAttribute,
    CfgType,
    Exchange,
    IdType,
    Notify,
    PayloadType,
    Protocol,
)
from cygnet.wire.v1.payloads import (
    AttributesPayload,
    CertPayload,
    DeletePayload,
    FragmentPayload,
    IdPayload,
    NotifyPayload,
    SaPayload,
    VendorIdPayload,
)

MAX_SHOWN = 32
"""Octets of a payload that are shown."""
_PLAIN = {
    PayloadType.KE: "KE",
    PayloadType.NONCE: "N",
    PayloadType.HASH: "HASH",
    PayloadType.SIG: "SIG",
    PayloadType.CERTREQ: "CERTREQ",
    PayloadType.NAT_D: "NAT-D",
    PayloadType.NAT_D_DRAFT: "NAT-D",
    PayloadType.NAT_OA: "NAT-OA",
    PayloadType.NAT_OA_DRAFT: "NAT-OA",
}


def payload_shapes(message: Message) -> dict[str, Shape]:
    """The payloads as sections `1`, `2`, ..."""
    return {str(number): _shape(payload, message) for number, payload in enumerate(message.payloads, 1)}


def _shape(payload: Any, message: Message) -> Shape:
    number = payload.payload_type
    name = PayloadType.name_of(number)
    shape: Shape = {"type": name, "notation": _PLAIN.get(number, name)}
    describe = _DESCRIBE.get(type(payload))
    if describe is not None:
        shape.update(describe(payload, message))
    elif number in _PLAIN:
        shape["detail"] = [f"{len(payload.data)} octets"]
    return shape


def _sa(payload: SaPayload, message: Message) -> Shape:
    phase1 = message.header.exchange in (Exchange.MAIN_MODE, Exchange.AGGRESSIVE)
    text = proposals.describe_phase1(payload) if phase1 else proposals.describe_phase2(payload)
    return {"notation": "SA", "detail": text.split(", ")}


def _id(payload: IdPayload, message: Message) -> Shape:
    kind = IdType.name_of(payload.id_type)
    try:
        name = str(Identity.from_wire(payload.id_type, payload.data))
    except BadIdentity as error:
        name = f"({error})"
    ids = [one for one in message.payloads if isinstance(one, IdPayload)]
    notation = "ID" if len(ids) < 2 else ("IDci" if ids[0] is payload else "IDcr")
    ports = f" {payload.protocol}/{payload.port}" if payload.protocol or payload.port else ""
    return {"notation": notation, "detail": [f"{name} ({kind}){ports}"], "id-type": kind, "id": name}


def _cert(payload: CertPayload, message: Message) -> Shape:
    text = f"{CertEncoding.name_of(payload.encoding)}, {len(payload.data)} octets"
    if payload.encoding == CertEncoding.X509_SIGNATURE:
        try:
            text = f"{parse(payload.data).title} ({text})"
        except CredentialError as error:
            text = f"({error}) {text}"
    return {"notation": "CERT", "detail": [text]}


def _notify(payload: NotifyPayload, message: Message) -> Shape:
    name = Notify.name_of(payload.type)
    shape: Shape = {"notation": f"N({name})", "notify": name, "data": payload.data[:MAX_SHOWN].hex()}
    detail = []
    if payload.protocol != Protocol.ISAKMP and payload.spi:
        detail.append(f"{Protocol.name_of(payload.protocol)} SPI {payload.spi.hex()}")
    if payload.data:
        detail.append(shape["data"])
    shape["detail"] = [", ".join(detail)] if detail else []
    return shape


def _delete(payload: DeletePayload, message: Message) -> Shape:
    protocol = Protocol.name_of(payload.protocol)
    spis = [spi.hex() for spi in payload.spis[:16]]
    return {"notation": "D", "detail": [f"{protocol} {' '.join(spis)}"], "protocol": protocol, "spis": spis}


def _vendor(payload: VendorIdPayload, message: Message) -> Shape:
    data = payload.data[:MAX_SHOWN].hex()
    name = vendor_ids.name_of(payload.data)
    return {"notation": "V", "detail": [f"{name} ({data})" if name else data], "vendor-id": data}


def _attributes(payload: AttributesPayload, message: Message) -> Shape:
    """Names only: XAUTH's values are names and passwords."""
    kind = CfgType.name_of(payload.cfg_type)
    names = [CfgAttribute.name_of(attribute.type) for attribute in payload.attributes]
    return {"notation": f"ATTR({kind})", "detail": names, "cfg-type": kind, "attributes": names}


def _fragment(payload: FragmentPayload, message: Message) -> Shape:
    last = ", the last" if payload.last else ""
    return {"notation": "FRAG", "detail": [f"piece {payload.number}{last}"]}


_DESCRIBE: dict[type[Any], Callable[[Any, Message], Shape]] = {
    SaPayload: _sa,
    IdPayload: _id,
    CertPayload: _cert,
    NotifyPayload: _notify,
    DeletePayload: _delete,
    VendorIdPayload: _vendor,
    AttributesPayload: _attributes,
    FragmentPayload: _fragment,
}
