"""ML-KEM-768 and ML-KEM-1024 (FIPS 203) as key exchange methods (draft-ietf-ipsecme-ikev2-mlkem).

The two ends differ: the initiator's KE payload is an encapsulation key, the responder's a ciphertext.
A ciphertext that was made for another key gives a secret that is as good as random (implicit
rejection): the exchange then fails where its keys are first used.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import mlkem

from cygnet.crypto.entropy import Entropy, SystemEntropy
from cygnet.crypto.errors import InvalidPublicValue, UnsupportedAlgorithm
from cygnet.wire.numbers import KeMethod

_SEED: Final = 64
_KEY_LENGTHS: Final = {KeMethod.ML_KEM_768: 1184, KeMethod.ML_KEM_1024: 1568}
_CIPHERTEXT_LENGTHS: Final = {KeMethod.ML_KEM_768: 1088, KeMethod.ML_KEM_1024: 1568}
METHODS: Final = tuple(_KEY_LENGTHS)


class MlKemKey:
    """The initiator's key pair. `public` is what its KE payload carries."""

    __slots__ = ("_private", "group", "public")

    def __init__(self, group: int, entropy: Entropy) -> None:
        self.group = group
        kind: type[mlkem.MLKEM768PrivateKey] | type[mlkem.MLKEM1024PrivateKey]
        kind = mlkem.MLKEM768PrivateKey if group == KeMethod.ML_KEM_768 else mlkem.MLKEM1024PrivateKey
        system = isinstance(entropy, SystemEntropy)
        self._private = kind.generate() if system else kind.from_seed_bytes(entropy.octets(_SEED))
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, ciphertext: bytes) -> bytes:
        """The secret in the responder's ciphertext; raises InvalidPublicValue (FIPS 203, section 7.3)."""
        if len(ciphertext) != _CIPHERTEXT_LENGTHS[self.group]:
            raise InvalidPublicValue(f"{KeMethod.name_of(self.group)} ciphertext of {len(ciphertext)} octets")
        return self._private.decapsulate(ciphertext)


def _encapsulation_key(group: int, data: bytes) -> mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey:
    if len(data) != key_length(group):
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} key of {len(data)} octets")
    kind = mlkem.MLKEM768PublicKey if group == KeMethod.ML_KEM_768 else mlkem.MLKEM1024PublicKey
    try:
        return kind.from_public_bytes(data)
    except ValueError:
        # FIPS 203, section 7.2: its coefficients are not reduced.
        raise InvalidPublicValue(f"{KeMethod.name_of(group)} key that is none") from None


def key_length(group: int) -> int:
    """Octets of an encapsulation key; raises UnsupportedAlgorithm."""
    try:
        return _KEY_LENGTHS[group]
    except KeyError:
        raise UnsupportedAlgorithm(f"key exchange {KeMethod.name_of(group)}") from None


def check_key(group: int, data: bytes) -> None:
    """Judge the initiator's key without encapsulating to it. Raises InvalidPublicValue."""
    _encapsulation_key(group, data)


def encapsulate(group: int, data: bytes) -> tuple[bytes, bytes]:
    """The responder's (ciphertext, shared secret) for the initiator's key; raises InvalidPublicValue.
    Its randomness is the library's own: FIPS 203 wants no other."""
    shared, ciphertext = _encapsulation_key(group, data).encapsulate()
    return ciphertext, shared
