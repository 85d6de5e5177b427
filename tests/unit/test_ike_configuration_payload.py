"""The Configuration payload: what is asked, what is answered, and what of a hostile answer is taken."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cygnet.ike import configuration_attributes as attributes
from cygnet.ike.remote_access import MAX_ADDRESSES, Lease, NetworkSettings
from cygnet.ike.v2 import configuration_payload as configuration
from cygnet.policy.selectors import TrafficSelector, format_addresses, parse_addresses
from cygnet.wire.cursor import Cursor
from cygnet.wire.numbers import CfgAttribute, CfgType
from cygnet.wire.payloads import ConfigAttribute, ConfigPayload

ANY4, ANY6 = ip_address("0.0.0.0"), ip_address("::")


def payload(cfg_type: int, *attributes: tuple[int, bytes]) -> ConfigPayload:
    return ConfigPayload(cfg_type, tuple(ConfigAttribute(*one) for one in attributes))


def reply(*attributes: tuple[int, bytes]) -> ConfigPayload:
    return payload(CfgType.REPLY, *attributes)


def test_the_request_of_rfc_7296_section_2_19_has_an_address_without_value() -> None:
    (made,) = configuration.request((ANY4,))
    assert made.emit().hex() == ("010000000001000000030000000d000000190000")


def test_a_certain_address_is_asked_for_with_its_value() -> None:
    (made,) = configuration.request((ip_address("10.3.0.9"), ip_address("fd03::9")))
    assert made.attributes[0] == ConfigAttribute(CfgAttribute.INTERNAL_IP4_ADDRESS, bytes((10, 3, 0, 9)))
    assert made.attributes[1].value == ip_address("fd03::9").packed + b"\x80"


def test_without_addresses_to_ask_for_nothing_is_asked() -> None:
    assert configuration.request(()) == ()


def test_what_a_client_asks_is_what_a_server_hears() -> None:
    asked = (ANY4, ip_address("fd03::9"))
    (made,) = configuration.request(asked)
    parsed = ConfigPayload.parse(Cursor(made.emit()), 0)
    assert configuration.wanted(parsed) == asked


def test_what_a_server_says_is_what_a_client_hears() -> None:
    (asked,) = configuration.request((ANY4, ANY6))
    news = NetworkSettings(
        dns=(ip_address("10.1.0.53"), ip_address("fd01::53")),
        nbns=(ip_address("10.1.0.54"),),
        dhcp=(ip_address("10.1.0.67"),),
        subnets=(parse_addresses("10.1.0.0/16"), parse_addresses("fd01::/48")),
        domains=("example.org", "corp.example.org"),
    )
    leases = [Lease("four", ip_address("10.3.0.1")), Lease("six", ip_address("fd03::1"))]
    (made,) = configuration.reply(asked, leases, news)
    given = configuration.given(ConfigPayload.parse(Cursor(made.emit()), 0), (ANY4, ANY6))
    assert given.addresses == (ip_address("10.3.0.1"), ip_address("fd03::1"))
    assert given.settings == news


def test_domains_go_to_those_alone_who_ask_for_them() -> None:
    """RFC 8598, section 3.1."""
    asked = payload(CfgType.REQUEST, (CfgAttribute.INTERNAL_IP4_ADDRESS, b""))
    (made,) = configuration.reply(asked, (), NetworkSettings(domains=("example.org",)))
    assert made.attributes == ()


def test_nothing_is_answered_to_what_is_no_request() -> None:
    assert configuration.reply(None, (), NetworkSettings()) == ()
    assert configuration.reply(payload(CfgType.SET), (), NetworkSettings()) == ()
    assert configuration.acknowledge(payload(CfgType.SET)) == (ConfigPayload(CfgType.ACK, ()),)
    assert configuration.acknowledge(payload(CfgType.REQUEST)) == ()


def test_a_request_asks_for_a_bounded_number_of_addresses() -> None:
    many = payload(CfgType.REQUEST, *[(CfgAttribute.INTERNAL_IP4_ADDRESS, b"")] * 200)
    assert len(configuration.wanted(many)) == MAX_ADDRESSES


def test_a_client_takes_no_more_addresses_than_it_asked_for() -> None:
    sent = reply(*[(CfgAttribute.INTERNAL_IP4_ADDRESS, bytes((10, 3, 0, n))) for n in range(1, 9)])
    assert configuration.given(sent, (ANY4,)).addresses == (ip_address("10.3.0.1"),)
    assert configuration.given(sent, (ANY6,)).addresses == ()


@pytest.mark.parametrize("cfg_type", [CfgType.REQUEST, CfgType.SET, CfgType.ACK, 200])
def test_only_a_reply_gives_something(cfg_type: int) -> None:
    sent = payload(cfg_type, (CfgAttribute.INTERNAL_IP4_ADDRESS, bytes((10, 3, 0, 1))))
    assert configuration.given(sent, (ANY4,)).addresses == ()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.0.1",
        "::1",
        "ff02::1",
        "fe80::1",
        "::",
    ],
)
def test_an_address_that_no_host_can_have_is_not_taken(address: str) -> None:
    ip = ip_address(address)
    kinds = {
        4: (CfgAttribute.INTERNAL_IP4_ADDRESS, CfgAttribute.INTERNAL_IP4_DNS, ip.packed),
        6: (CfgAttribute.INTERNAL_IP6_ADDRESS, CfgAttribute.INTERNAL_IP6_DNS, ip.packed),
    }
    own, dns, octets = kinds[ip.version]
    sent = reply((own, octets + (b"\x80" if ip.version == 6 else b"")), (dns, octets))
    given = configuration.given(sent, (ANY4, ANY6))
    assert given.addresses == ()
    assert given.settings.dns == ()


@pytest.mark.parametrize(
    "name",
    [
        b"", b".", b"..", b"-a.example", b"a..b", b"a b", b"a\nnameserver 6.6.6.6", b"~.", b"a;b", b"a\0b",
        b"\xffa", b"x" * 64, b"a." * 140, b"$(reboot)", "bücher.example".encode(),
    ],
)  # fmt: skip
def test_a_domain_that_is_no_name_never_reaches_the_resolver(name: bytes) -> None:
    sent = reply((CfgAttribute.INTERNAL_DNS_DOMAIN, name))
    assert attributes.settings(sent.attributes).domains == ()


def test_lists_of_a_gateway_are_bounded() -> None:
    servers = [(CfgAttribute.INTERNAL_IP4_DNS, bytes((10, 1, 0, n))) for n in range(1, 200)]
    names = [(CfgAttribute.INTERNAL_DNS_DOMAIN, b"n%d.example" % n) for n in range(200)]
    taken = attributes.settings(reply(*servers, *names).attributes)
    assert (len(taken.dns), len(taken.domains)) == (attributes.MAX_SERVERS, attributes.MAX_DOMAINS)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (CfgAttribute.INTERNAL_IP4_SUBNET, bytes((10, 1, 2, 3, 255, 255, 0, 0)), ["10.1.0.0/16"]),
        (CfgAttribute.INTERNAL_IP4_SUBNET, bytes((10, 1, 2, 3, 255, 0, 255, 0)), []),
        (CfgAttribute.INTERNAL_IP4_SUBNET, bytes(8), ["0.0.0.0/0"]),
        (CfgAttribute.INTERNAL_IP6_SUBNET, ip_address("fd01::7").packed + b"\x30", ["fd01::/48"]),
        (CfgAttribute.INTERNAL_IP6_SUBNET, ip_address("fd01::7").packed + b"\xff", ["fd01::7/128"]),
    ],
)
def test_subnets_are_networks_and_masks_have_no_holes(kind: int, value: bytes, expected: list[str]) -> None:
    subnets: tuple[TrafficSelector, ...] = attributes.settings(reply((kind, value)).attributes).subnets
    assert [format_addresses(one) for one in subnets] == expected
