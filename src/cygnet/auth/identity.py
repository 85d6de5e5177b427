"""Who someone claims to be: the identities of RFC 7296 section 3.5, their spelling, and how patterns match.

The spelling is swanctl's: an address, a name, `user@name`, `@name`, `@@user@name`, `@#hex`, a DN
(`C=CH, O=x`), or one of these behind a type prefix (`fqdn:`, `email:`, `keyid:`, `asn1dn:` ...); what is
printed reads back as the same identity. A pattern may hold wildcards; a claimed identity never does: only the
pattern's side of `matches` is ever expanded, so a peer that calls itself `*` gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Self

from cygnet.auth import distinguished_name as dn
from cygnet.records import dataclass
from cygnet.wire.numbers import IdType

# Patterns only: any identity, and IKEv1's blocks of addresses (RFC 2407, section 4.6.2).
ANY = 0
IPV4_ADDR_SUBNET = 4
IPV6_ADDR_SUBNET = 6
IPV4_ADDR_RANGE = 7
IPV6_ADDR_RANGE = 8

# Longest identity that is accepted from anybody. DNs in use stay below 500 octets, names below 256.
MAX_IDENTITY = 2048

PERFECT = 1000
_WILDCARD = 2
_ANY_MATCHES = 1
NO_MATCH = 0

_ADDRESS_LENGTH = {IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16}
_BLOCK_LENGTH = {IPV4_ADDR_SUBNET: 8, IPV4_ADDR_RANGE: 8, IPV6_ADDR_SUBNET: 32, IPV6_ADDR_RANGE: 32}
_BLOCK_OF = {
    IPV4_ADDR_SUBNET: IdType.IPV4_ADDR,
    IPV4_ADDR_RANGE: IdType.IPV4_ADDR,
    IPV6_ADDR_SUBNET: IdType.IPV6_ADDR,
    IPV6_ADDR_RANGE: IdType.IPV6_ADDR,
}
_SUBNETS = (IPV4_ADDR_SUBNET, IPV6_ADDR_SUBNET)
_ANY_SPELLINGS = ("", "%any", "%any6", "*", "0.0.0.0", "::", "0::0")  # noqa: S104 - spellings, nothing is bound

_PREFIXES = {
    "ipv4": IdType.IPV4_ADDR,
    "ipv6": IdType.IPV6_ADDR,
    "ipv4net": IPV4_ADDR_SUBNET,
    "ipv6net": IPV6_ADDR_SUBNET,
    "ipv4range": IPV4_ADDR_RANGE,
    "ipv6range": IPV6_ADDR_RANGE,
    "fqdn": IdType.FQDN,
    "dns": IdType.FQDN,
    "rfc822": IdType.RFC822_ADDR,
    "email": IdType.RFC822_ADDR,
    "userfqdn": IdType.RFC822_ADDR,
    "asn1dn": IdType.DER_ASN1_DN,
    "asn1gn": IdType.DER_ASN1_GN,
    "keyid": IdType.KEY_ID,
}
_PREFIX_OF = {
    IdType.IPV4_ADDR: "ipv4",
    IdType.IPV6_ADDR: "ipv6",
    IPV4_ADDR_SUBNET: "ipv4net",
    IPV6_ADDR_SUBNET: "ipv6net",
    IPV4_ADDR_RANGE: "ipv4range",
    IPV6_ADDR_RANGE: "ipv6range",
    IdType.FQDN: "fqdn",
    IdType.RFC822_ADDR: "email",
    IdType.DER_ASN1_DN: "asn1dn",
    IdType.DER_ASN1_GN: "asn1gn",
    IdType.KEY_ID: "keyid",
}


_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class BadIdentity(ValueError):
    """Text or octets that are no identity; says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity as IKE carries it: its type (RFC 7296, section 3.5) and its octets.

    Equality is equality of octets; `matches` is what policy asks.
    """

    type: int
    data: bytes

    @classmethod
    def any(cls) -> Self:
        """The pattern that every identity matches."""
        return cls(ANY, b"")

    @classmethod
    def parse(cls, text: str) -> Self:
        """An identity from its spelling. Raises `BadIdentity`."""
        if len(text) > MAX_IDENTITY:
            raise BadIdentity(f"an identity of {len(text)} characters; at most {MAX_IDENTITY} are accepted")
        if _SURROGATES.search(text):
            raise BadIdentity("an identity that is not UTF-8")
        text = dn.stripped(text)
        prefix, colon, value = text.partition(":")
        if colon and prefix.lower() in _PREFIXES:
            return cls._parse_as(_PREFIXES[prefix.lower()], value)
        if text.startswith("{") and "}:" in text:
            number, _, value = text[1:].partition("}:")
            if not (number.isdecimal() and number.isascii() and int(number) <= 255):
                raise BadIdentity(f"{{{number}}} is no identity type; 0 to 255 are")
            return cls._parse_as(int(number), value)
        if text in _ANY_SPELLINGS:
            return cls.any()
        if text == "%null":
            return cls.nobody()
        if text.startswith("@#"):
            return cls(IdType.KEY_ID, _from_hex(text[2:]))
        if text.startswith("@@"):
            return cls._parse_as(IdType.RFC822_ADDR, text[2:])
        if text.startswith("@"):
            return cls._parse_as(IdType.FQDN, text[1:])
        if "=" in text:
            return cls._parse_as(IdType.DER_ASN1_DN, text)
        if "@" in text:
            return cls._parse_as(IdType.RFC822_ADDR, text)
        return cls._parse_bare(text)

    @classmethod
    def from_wire(cls, id_type: int, data: bytes) -> Self:
        """The identity of a received payload, of the form that its type demands. Raises `BadIdentity`."""
        if len(data) > MAX_IDENTITY:
            raise BadIdentity(f"identity of {len(data)} octets; at most {MAX_IDENTITY} are accepted")
        if id_type in _ADDRESS_LENGTH and len(data) != _ADDRESS_LENGTH[id_type]:
            raise BadIdentity(f"address identity of {len(data)} octets")
        if id_type in _BLOCK_LENGTH and len(data) != _BLOCK_LENGTH[id_type]:
            raise BadIdentity(f"address block identity of {len(data)} octets")
        if id_type in (IdType.FQDN, IdType.RFC822_ADDR):
            _check_name(data)
        if id_type == IdType.DER_ASN1_DN:
            _decode_name(data)
        if id_type == IdType.NULL:
            # RFC 7619, section 2.2. What we tell nobodies apart by must not come from outside.
            if data:
                raise BadIdentity("an ID_NULL that says something")
            return cls(id_type, data)
        if not data:
            raise BadIdentity("empty identity")
        return cls(id_type, data)

    @classmethod
    def nobody(cls, mark: bytes = b"") -> Self:
        """Who proves nothing (ID_NULL, RFC 7619). `mark` tells one from another; it never travels."""
        return cls(IdType.NULL, mark)

    @classmethod
    def of_address(cls, address: ipaddress.IPv4Address | ipaddress.IPv6Address | str) -> Self:
        """The identity that an IP address is."""
        parsed = ipaddress.ip_address(address) if isinstance(address, str) else address
        return cls(IdType.IPV4_ADDR if parsed.version == 4 else IdType.IPV6_ADDR, parsed.packed)

    @property
    def is_any(self) -> bool:
        return self.type == ANY

    @property
    def is_nobody(self) -> bool:
        """Whether nobody is named: such an identity is no one's, and only `%null` matches it."""
        return self.type == IdType.NULL

    @property
    def has_wildcards(self) -> bool:
        """Whether this is a pattern rather than one identity."""
        if self.type in (IdType.FQDN, IdType.RFC822_ADDR):
            return self.data.startswith(b"*")
        if self.type == IdType.DER_ASN1_DN:
            name = _name_or_none(self.data)
            return name is not None and any(value.text == "*" for rdn in name for value in rdn)
        return self.type == ANY or self.type in _BLOCK_OF

    def matches(self, pattern: Identity | None) -> bool:
        """Whether this (claimed) identity is one that the pattern allows; None allows all."""
        return self.match_quality(pattern) > NO_MATCH

    def match_quality(self, pattern: Identity | None) -> int:
        """How closely the pattern names this identity: 0 not at all, 1 `%any`, more with fewer wildcards.

        Of overlapping policies the most specific must be used (RFC 4945, section 3.1.10).
        """
        if self.type == IdType.NULL:
            # Not `%any` either: who takes anybody still wants to be told who it is.
            return PERFECT if pattern is not None and pattern.type == IdType.NULL else NO_MATCH
        if pattern is None or pattern.type == ANY:
            return _ANY_MATCHES
        if pattern.type in _BLOCK_OF:
            return _match_block(self, pattern)
        if self.type != pattern.type:
            return NO_MATCH
        if self.data == pattern.data:
            return PERFECT
        if self.type in (IdType.FQDN, IdType.RFC822_ADDR):
            return _match_text(self.data, pattern.data)
        if self.type == IdType.DER_ASN1_DN:
            return _match_name(self.data, pattern.data)
        return NO_MATCH

    def folded(self) -> Self:
        """This identity with names in lower case: what to look it up by."""
        if self.type not in (IdType.FQDN, IdType.RFC822_ADDR):
            return self
        return type(self)(self.type, _fold(self.data))

    def same_as(self, other: Identity) -> bool:
        """Whether both name the same one: letter case of names and string types of DNs apart."""
        if self.type != other.type:
            return False
        if self.data == other.data:
            return True
        if self.type in (IdType.FQDN, IdType.RFC822_ADDR):
            return _fold(self.data) == _fold(other.data)
        if self.type == IdType.DER_ASN1_DN:
            mine, theirs = _name_or_none(self.data), _name_or_none(other.data)
            return mine is not None and theirs is not None and dn.same_name(mine, theirs)
        return False

    def __str__(self) -> str:
        if self.type == IdType.NULL:
            return "%null"
        text = self._plain()
        if text is not None and _parses_to(text, self):
            return text
        prefix = _PREFIX_OF.get(self.type, f"{{{self.type}}}")
        if text is not None and _parses_to(f"{prefix}:{text}", self):
            return f"{prefix}:{text}"
        return f"{prefix}:#{self.data.hex()}"

    def _plain(self) -> str | None:
        """The spelling without a prefix, or None where only hex can show the octets."""
        if self.type == ANY:
            return "%any"
        if self.type in _ADDRESS_LENGTH and len(self.data) == _ADDRESS_LENGTH[self.type]:
            return str(ipaddress.ip_address(self.data))
        if self.type in _BLOCK_LENGTH and len(self.data) == _BLOCK_LENGTH[self.type]:
            return _block_text(self)
        if self.type == IdType.DER_ASN1_DN:
            name = _name_or_none(self.data)
            return None if name is None else dn.to_text(name)
        if self.type in (IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID):
            try:
                text = self.data.decode()
            except UnicodeDecodeError:
                return None
            return text if text.isprintable() else None
        return None

    @classmethod
    def _parse_bare(cls, text: str) -> Self:
        """Text without a mark that tells its type: an address, a block of addresses, or a name."""
        parts = text.split("-")
        try:
            if "/" in text:
                network = ipaddress.ip_network(text, strict=False)
                kind = IPV4_ADDR_SUBNET if network.version == 4 else IPV6_ADDR_SUBNET
                return cls(kind, network.network_address.packed + network.netmask.packed)
            if len(parts) == 2 and all(parts):
                first, last = ipaddress.ip_address(parts[0].strip()), ipaddress.ip_address(parts[1].strip())
                if first.version != last.version or int(first) > int(last):
                    raise BadIdentity(f"{text!r} is no range of addresses")
                kind = IPV4_ADDR_RANGE if first.version == 4 else IPV6_ADDR_RANGE
                return cls(kind, first.packed + last.packed)
            return cls.of_address(text)
        except BadIdentity:
            raise
        except ValueError:
            # Not an address: a name, or (names hold no colon) an opaque key id, as strongSwan decides it.
            return cls._parse_as(IdType.KEY_ID if ":" in text else IdType.FQDN, text)

    @classmethod
    def _parse_as(cls, id_type: int, value: str) -> Self:
        if value.startswith("#"):
            return cls(id_type, _from_hex(value[1:]))
        if id_type in _ADDRESS_LENGTH or id_type in _BLOCK_LENGTH:
            parsed = cls._parse_bare(value.strip())
            if parsed.type != id_type:
                raise BadIdentity(f"{value!r} is not of the type that its prefix {_PREFIX_OF[id_type]}: says")
            return parsed
        if id_type == IdType.DER_ASN1_DN:
            try:
                return cls(id_type, dn.encode(dn.from_text(value)))
            except dn.BadName as error:
                raise BadIdentity(str(error)) from None
        data = value.encode()
        if id_type in (IdType.FQDN, IdType.RFC822_ADDR):
            _check_name(data)
            _check_wildcard(value)
        if not data and id_type != ANY:
            raise BadIdentity("an empty identity")
        return cls(id_type, data)


