"""The kernel's reasons for dropping packets (/proc/net/xfrm_stat) by the names that all engines share."""

from __future__ import annotations

from pathlib import Path

from cygnet.ipsec.drops import Drop

STATISTICS = Path("/proc/net/xfrm_stat")
_NAMES: dict[str, str] = {
    "XfrmInNoStates": Drop.NO_SA,
    "XfrmInHdrError": Drop.SHORT,
    "XfrmInStateSeqError": Drop.REPLAY,
    "XfrmInStateProtoError": Drop.BAD_ICV,
    "XfrmInStateModeError": Drop.WRONG_PROTOCOL,
    "XfrmInStateMismatch": Drop.SELECTOR,
    "XfrmInTmplMismatch": "arrived_in_clear",
    "XfrmInNoPols": Drop.NO_POLICY,
    "XfrmInPolBlock": Drop.DISCARDED,
    "XfrmOutNoStates": Drop.NO_OUTBOUND_SA,
    "XfrmOutStateSeqError": Drop.SEQUENCE_EXHAUSTED,
    "XfrmOutStateExpired": Drop.HARD_LIMIT,
    "XfrmInStateExpired": Drop.HARD_LIMIT,
    "XfrmOutPolBlock": Drop.DISCARDED,
}


def drops() -> dict[str, int]:
    """What is not 0; others under the kernel's own names. Nothing where the kernel keeps none."""
    try:
        text = STATISTICS.read_text(encoding="ascii")
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        count = int(value.strip() or 0)
        if count:
            reason = str(_NAMES.get(name, name))
            found[reason] = found.get(reason, 0) + count
    return found
