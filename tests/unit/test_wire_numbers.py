"""The registries: any number has a name, and the names' numbers are IANA's."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cygnet.wire import numbers as n

REGISTRY = Path(__file__).parents[3] / "shared" / "iana" / "ikev2-registries.csv"

SAME_NUMBERS = {
    "exchange_type": n.Exchange,
    "payload_type": n.PayloadType,
    "transform_type": n.TransformType,
    "encryption_transform_type": n.Encr,
    "pseudorandom_function_type": n.Prf,
    "integrity_transform_type": n.Integ,
    "diffie_hellman_group_type": n.KeMethod,
    "extended_sequence_numbers_type": n.Esn,
    "identification_payload_type": n.IdType,
    "certificate_encoding_type": n.CertEncoding,
    "authentication_method_type": n.AuthMethod,
    "notify_message_error_type": n.Notify,
    "notify_message_status_type": n.Notify,
    "security_protocol_type": n.Protocol,
    "traffic_selector_type": n.TsType,
    "configuration_payload_type": n.CfgType,
    "configuration_payload_attribute_type": n.CfgAttribute,
    "hash_algorithm_type": n.HashAlgorithm,
}


def test_known_numbers_are_printed_as_strongswan_prints_them() -> None:
    assert n.Encr.name_of(20) == "AES_GCM_16"
    assert n.Encr.name_of(3) == "3DES_CBC"
    assert n.Integ.name_of(12) == "HMAC_SHA2_256_128"
    assert n.Prf.name_of(5) == "PRF_HMAC_SHA2_256"
    assert n.KeMethod.name_of(31) == "CURVE_25519"
    assert n.KeMethod.name_of(14) == "MODP_2048"
    assert n.Notify.name_of(16388) == "NAT_DETECTION_SOURCE_IP"


@pytest.mark.parametrize("registry", sorted({r.__name__ for r in SAME_NUMBERS.values()}))
def test_unknown_numbers_are_printed_and_not_refused(registry: str) -> None:
    assert getattr(n, registry).name_of(60001) == "UNKNOWN_60001"
    assert not getattr(n, registry).known(60001)


def test_errors_end_where_status_begins() -> None:
    assert n.Notify.is_error(n.Notify.TS_UNACCEPTABLE)
    assert n.Notify.is_error(16383)
    assert not n.Notify.is_error(n.Notify.INITIAL_CONTACT)


@pytest.mark.skipif(not REGISTRY.exists(), reason="../shared is not there")
def test_every_number_that_iana_assigned_has_a_name() -> None:
    with REGISTRY.open() as file:
        rows = [row for row in csv.DictReader(file) if row["registry"] in SAME_NUMBERS]
    assert len(rows) > 200
    missing = [row for row in rows if not SAME_NUMBERS[row["registry"]].known(int(row["value"]))]
    assert not missing


@pytest.mark.skipif(not REGISTRY.exists(), reason="../shared is not there")
def test_notifies_have_ianas_names() -> None:
    renamed = {
        "IKEV2_FRAGMENTATION_SUPPORTED": "FRAGMENTATION_SUPPORTED",
        "USE_ASSIGNED_HoA": "USE_ASSIGNED_HOA",
    }
    with REGISTRY.open() as file:
        for row in csv.DictReader(file):
            if row["registry"].startswith("notify_message"):
                wanted = renamed.get(row["name"], row["name"])
                assert n.Notify.name_of(int(row["value"])) == wanted
