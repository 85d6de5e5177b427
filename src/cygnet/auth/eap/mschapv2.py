"""EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2; RFC 2759; keys: RFC 3079): what Windows, Apple and Android
speak by name and password.

    Server                                    Client
    Challenge(16 octets, server's name)  -->
                                         <--  Response(peer challenge, NT response, name)
    Success("S=<authenticator response>") -->
                                         <--  Success

Both prove that they know the NT hash. The layout behind EAP's type: op code, MS-CHAPv2 id, length, content.
"""

from __future__ import annotations

import hashlib
import hmac
from struct import Struct
from typing import Final

from cygnet.auth.eap.method import (
    ClientMaker,
    ClientMethod,
    EapFailed,
    Lookup,
    Outcome,
    Reply,
    ServerMaker,
    ServerMethod,
    no_form,
    printable,
    wrong_password,
)
from cygnet.auth.eap.packet import EapType, Packet
from cygnet.auth.errors import Kind
from cygnet.auth.passwords import Stored
from cygnet.crypto.entropy import Entropy
from cygnet.crypto.legacy import des, md4
from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed

CHALLENGE, RESPONSE, SUCCESS, FAILURE = 1, 2, 3, 4
_HEAD: Final = Struct("!BBH")
CHALLENGE_LENGTH: Final = 16
RESPONSE_LENGTH: Final = 49
SERVER_NAME: Final = b"cygnet"
# RFC 2759, section 8.7, and RFC 3079, section 3.4.
_MAGIC_1 = b"Magic server to client signing constant"
_MAGIC_2 = b"Pad to make it do more than one iteration"
_MASTER = b"This is the MPPE Master Key"
_CLIENT_SENDS = b"On the client side, this is the send key; on the server side, it is the receive key."
_SERVER_SENDS = b"On the client side, this is the receive key; on the server side, it is the send key."


# -- the arithmetic -----------------------------------------------------------------------------


def nt_hash(password: bytes) -> bytes:
    """RFC 2759, section 8.3; `password` is UTF-8. Raises `EapFailed` where it is not."""
    try:
        return md4(password.decode().encode("utf-16-le"))
    except UnicodeError:
        raise EapFailed("the password is not UTF-8 text", Kind.EAP_METHOD_MISMATCH) from None


def challenge_hash(peer_challenge: bytes, challenge: bytes, name: bytes) -> bytes:
    """RFC 2759, section 8.2; of `DOMAIN\\name` the name alone counts."""
    return _sha1(peer_challenge + challenge + bare_name(name))[:8]


def nt_response(nt: bytes, peer_challenge: bytes, challenge: bytes, name: bytes) -> bytes:
    """RFC 2759, sections 8.1 and 8.5: 24 octets."""
    block = challenge_hash(peer_challenge, challenge, name)
    keys = nt + bytes(5)
    return b"".join(des(keys[at : at + 7], block) for at in (0, 7, 14))


def authenticator_response(
    nt: bytes, response: bytes, peer_challenge: bytes, challenge: bytes, name: bytes
) -> bytes:
    """RFC 2759, section 8.7: what the server proves itself with."""
    digest = _sha1(md4(nt) + response + _MAGIC_1)
    return (
        b"S="
        + _sha1(digest + challenge_hash(peer_challenge, challenge, name) + _MAGIC_2).hex().upper().encode()
    )


def master_session_key(nt: bytes, response: bytes) -> bytes:
    """The MSK: the two keys of MPPE, the client's sending key first, and 32 zeros (RFC 3079, section 3.4)."""
    master = _sha1(md4(nt) + response + _MASTER)[:16]
    keys = [_sha1(master + bytes(40) + magic + b"\xf2" * 40)[:16] for magic in (_CLIENT_SENDS, _SERVER_SENDS)]
    return b"".join(keys) + bytes(32)


def bare_name(name: bytes) -> bytes:
    """Without the domain in front, as Windows sends it."""
    return name.rpartition(b"\\")[2]


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def hash_of(stored: Stored, method: str) -> bytes:
    """The NT hash of a user. Raises `EapFailed`."""
    if stored.nt:
        return stored.nt
    if not stored.text:
        raise no_form(stored.name, method, "an NT hash or the text of the password")
    return nt_hash(stored.text)


# -- the messages -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    operation: int
    identifier: int
    content: bytes


def encode(operation: int, identifier: int, content: bytes) -> bytes:
    return _HEAD.pack(operation, identifier, 4 + len(content)) + content


