"""Why a packet was dropped: stable names that counters, events and tests share.

ICV and padding failures are silent on the wire and cost the same whoever sent them
(RFC 4303, section 3.4.4); the names are for the operator of this gateway only.
"""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    # -- from the wire
    SHORT = "short"
    """Too short for an ESP header, or not a whole number of the cipher's blocks."""
    NO_SA = "no_sa"
    REPLAY = "replay"
    """Seen before, older than the window, or sequence number 0."""
    BAD_ICV = "bad_icv"
    BAD_PADDING = "bad_padding"
    """Authentic, but the pad is not 1, 2, 3, ... or longer than the packet (RFC 4303, 2.4)."""
    DUMMY = "dummy"
    """Next header 59: traffic flow padding that is meant to be dropped (RFC 4303, 2.6)."""
    WRONG_PROTOCOL = "wrong_protocol"
    """The next header is not the one the SA's mode carries."""
    BAD_INNER = "bad_inner"
    """What came out of the tunnel is no IP packet."""
    SELECTOR = "selector"
    """Not within the selectors of the SA it came in on (RFC 4301, 5.2)."""
    CARVED_OUT = "carved_out"
    """Within the SA's selectors, but a rule of this gateway's own says it is not for the tunnel."""
    ECN = "ecn"
    """Congestion was marked on the outside of a packet that cannot carry it (RFC 6040, 4.2)."""
    BAD_HEADER = "bad_header"
    """An IP header, option or extension header that cannot be, or that AH cannot protect."""
    BAD_COMPRESSION = "bad_compression"
    """IPComp that does not expand, expands too far, or has another CPI (RFC 3173)."""
    NOT_BUNDLED = "not_bundled"
    """ESP that should have come inside AH, or AH of a bundle around something else."""
    REASSEMBLY = "reassembly"
    """Fragments that overlap, lie, came too late or are too many at once."""
    BAD_CHECKSUM = "bad_checksum"
    RUNT = "runt"
    """A datagram on port 4500 too short for either protocol."""

    # -- from the inside
    NOT_IP = "not_ip"
    NO_POLICY = "no_policy"
    """No rule puts this flow into a tunnel, yet the kernel routed it here."""
    DISCARDED = "discarded"
    """A rule says discard."""
    NO_OUTBOUND_SA = "no_outbound_sa"
    """Permitted, but no SA yet, and it could not be held until there is one."""
    HELD_TOO_LONG = "held_too_long"
    TOO_BIG = "too_big"
    SEQUENCE_EXHAUSTED = "sequence_exhausted"
    HARD_LIMIT = "hard_limit"
    LOOP = "loop"
    """A packet of our own making came back to be sealed again."""

    FAULT = "fault"
    """Cygnet's own mistake; a warning says which."""

    ICMP_UNPROVEN = "icmp_unproven"
    """A "packet too big" from outside that quotes no live SA: it is not believed (RFC 4301, 8.2.1)."""

    # -- at the descriptors
    SEND_FAILED = "send_failed"
    TUN_FULL = "tun_full"
    REPORT_FULL = "report_full"
    """A report or a foreign datagram found the daemon's socket full."""
