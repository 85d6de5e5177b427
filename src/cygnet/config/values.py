"""The value grammar of swanctl.conf(5): one function a kind, from text or a TOML value to a typed value.

Each raises `PydanticCustomError` that says what is wrong and what is allowed; the model attaches
them to keys, `config.check` adds file and line. Text comes from swanctl.conf and the control socket,
TOML brings its own integers, booleans and lists.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from cygnet.auth.crl import MAX_URLS
from cygnet.ike.configuration import AddressRange
from cygnet.ike.remote_access import MAX_ADDRESSES
from cygnet.policy.sa import TFC_TO_MTU
from cygnet.policy.selectors import IpAddress, TrafficSelector, of_range

_E = TypeVar("_E")
_V = TypeVar("_V")

YES = frozenset({"yes", "true", "enabled", "1"})
NO = frozenset({"no", "false", "disabled", "0"})
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
MAX_SECONDS = 10 * 365 * 86400.0
MAX_COUNT = (1 << 63) - 1
MAX_SECRET = 65535
"""Octets of a secret: what fits into one value on the control socket."""

MAX_NAME = 200
"""Octets; the control socket takes 255, and appends the unique id of an SA."""

_NUMBER = re.compile(r"\s*(\d{1,19}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*\Z", re.ASCII)
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z"
)


def refuse(text: str, allowed: str = "") -> PydanticCustomError:
    """A value error with our own words; braces in them are no placeholders."""
    return PydanticCustomError("cygnet", "{text}", {"text": text, "allowed": allowed})


def each(entries: Iterable[_E], read: Callable[[_E], _V]) -> tuple[_V, ...]:
    """Every entry of a list as a value, or all that is wrong with them, in one error."""
    found: list[_V] = []
    wrong: list[tuple[_E, PydanticCustomError]] = []
    for entry in entries:
        try:
            found.append(read(entry))
        except PydanticCustomError as error:
            wrong.append((entry, error))
    if len(wrong) == 1:
        raise wrong[0][1]
    if wrong:
        raise several([(entry, *_said(error)) for entry, error in wrong])
    return tuple(found)


def several(problems: Sequence[tuple[object, str, str]]) -> PydanticCustomError:
    """One error for several: of each what was found, what is wrong with it, what is allowed."""
    _, text, allowed = problems[0]
    context = {"text": text, "allowed": allowed, "several": tuple(problems)}
    return PydanticCustomError("cygnet", "{text}", context)


def _said(error: PydanticCustomError) -> tuple[str, str]:
    context = error.context or {}
    return context["text"], context["allowed"]


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in YES:
        return True
    if text in NO:
        return False
    raise refuse("must be yes or no", "yes, true, enabled, 1, no, false, disabled, 0")


def boolean_or_auto(value: Any) -> bool | None:
    """None for `auto`."""
    return None if str(value).strip().lower() == "auto" else boolean(value)


def seconds(value: Any) -> float:
    """A time: a number of seconds, or with the suffix s, m, h or d."""
    allowed = "a number of seconds, or with suffix: 30s, 5m, 4h, 1d"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refuse("must be a time", allowed)
    match = _NUMBER.match(str(value))
    if match is None or match[2].lower() not in SECONDS:
        raise refuse("must be a time", allowed)
    result = float(match[1]) * SECONDS[match[2].lower()]
    if result > MAX_SECONDS:
        raise refuse("is too long", "up to 3650d")
    return result


def _count(value: Any, what: str, units: dict[str, int], allowed: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refuse(f"must be a number of {what}", allowed)
    match = _NUMBER.match(str(value))
    if match is None or match[2].lower() not in units or "." in match[1]:
        raise refuse(f"must be a number of {what}", allowed)
    result = int(match[1]) * units[match[2].lower()]
    if result > MAX_COUNT:
        raise refuse("is too large", f"up to {MAX_COUNT}")
    return result


def octet_count(value: Any) -> int:
    return _count(value, "bytes", BYTES, "a number, or with suffix: 500k, 100m, 2g")


def packet_count(value: Any) -> int:
    return _count(value, "packets", {"": 1}, "a number")


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A validator for whole numbers from `low` to `high`."""
    allowed = f"{low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise refuse("must be a whole number", allowed)
        try:
            number = int(value) if isinstance(value, int) else int(value.strip(), 10)
        except ValueError:
            raise refuse("must be a whole number", allowed) from None
        if not low <= number <= high:
            raise refuse("is out of range", allowed)
        return number

    return check


