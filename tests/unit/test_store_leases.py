"""Address pools: who gets which address, who gets it again, and what a restart remembers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer, attest
from cygnet.config.requests import Pool, implicit_pool
from cygnet.ike.configuration import AddressRange
from cygnet.ike.effects import LeaseAddresses, Leased
from cygnet.ike.remote_access import Lease
from cygnet.policy.selectors import IpAddress
from cygnet.store.journal import Journal
from cygnet.store.leases import MAX_ONLINE_PER_IDENTITY, Leases

ANY4, ANY6 = ip_address("0.0.0.0"), ip_address("::")


def peer(name: str) -> AuthenticatedPeer:
    return attest(Identity.parse(name), 2, "psk")


def pool(addresses: str, name: str = "road") -> Pool:
    made = implicit_pool(addresses)
    assert made is not None
    return Pool(name, made.addresses, {})


def ask(
    leases: Leases,
    name: str,
    *wanted: str | IpAddress,
    pools: tuple[str, ...] = ("road",),
    here: tuple[str, ...] = (),
    alone: bool = False,
) -> Leased:
    addresses = tuple(ip_address(str(one)) for one in wanted) or (ANY4,)
    held = tuple([Lease("road", ip_address(one)) for one in here])
    return leases.lease(LeaseAddresses(peer(name), pools, addresses, held, alone))


def got(leased: Leased) -> list[str]:
    return [str(lease.address) for lease in leased.leases]


def book(addresses: str = "10.3.0.0/29") -> Leases:
    leases = Leases(lambda: 1000.0)
    leases.load(pool(addresses))
    return leases


def test_a_network_without_its_first_and_last_address_is_given_out_in_order() -> None:
    leases = book("10.3.0.0/29")
    assert [got(ask(leases, f"user{n}")) for n in range(6)] == [[f"10.3.0.{n}"] for n in range(1, 7)]
    refused = ask(leases, "one too many")
    assert refused.leases == ()
    assert refused.refused == "no address is left in road"


@pytest.mark.parametrize(
    ("addresses", "count"),
    [
        ("10.3.0.7", 1),
        ("10.3.0.8/31", 2),
        ("10.3.0.10-10.3.0.12", 3),
        ("fd03::/126", 2),
        ("10.3.0.0-10.3.0.9", 10),
    ],
)
def test_an_address_a_pair_and_a_range_are_given_whole(addresses: str, count: int) -> None:
    leases = book(addresses)
    any_of = ANY6 if ":" in addresses else ANY4
    assert sum(len(ask(leases, f"user{n}", any_of).leases) for n in range(count + 2)) == count


def test_who_comes_back_gets_the_address_that_it_had() -> None:
    leases = book()
    first, second = ask(leases, "alice"), ask(leases, "bob")
    leases.give_back((*first.leases, *second.leases))
    assert got(ask(leases, "bob")) == ["10.3.0.2"]
    assert got(ask(leases, "carol")) == ["10.3.0.3"]
    assert got(ask(leases, "alice")) == ["10.3.0.1"]


def test_when_none_is_left_that_of_whoever_is_away_longest_is_given() -> None:
    leases = book("10.3.0.1-10.3.0.3")
    held = {name: ask(leases, name).leases for name in ("alice", "bob", "carol")}
    for name in ("bob", "alice"):
        leases.give_back(held[name])
    assert got(ask(leases, "dave")) == got(Leased(held["bob"], None))  # type: ignore[arg-type]
    assert got(ask(leases, "alice")) == ["10.3.0.1"]
    assert got(ask(leases, "bob")) == []


def test_a_free_address_that_is_asked_for_by_name_is_given() -> None:
    leases = book()
    assert got(ask(leases, "alice", "10.3.0.5")) == ["10.3.0.5"]
    assert got(ask(leases, "bob", "10.3.0.5")) == ["10.3.0.1"]
    assert got(ask(leases, "carol", "192.0.2.1")) == ["10.3.0.2"]


def test_an_address_in_use_is_shared_with_its_own_identity_and_device_only() -> None:
    leases = book()
    ask(leases, "alice")
    assert got(ask(leases, "alice", "10.3.0.1", here=("10.3.0.1",))) == ["10.3.0.1"]
    assert got(ask(leases, "alice", "10.3.0.1")) == ["10.3.0.2"]
    assert got(ask(leases, "alice", "10.3.0.1", here=("10.3.0.2",))) == ["10.3.0.3"]
    assert got(ask(leases, "mallory", "10.3.0.1", here=("10.3.0.1",))) == ["10.3.0.4"]


def test_who_says_that_it_has_nothing_else_gets_its_address_from_anywhere() -> None:
    leases = book()
    ask(leases, "alice")
    assert got(ask(leases, "alice", alone=True)) == ["10.3.0.1"]
    assert got(ask(leases, "alice")) == ["10.3.0.2"]


def test_an_address_is_free_only_when_the_last_that_holds_it_ends() -> None:
    leases = book("10.3.0.7")
    one, two = ask(leases, "alice"), ask(leases, "alice", "10.3.0.7", here=("10.3.0.7",))
    leases.give_back(one.leases)
    assert got(ask(leases, "bob")) == []
    leases.give_back(two.leases)
    assert got(ask(leases, "bob")) == ["10.3.0.7"]


def test_what_is_given_back_twice_is_free_once() -> None:
    leases = book("10.3.0.7")
    lease = ask(leases, "alice").leases
    leases.give_back(lease)
    leases.give_back(lease)
    assert got(ask(leases, "alice")) == ["10.3.0.7"]
    assert got(ask(leases, "bob")) == []


def test_several_addresses_of_one_request_are_different_ones() -> None:
    leases = book()
    leases.load(pool("fd03::/112", "six"))
    both = ask(leases, "alice", ANY4, ANY6, ANY4, pools=("road", "six"))
    assert got(both) == ["10.3.0.1", "fd03::1", "10.3.0.2"]


def test_a_second_pool_serves_when_the_first_is_empty() -> None:
    leases = book("10.3.0.7")
    leases.load(pool("10.4.0.7", "more"))
    assert got(ask(leases, "alice", pools=("road", "more"))) == ["10.3.0.7"]
    assert got(ask(leases, "bob", pools=("road", "more"))) == ["10.4.0.7"]


def test_without_a_pool_of_the_family_the_reason_says_so() -> None:
    assert ask(book(), "alice", ANY6).refused == "no pool of road has IPv6 addresses"


def test_one_identity_cannot_hold_all_of_a_pool() -> None:
    """B5: an authenticated peer that grabs addresses."""
    leases = book("10.3.0.0/16")
    taken = [ask(leases, "greedy") for _ in range(MAX_ONLINE_PER_IDENTITY + 10)]
    assert sum(len(one.leases) for one in taken) == MAX_ONLINE_PER_IDENTITY
    assert got(ask(leases, "modest")) == [f"10.3.0.{MAX_ONLINE_PER_IDENTITY + 1}"]


def test_a_pool_that_grows_keeps_who_has_what() -> None:
    leases = book("10.3.0.0/30")
    held = ask(leases, "alice")
    leases.load(pool("10.3.0.0/24"))
    assert [str(a) for v in leases.views(leases=True) for a, _, online in v.leases if online] == ["10.3.0.1"]
    leases.give_back(held.leases)
    assert got(ask(leases, "bob")) == ["10.3.0.2"]


def test_a_pool_that_comes_back_remembers() -> None:
    leases = book()
    leases.give_back(ask(leases, "alice").leases)
    leases.unload("road")
    leases.load(pool("10.3.0.0/29"))
    assert got(ask(leases, "bob")) == ["10.3.0.2"]


def test_views_count_and_list() -> None:
    leases = book()
    leases.give_back(ask(leases, "alice").leases)
    ask(leases, "bob")
    (view,) = leases.views(leases=True)
    assert (str(view.base), view.size, view.online, view.offline) == ("10.3.0.1", 6, 1, 1)
    assert [(str(a), str(i), online) for a, i, online in view.leases] == [
        ("10.3.0.1", "alice", False),
        ("10.3.0.2", "bob", True),
    ]


def test_who_returns_what_nobody_leased_changes_nothing() -> None:
    leases = book()
    leases.give_back((Lease("road", ip_address("10.3.0.1")), Lease("none", ip_address("10.3.0.1"))))
    assert got(ask(leases, "alice")) == ["10.3.0.1"]


def test_the_address_that_radius_says_comes_before_the_pools() -> None:
    leases = book()
    said = (
        ("Framed-IP-Address", bytes((10, 8, 0, 9))),
        ("Framed-IPv6-Address", ip_address("fd08::9").packed),
    )
    known = attest(Identity.parse("carol"), 2, "eap", attributes=said)
    asked = LeaseAddresses(known, ("radius", "road"), (ANY4, ANY6))
    assert got(leases.lease(asked)) == ["10.8.0.9", "fd08::9"]
    leases.give_back(leases.lease(asked).leases)
    assert got(ask(leases, "bob", pools=("radius", "road"))) == ["10.3.0.1"]


@pytest.mark.parametrize(
    "value", [b"", b"\1", bytes(4), b"\xff" * 4, b"\xff\xff\xff\xfe", bytes((127, 0, 0, 1)), bytes(16)]
)
def test_what_radius_says_and_is_no_address_is_not_leased(value: bytes) -> None:
    """RFC 2865, section 5.8: all ones leave it to the user, one less to the NAS."""
    known = attest(Identity.parse("carol"), 2, "eap", attributes=(("Framed-IP-Address", value),))
    assert got(book().lease(LeaseAddresses(known, ("radius", "road"), (ANY4,)))) == ["10.3.0.1"]


# -- the journal ----------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def entry(pool: str, address: str, name: str) -> tuple[str, IpAddress, Identity]:
    return pool, ip_address(address), Identity.parse(name)


def test_what_was_written_is_read_and_the_last_of_an_address_counts(directory: int) -> None:
    journal = Journal(directory)
    for one in (entry("road", "10.3.0.1", "alice"), entry("road", "10.3.0.1", "bob")):
        journal.append(one)
    journal.close()
    leases = book()
    for known in Journal(directory).read():
        leases.restore(*known)
    assert got(ask(leases, "alice")) == ["10.3.0.2"]
    assert got(ask(leases, "bob")) == ["10.3.0.1"]


def test_pools_that_are_loaded_after_the_journal_was_read_find_theirs() -> None:
    leases = Leases(lambda: 0.0)
    leases.restore(*entry("road", "10.3.0.1", "alice"))
    leases.load(pool("10.3.0.0/29"))
    assert got(ask(leases, "bob")) == ["10.3.0.2"]


@pytest.mark.parametrize(
    "broken",
    [
        b'{"pool": "road", "address": "10.3.0.9", "ty',
        b"\xff\xfe not json\n",
        b"[1, 2]\n",
        b'{"pool": "road", "address": "nowhere", "type": 2, "id": "6161"}\n',
        b'{"pool": "road", "address": "10.3.0.9", "type": 2, "id": "zz"}\n',
    ],
)
def test_a_line_that_a_crash_cut_short_costs_that_line_only(
    tmp_path: Path, directory: int, broken: bytes
) -> None:
    journal = Journal(directory)
    journal.append(entry("road", "10.3.0.1", "alice"))
    journal.close()
    with (tmp_path / "leases").open("ab") as file:
        file.write(broken)
    after = Journal(directory)
    list(after.read())
    after.append(entry("road", "10.3.0.2", "bob"))
    assert [str(address) for _, address, _ in Journal(directory).read()] == ["10.3.0.1", "10.3.0.2"]


def test_a_long_journal_is_written_anew_and_says_the_same(tmp_path: Path, directory: int) -> None:
    journal = Journal(directory)
    for n in range(1500):
        journal.append(entry("road", "10.3.0.1", f"user{n}"))
    assert journal.is_long(1)
    journal.rewrite([entry("road", "10.3.0.1", "user1499")])
    journal.append(entry("road", "10.3.0.2", "bob"))
    assert [str(identity) for _, _, identity in Journal(directory).read()] == ["user1499", "bob"]
    assert sorted(os.listdir(tmp_path)) == ["leases"]
    assert (tmp_path / "leases").stat().st_mode & 0o777 == 0o600


def test_the_journal_follows_no_link_that_was_put_in_its_place(tmp_path: Path, directory: int) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "leases").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        Journal(directory).append(entry("road", "10.3.0.1", "alice"))
    assert (tmp_path / "other").read_text() == ""


def test_addresses_of_a_pool_are_an_address_range() -> None:
    made = implicit_pool("10.3.0.0/24")
    assert made is not None
    assert made.addresses == AddressRange(ip_address("10.3.0.0"), ip_address("10.3.0.255"))
    assert implicit_pool("road") is None


def test_t27_an_address_of_a_nobody_is_never_a_somebodys_nor_the_reverse() -> None:
    """RFC 7619, section 2.5: though the pool has nothing else left, and an address is asked for by name."""
    remembered: list[str] = []
    leases = Leases(lambda: 1000.0, lambda name, address, identity: remembered.append(str(identity)))
    leases.load(pool("10.3.0.0/30"))

    def nobody(mark: bytes, wanted: str = "0.0.0.0") -> Leased:
        who = attest(Identity.nobody(mark), 13, "null")
        return leases.lease(LeaseAddresses(who, ("road",), (ip_address(wanted),)))

    first, second = nobody(b"1"), ask(leases, "joe")
    assert (got(first), got(second)) == (["10.3.0.1"], ["10.3.0.2"])
    leases.give_back(first.leases)
    leases.give_back(second.leases)
    assert got(ask(leases, "ann", "10.3.0.1")) == ["10.3.0.2"]
    assert got(ask(leases, "eve", "10.3.0.1")) == []
    assert got(nobody(b"2", "10.3.0.2")) == ["10.3.0.1"]
    assert got(nobody(b"3", "10.3.0.1")) == []
    assert remembered == ["joe", "ann"]
    assert [str(identity) for _, _, identity in leases.assignments()] == ["ann"]