def user_identity(name: bytes) -> Identity:
    """The identity that a user's name is, as it comes over EAP, XAUTH or RADIUS: an e-mail address, a name,
    or where it is no text an opaque key id. Never parsed for a DN, a prefix or a wildcard (CVE-2013-2052)."""
    name = name[:MAX_IDENTITY]
    try:
        _check_name(name)
    except BadIdentity:
        return Identity(IdType.KEY_ID, name)
    return Identity(IdType.RFC822_ADDR if b"@" in name.strip(b"@") else IdType.FQDN, name)


def _parses_to(text: str, identity: Identity) -> bool:
    try:
        return Identity.parse(text).same_as(identity)
    except BadIdentity:
        return False


def _from_hex(digits: str) -> bytes:
    try:
        data = bytes.fromhex(digits.replace(":", ""))
    except ValueError:
        raise BadIdentity(f"#{digits} is not hexadecimal") from None
    if not data or len(data) > MAX_IDENTITY:
        raise BadIdentity(f"#{digits[:40]} is not 1 to {MAX_IDENTITY} octets")
    return data


def _check_name(data: bytes) -> None:
    """A name holds no terminator or other control character and is UTF-8 (RFC 7296, section 3.5)."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadIdentity("a name that is not UTF-8") from None
    if not text or _CONTROLS.search(text):
        raise BadIdentity("a name that is empty or holds control characters")


def _check_wildcard(text: str) -> None:
    """`*.name` and `*@name` only: `*name` would let in every name that merely ends so."""
    if "*" in text and (not text.startswith(("*.", "*@")) or "*" in text[1:] or len(text) < 3):
        raise BadIdentity(f"{text!r}: a wildcard is *, or a leading *. or *@")


def _decode_name(data: bytes) -> dn.Name:
    try:
        return dn.decode(data)
    except dn.BadName as error:
        raise BadIdentity(str(error)) from None


def _name_or_none(data: bytes) -> dn.Name | None:
    try:
        return dn.decode(data)
    except dn.BadName:
        return None


def _fold(data: bytes) -> bytes:
    """Lower case of ASCII letters: names compare without regard to case (RFC 4945, sections 3.1.2, 3.1.3)."""
    return data.lower()


def _match_text(claimed: bytes, pattern: bytes) -> int:
    claimed, pattern = _fold(claimed), _fold(pattern)
    if claimed == pattern:
        return PERFECT
    if not pattern.startswith((b"*.", b"*@")) or len(pattern) < 3:
        return NO_MATCH
    suffix = pattern[1:]
    # What stands for the * is not empty, holds no second @ and no wildcard of the peer's own.
    head = claimed.removesuffix(suffix)
    if head == claimed or not head or b"*" in head or (suffix.startswith(b"@") and b"@" in head):
        return NO_MATCH
    return _WILDCARD + min(len(suffix), PERFECT - _WILDCARD - 1)


def _match_name(claimed: bytes, pattern: bytes) -> int:
    theirs, ours = _name_or_none(claimed), _name_or_none(pattern)
    if theirs is None or ours is None or len(theirs) != len(ours):
        return NO_MATCH
    wildcards = 0
    for rdn, allowed in zip(theirs, ours, strict=True):
        if len(rdn) != len(allowed):
            return NO_MATCH
        for value, wanted in zip(rdn, allowed, strict=True):
            if value.oid != wanted.oid:
                return NO_MATCH
            if wanted.text == "*":
                wildcards += 1
            elif not dn.same_value(value, wanted):
                return NO_MATCH
    return max(_WILDCARD, PERFECT - wildcards)


def _match_block(claimed: Identity, pattern: Identity) -> int:
    if claimed.type == pattern.type:
        return PERFECT if claimed.data == pattern.data else NO_MATCH
    half = len(pattern.data) // 2
    well_formed = len(pattern.data) == _BLOCK_LENGTH[pattern.type] and len(claimed.data) == half
    if claimed.type != _BLOCK_OF[pattern.type] or not well_formed:
        return NO_MATCH
    address = int.from_bytes(claimed.data)
    first, second = int.from_bytes(pattern.data[:half]), int.from_bytes(pattern.data[half:])
    if pattern.type in _SUBNETS:
        return _WILDCARD + second.bit_count() if address & second == first else NO_MATCH
    size = (second - first + 1).bit_length()
    return _WILDCARD + half * 8 + 1 - size if first <= address <= second else NO_MATCH


def _block_text(identity: Identity) -> str:
    half = len(identity.data) // 2
    first, second = (ipaddress.ip_address(part) for part in (identity.data[:half], identity.data[half:]))
    return f"{first}/{int(second).bit_count()}" if identity.type in _SUBNETS else f"{first}-{second}"
