"""What can go wrong in a primitive. None of the texts holds octets of the peer or of a key."""

from __future__ import annotations


class UnsupportedAlgorithm(Exception):
    """No such algorithm here, or not in this combination (key length, missing integrity)."""


class IntegrityFailure(Exception):
    """The integrity check value is not the one that the key gives."""


class InvalidPublicValue(Exception):
    """A key exchange value that must not be computed with (RFC 6989), or whose result must not be used."""


class SignatureInvalid(Exception):
    """The signature is not one by this key over these octets."""


class UnsuitableKey(SignatureInvalid):
    """A key that is too weak, too large, malformed, or of a kind that the scheme cannot use."""