def replay_window(value: Any) -> int:
    """Off, or as many as the engines hold."""
    return 0 if str(value).strip() == "0" else integer(32, 4096)(value)


def spi(value: Any) -> int:
    """Of an SA keyed by hand; 1 to 255 are reserved (RFC 4303, section 2.1)."""
    allowed = "256 to 0xffffffff, decimal or 0x and hex digits"
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else int(str(value), 0)
    except ValueError:
        raise refuse("must be an SPI", allowed) from None
    if not 256 <= number <= 0xFFFFFFFF:
        raise refuse("is out of range", allowed)
    return number


def padding(value: Any) -> int:
    """`tfc_padding`: octets, or `mtu` for as many as fit (`policy.sa.TFC_TO_MTU`)."""
    if str(value).strip().lower() == "mtu":
        return TFC_TO_MTU
    return integer(0, TFC_TO_MTU - 1)(value)


def mark(value: Any) -> int:
    """`set_mark_out`: a number of 16 bits, with a mask that covers it or none."""
    text, _, mask = str(value).strip().partition("/")
    allowed = "0 to 65535, decimal or 0x and hex digits; the upper 16 bits are Cygnet's own"
    try:
        number, covered = int(text or "0", 0), int(mask or "0xffffffff", 0)
    except ValueError:
        raise refuse("must be a mark", allowed) from None
    if not 0 <= number <= 0xFFFF or number & ~covered:
        raise refuse("is out of range", allowed)
    return number


def decimal(low: float, high: float) -> Callable[[Any], float]:
    """A validator for numbers from `low` to `high`."""
    allowed = f"{low:g} to {high:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise refuse("must be a number", allowed)
        try:
            number = float(value)
        except ValueError:
            raise refuse("must be a number", allowed) from None
        if not low <= number <= high:
            raise refuse("is out of range", allowed)
        return number

    return check


def choice(**aliases: str) -> Callable[[Any], str]:
    """A validator for one of several words: `choice(none="none", route="trap")` maps alias to meaning.

    A name in `aliases` stands for itself with `_` for `|`, which is no identifier.
    """
    words = {name.replace("_or_", "|"): meaning.replace("_or_", "|") for name, meaning in aliases.items()}
    allowed = ", ".join(words)

    def check(value: Any) -> str:
        text = str(value).strip().lower() if not isinstance(value, bool) else ("yes" if value else "no")
        if text not in words:
            raise refuse("is not a known value", allowed)
        return words[text]

    return check