def decode(data: bytes) -> Message:
    """Raises `Malformed`. Of the last word the op code alone is sent (section 2.4 of the draft)."""
    if len(data) == 1 and data[0] in (SUCCESS, FAILURE):
        return Message(data[0], 0, b"")
    cursor = Cursor(data)
    (operation, identifier, _), body = cursor.structure(_HEAD)
    cursor.expect_end()
    return Message(operation, identifier, body.rest())


def check_response(
    nt: bytes, value: bytes, challenge: bytes, name: bytes, user: bytes
) -> tuple[bytes, bytes]:
    """(authenticator response, MSK) for 49 octets that prove the password. Raises `EapFailed`."""
    cursor = Cursor(value)
    peer_challenge = cursor.take(CHALLENGE_LENGTH)
    cursor.take(8)
    response = cursor.take(24)
    outcome: object = hmac.compare_digest(nt_response(nt, peer_challenge, challenge, name), response)
    if outcome is not True:
        raise wrong_password(user)
    return (
        authenticator_response(nt, response, peer_challenge, challenge, name),
        master_session_key(nt, response),
    )


def check_proof(content: bytes, proof: bytes) -> None:
    """That what the server says begins with this authenticator response, else `EapFailed`."""
    outcome: object = hmac.compare_digest(proof, content[: len(proof)].upper())
    if outcome is not True:
        raise EapFailed("the gateway does not know the password that it accepted", Kind.EAP_PASSWORD_WRONG)


def server(lookup: Lookup) -> ServerMaker:
    def start(user: bytes, entropy: Entropy) -> ServerMethod:
        stored = lookup(user)
        nt = hash_of(stored, "eap-mschapv2") if stored is not None else entropy.octets(16)
        challenge = entropy.octets(CHALLENGE_LENGTH)
        identifier = entropy.octets(1)[0]
        begin = bytes((CHALLENGE_LENGTH,)) + challenge + SERVER_NAME
        packet: Packet = yield encode(CHALLENGE, identifier, begin)
        message = decode(packet.data)
        if message.operation != RESPONSE or message.identifier != identifier:
            raise EapFailed("an EAP-MSCHAPv2 response was due")
        cursor = Cursor(message.content)
        value = cursor.take(cursor.u8())
        if len(value) != RESPONSE_LENGTH:
            raise Malformed(f"an EAP-MSCHAPv2 response of {len(value)} octets")
        name = cursor.rest()
        # The name in the response is what the client hashed; whose password it is was said before.
        if bare_name(name).lower() != bare_name(user).lower():
            raise wrong_password(name)
        # Refused by EAP's own Failure: MS-CHAPv2's would leave us waiting for clients that never answer it.
        proof, msk = check_response(nt, value, challenge, name, user)
        if stored is None:
            raise wrong_password(user)
        packet = yield encode(SUCCESS, identifier, proof + b" M=Welcome")
        if decode(packet.data).operation != SUCCESS:
            raise EapFailed("the client did not take our proof of its password")
        return Outcome(msk=msk, groups=stored.groups)

    return ServerMaker(EapType.MSCHAPV2, start)


def client(name: bytes, stored: Stored) -> ClientMaker:
    def start(entropy: Entropy) -> ClientMethod:
        nt = hash_of(stored, "eap-mschapv2")
        packet = yield None
        message = decode(packet.data)
        if message.operation != CHALLENGE:
            raise EapFailed("an EAP-MSCHAPv2 challenge was due")
        cursor = Cursor(message.content)
        challenge = cursor.take(cursor.u8())
        if len(challenge) != CHALLENGE_LENGTH:
            raise Malformed(f"an EAP-MSCHAPv2 challenge of {len(challenge)} octets")
        ours = entropy.octets(CHALLENGE_LENGTH)
        response = nt_response(nt, ours, challenge, name)
        value = bytes((RESPONSE_LENGTH,)) + ours + bytes(8) + response + b"\0" + name
        packet = yield Reply(encode(RESPONSE, message.identifier, value))
        message = decode(packet.data)
        if message.operation == FAILURE:
            said = f"the gateway refuses the password of {printable(name)}: {printable(message.content)}"
            yield Reply(bytes((FAILURE,)), refusal=said)
            raise EapFailed(said, Kind.EAP_PASSWORD_WRONG)
        if message.operation != SUCCESS:
            raise EapFailed("an EAP-MSCHAPv2 success was due")
        proof = authenticator_response(nt, response, ours, challenge, name)
        check_proof(message.content, proof)
        yield Reply(bytes((SUCCESS,)), Outcome(msk=master_session_key(nt, response)))

    return ClientMaker(EapType.MSCHAPV2, start)
