"""The ladder: messages as RFC 7296, sections 1.2 to 1.4 draw them."""

from __future__ import annotations

from typing import Any

from cygnet.cli.ladder import Letters, diagram, draw

SPI_A, SPI_B, NONE = "a1" * 8, "b2" * 8, "00" * 8


def message(
    exchange: str, *notations: str, sent: bool = True, response: bool = False, spi_b: str = SPI_B, **more: str
) -> dict[str, Any]:
    return {
        "direction": "sent" if sent else "received",
        "exchange": exchange,
        "response": "yes" if response else "no",
        "initiator-spi": SPI_A,
        "responder-spi": spi_b,
        "protected": "no" if exchange == "IKE_SA_INIT" else "yes",
        "message-id": "0",
        "repeat": "no",
        "ike": "branch",
        "ikesa-uniqueid": "1",
        "local-host": "192.0.2.1",
        "local-port": "500",
        "remote-host": "192.0.2.2",
        "remote-port": "500",
        "payloads": {str(n): {"notation": name, "detail": []} for n, name in enumerate(notations, 1)},
        **more,
    }


INITIAL = [
    message("IKE_SA_INIT", "SAi1", "KEi", "Ni", spi_b=NONE),
    message("IKE_SA_INIT", "SAr1", "KEr", "Nr", "CERTREQ", sent=False, response=True),
    message("IKE_AUTH", "IDi", "CERT", "CERTREQ", "IDr", "AUTH", "SAi2", "TSi", "TSr"),
    message("IKE_AUTH", "IDr", "CERT", "AUTH", "SAr2", "TSi", "TSr", sent=False, response=True),
]


def test_the_initial_exchanges_look_like_the_figures_of_the_rfc() -> None:
    assert diagram(INITIAL, width=76) == [
        "192.0.2.1[500] ... 192.0.2.2[500]",
        "IKE_SA_INIT request 0 of branch[1]",
        "HDR(A,0), SAi1, KEi, Ni  -->",
        "IKE_SA_INIT response 0 of branch[1]",
        "                                       <--  HDR(A,B), SAr1, KEr, Nr, CERTREQ",
        "IKE_AUTH request 0 of branch[1]",
        "HDR(A,B), SK {IDi, CERT, CERTREQ, IDr, AUTH, SAi2,",
        "      TSi, TSr}  -->",
        "IKE_AUTH response 0 of branch[1]",
        "                         <--  HDR(A,B), SK {IDr, CERT, AUTH, SAr2, TSi, TSr}",
    ]


def test_what_arrives_ends_at_the_right_edge() -> None:
    (line,) = draw(INITIAL[1], Letters(), width=76, with_details=False)
    assert line == "<--  HDR(A,B), SAr1, KEr, Nr, CERTREQ".rjust(76)


def test_a_message_without_payloads_is_its_header_around_nothing() -> None:
    """RFC 7296, section 1.4: HDR, SK {}."""
    assert draw(message("INFORMATIONAL"), Letters(), width=80) == ["HDR(A,B), SK {}  -->"]


def test_each_spi_keeps_its_letter_and_a_new_sa_gets_new_ones() -> None:
    letters = Letters()
    assert [letters.of(spi) for spi in (SPI_A, NONE, SPI_B, SPI_A)] == ["A", "0", "B", "A"]
    names = [letters.of(f"{number:016x}") for number in range(1, 30)]
    assert names[:3] == ["C", "D", "E"]
    assert names[23:26] == ["Z", "A1", "B1"]
    for number in range(5000):
        letters.of(f"{number + 100:016x}")
    assert len(letters.known) <= 1000


def test_what_payloads_say_stands_beneath_and_is_wrapped() -> None:
    one = message("IKE_SA_INIT", "SAi1", "KEi")
    one["payloads"]["1"]["detail"] = ["proposal 1: IKE: " + ", ".join(["AES_GCM_16-256"] * 8)]
    one["payloads"]["2"]["detail"] = ["CURVE_25519, 32 octets"]
    lines = draw(one, Letters(), width=76)
    assert lines[0] == "HDR(A,B), SAi1, KEi  -->"
    assert lines[1].startswith("    SAi1  proposal 1: IKE: AES_GCM_16-256,")
    assert lines[2].startswith("          AES_GCM_16-256")
    assert lines[-1] == "    KEi   CURVE_25519, 32 octets"
    assert all(len(line) <= 76 for line in lines)
    assert not any(line != line.rstrip() for line in lines)


def test_a_retransmission_says_so() -> None:
    assert "IKE_SA_INIT request 0 of branch[1] (again)" in diagram([message("IKE_SA_INIT", repeat="yes")])


def test_words_are_never_broken() -> None:
    one = message("IKE_AUTH", *["N(" + "X" * 30 + ")"] * 6)
    for width in (20, 40, 76, 120):
        for line in draw(one, Letters(), width=width):
            assert line.count("(") == line.count(")") or "HDR" in line