def is_default(value: Any, defaults: tuple[str, ...]) -> bool:
    """Whether a key that is not supported yet has the value that it would have anyway (or is empty)."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, bool):
        word = "yes" if value else "no"
    elif isinstance(value, dict | list | tuple):
        return not value
    else:
        word = str(value).strip().lower()
    same = YES if YES.intersection(defaults) else NO if NO.intersection(defaults) else frozenset()
    return word == "" or word in defaults or word in same


def word_or_later(words: tuple[str, ...], later: tuple[str, ...]) -> Callable[[Any], str]:
    """A validator for one of `words`; those in `later` are known, and refused as not supported yet."""

    def check(value: Any) -> str:
        word = str(value).strip().lower()
        if word in words:
            return word
        if word in later:
            raise refuse("is not supported yet", ", ".join(words))
        raise refuse("is not a known value", ", ".join(words))

    return check


def ike_version(value: Any) -> int:
    """2, 1, or 0 for either."""
    word = str(value).strip() if not isinstance(value, bool) else ""
    if word in ("2", "1", "0"):
        return int(word)
    raise refuse("is no IKE version", "2, 1, or 0 (either)")


def name(value: Any) -> str:
    """A name of a connection, child, list, pool: what fits the control socket and can be typed."""
    result = text(value)
    if not result or len(result.encode()) > MAX_NAME or result != result.strip() or "/" in result:
        raise refuse("cannot be a name", f"1 to {MAX_NAME} octets, no / and no space at either end")
    return result


def device(value: Any) -> str:
    """A name of a network device, as the kernel and nftables take it."""
    result = text(value)
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", result) or result in (".", ".."):
        raise refuse("cannot be a device's name", "1 to 15 letters, digits, and _ . : @ -")
    return result


def text(value: Any) -> str:
    if isinstance(value, bytes):
        raise refuse("must be text", "UTF-8 without control characters")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refuse("must be text", "one value")
    result = str(value)
    if not result.isprintable():
        raise refuse("holds a control character", "printable text")
    return result


def items(value: Any) -> list[Any]:
    """A list: as TOML writes it, or separated by commas as swanctl.conf does."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, bytes | bool) or not isinstance(value, int | float):
        raise refuse("must be a list", 'one value, or several: ["a", "b"], in swanctl.conf a, b')
    return [value]


def texts(value: Any) -> tuple[str, ...]:
    return tuple(text(item) for item in items(value))


def urls(value: Any) -> tuple[str, ...]:
    """URLs that are fetched from: plain http, for what is there is signed."""
    found = texts(value)
    for url in found:
        if not url.lower().startswith("http://") or not all("!" <= character <= "~" for character in url):
            raise refuse("is no http URL", "http://host/path")
    if len(found) > MAX_URLS:
        raise refuse("are too many URLs", f"{MAX_URLS} at most")
    return found


def one_url(value: Any) -> str:
    """One of these, or nothing."""
    found = urls(value)
    if len(found) > 1:
        raise refuse("are several URLs", "one")
    return "".join(found)


def password_hashes(value: Any) -> tuple[str, ...]:
    """A list of what is kept of a password. A hash holds commas of its own: each begins with `$kind$`."""
    parts = [value] if isinstance(value, str) else items(value)
    found = [one for part in parts for one in re.split(r"[\s,]+(?=\$(?:nt|scrypt)\$)", text(part).strip())]
    return tuple(found)


def names_or_blobs(value: Any) -> tuple[str | bytes, ...]:
    """A list of file names; from the control socket, their contents; inline as 0x hex or 0s base64."""
    values = [value] if isinstance(value, bytes) else items(value)
    return tuple(
        item
        if isinstance(item, bytes)
        else encoded_blob(item)
        if str(item)[:2] in ("0x", "0s")
        else text(item)
        for item in values
    )


def encoded_blob(value: str) -> bytes:
    try:
        if value.startswith("0x"):
            return bytes.fromhex(value[2:].replace(":", ""))
        return base64.b64decode(value[2:], validate=True)
    except (ValueError, binascii.Error):
        raise refuse("cannot be decoded", "0x and hex digits, or 0s and base64") from None


def secret(value: Any) -> bytes:
    """A secret: text, 0x hex, or 0s base64 (swanctl.conf(5)); octets from the control socket as they are."""
    if isinstance(value, bytes):
        result = value
    elif not isinstance(value, str):
        raise refuse("must be text in quotes", "text, 0x and hex digits, or 0s and base64")
    elif value[:2] in ("0x", "0s"):
        result = encoded_blob(value)
    else:
        result = value.encode()
    if not result:
        raise refuse("is empty", "at least one octet")
    if len(result) > MAX_SECRET:
        raise refuse("is too long", f"up to {MAX_SECRET} octets")
    return result


