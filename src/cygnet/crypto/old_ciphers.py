"""Ciphers that the library keeps among its deprecated ones: the one import place of them.

Both must be asked for by name. 3DES has blocks of 64 bits, so that 2^32 of them under one key begin to
tell about each other (RFC 8221, section 5, and "Sweet32"): its SAs should be rekeyed by volume.
"""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES

__all__ = ["Camellia", "TripleDES"]