def address(value: str) -> IpAddress:
    try:
        return ip_address(value)
    except ValueError:
        raise refuse("is not an IP address", "an IPv4 or IPv6 address") from None


def _span(value: str) -> AddressRange | None:
    if value == "%any4":
        return AddressRange(IPv4Address(0), IPv4Address((1 << 32) - 1))
    if value == "%any6":
        return AddressRange(IPv6Address(0), IPv6Address((1 << 128) - 1))
    try:
        if "/" in value:
            network = ip_network(value, strict=False)
            return AddressRange(network[0], network[-1])
        if "-" in value:
            first, _, last = value.partition("-")
            low, high = ip_address(first.strip()), ip_address(last.strip())
        else:
            low = high = ip_address(value)
    except ValueError:
        return None
    if low.version != high.version or int(low) > int(high):
        raise refuse(f"{value!r} is not a range from low to high", "10.0.0.1-10.0.0.9")
    return AddressRange(low, high)


Endpoints = tuple[tuple[AddressRange, ...], tuple[str, ...]]
"""Address ranges, and host names; both empty: any."""

ADDRESSES_ALLOWED = "%any, an address, a prefix 10.0.0.0/24, a range 10.0.0.1-10.0.0.9, a host name"


@lru_cache(maxsize=4096)
def _endpoint(entry: str) -> AddressRange | str:
    span = _span(entry)
    if span is not None:
        return span
    if _HOST_NAME.match(entry) and not entry.replace(".", "").isdigit():
        return entry
    raise refuse(f"{entry!r} is no address and no host name", ADDRESSES_ALLOWED)


def endpoints(value: Any) -> Endpoints:
    """`local_addrs`, `remote_addrs`: addresses, prefixes, ranges, host names; `%any` alone is any."""
    entries = texts(value)
    if not entries or "%any" in entries:
        return (), ()
    parsed = each(entries, _endpoint)
    return (
        tuple(entry for entry in parsed if isinstance(entry, AddressRange)),
        tuple(entry for entry in parsed if isinstance(entry, str)),
    )


def addresses(value: Any) -> tuple[IpAddress, ...]:
    return each(texts(value), address)


def one_address(value: Any) -> IpAddress:
    return address(text(value))


def pool_addresses(value: Any) -> AddressRange:
    entries: Sequence[str] = texts(value)
    span = _span(entries[0]) if len(entries) == 1 and not entries[0].startswith("%") else None
    if span is None:
        raise refuse("must be one prefix or one range of addresses", "10.3.0.0/24 or 10.3.0.10-10.3.0.99")
    return span


def networks(value: Any) -> tuple[TrafficSelector, ...]:
    """Prefixes, ranges or addresses; what is inside a prefix as well may be written (10.1.2.3/16)."""
    return each(texts(value), _network)


def _network(entry: str) -> TrafficSelector:
    span = _span(entry) if not entry.startswith("%") else None
    if span is None:
        raise refuse(f"{entry!r} is no network", "10.1.0.0/16, 2001:db8::/32")
    return of_range(span.first, span.last)


def domains(value: Any) -> tuple[str, ...]:
    return each([entry.rstrip(".").lower() for entry in texts(value)], _domain)


def _domain(entry: str) -> str:
    if not _HOST_NAME.match(entry):
        raise refuse(f"{entry!r} is no domain", "example.org")
    return entry


def virtual_addresses(value: Any) -> tuple[IpAddress, ...]:
    """`vips`: addresses to ask for; `%config` is any, as in ipsec.conf."""
    any_of: dict[str, IpAddress] = {
        "%config": IPv4Address(0), "%config4": IPv4Address(0), "%config6": IPv6Address(0)
    }  # fmt: skip
    asked = each(texts(value), lambda entry: any_of.get(entry) or address(entry))
    if len(asked) > MAX_ADDRESSES:
        raise refuse(f"holds {len(asked)} addresses", f"up to {MAX_ADDRESSES}")
    return asked
