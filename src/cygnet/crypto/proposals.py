"""Proposals as people write them: swanctl's keywords to IANA transforms and back.

One string is one proposal, its keywords joined by `-`; several algorithms of one kind are
alternatives: `aes128-aes256-sha256-modp2048-ecp256`. A comma or a list gives several proposals,
`default` stands for DEFAULT_IKE or DEFAULT_ESP. The rules are strongSwan's: without a PRF keyword
the PRFs are those of the integrity algorithms; AEADs take no integrity algorithm and never share a
proposal with other ciphers (RFC 7296, section 3.3); an ESP proposal without `esn` means `noesn`;
key exchange methods in an ESP or AH proposal ask for PFS, and `none` beside them makes it optional.
`ke1_mlkem768` adds a key exchange to the first one, `ke2_...` to `ke7_...` further ones (RFC 9370).
`aes128gmac` is a cipher in ESP and an integrity algorithm in AH.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import field

from cygnet.crypto.legacy import LEGACY
from cygnet.crypto.suites import ONLY_ESP, is_aead
from cygnet.records import dataclass
from cygnet.wire.numbers import Encr, Esn, Integ, KeMethod, Prf, Protocol, TransformType

MAX_PROPOSAL_TEXT = 1024


class BadProposal(ValueError):
    """A proposal that cannot be; the text names the keyword or the lack, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Transform:
    """`type` and `id` as in `wire.numbers`; `key_bits` 0: no Key Length attribute."""

    type: int
    id: int
    key_bits: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """`protocol` as in `wire.numbers.Protocol`. Within a type, transforms stand in order of preference."""

    protocol: int
    transforms: tuple[Transform, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Configured proposals are keys of remembered choices, again with each negotiation.
        object.__setattr__(self, "_hash", hash((self.protocol, self.transforms)))

    def __hash__(self) -> int:
        return self._hash

    def of_type(self, transform_type: int) -> tuple[Transform, ...]:
        return tuple(transform for transform in self.transforms if transform.type == transform_type)


def _keywords() -> dict[str, Transform]:
    table = {
        "null": Transform(TransformType.ENCR, Encr.NULL),
        "chacha20poly1305": Transform(TransformType.ENCR, Encr.CHACHA20_POLY1305),
        "chacha20poly1305iiv": Transform(TransformType.ENCR, Encr.CHACHA20_POLY1305_IIV),
        "3des": Transform(TransformType.ENCR, Encr.TRIPLE_DES_CBC),
        "des": Transform(TransformType.ENCR, Encr.DES_CBC),
    }
    icv_lengths = (
        ("ccm", Encr.AES_CCM_16, 16, 128),
        ("ccm", Encr.AES_CCM_12, 12, 96),
        ("ccm", Encr.AES_CCM_8, 8, 64),
        ("gcm", Encr.AES_GCM_16, 16, 128),
        ("gcm", Encr.AES_GCM_12, 12, 96),
        ("gcm", Encr.AES_GCM_8, 8, 64),
    )
    for bits in (128, 192, 256):
        table[f"aes{bits}"] = Transform(TransformType.ENCR, Encr.AES_CBC, bits)
        table[f"aes{bits}ctr"] = Transform(TransformType.ENCR, Encr.AES_CTR, bits)
        table[f"aes{bits}gmac"] = Transform(TransformType.ENCR, Encr.NULL_AES_GMAC, bits)
        table[f"camellia{bits}"] = Transform(TransformType.ENCR, Encr.CAMELLIA_CBC, bits)
        table[f"aes{bits}gcm16iiv"] = Transform(TransformType.ENCR, Encr.AES_GCM_16_IIV, bits)
        table[f"aes{bits}ccm8iiv"] = Transform(TransformType.ENCR, Encr.AES_CCM_8_IIV, bits)
        for mode, number, octets, icv_bits in icv_lengths:
            transform = Transform(TransformType.ENCR, number, bits)
            table[f"aes{bits}{mode}{octets}"] = table[f"aes{bits}{mode}{icv_bits}"] = transform
            if octets == 16:
                table[f"aes{bits}{mode}"] = transform
    for transform_type, names in _SINGLE_WORDS.items():
        for number, spellings in names.items():
            for spelling in spellings:
                table[spelling] = Transform(transform_type, number)
    table["aes"] = table["aes128"]
    table["camellia"] = table["camellia128"]
    return table


# The first spelling of each is the one that `keywords_of` and messages use.
_SINGLE_WORDS: dict[int, dict[int, tuple[str, ...]]] = {
    TransformType.INTEG: {
        Integ.HMAC_SHA1_96: ("sha1", "sha"),
        Integ.HMAC_SHA2_256_128: ("sha256", "sha2_256"),
        Integ.HMAC_SHA2_384_192: ("sha384", "sha2_384"),
        Integ.HMAC_SHA2_512_256: ("sha512", "sha2_512"),
        Integ.AES_XCBC_96: ("aesxcbc",),
        Integ.AES_CMAC_96: ("aescmac",),
        Integ.HMAC_MD5_96: ("md5",),
    },
    TransformType.PRF: {
        Prf.PRF_HMAC_SHA1: ("prfsha1",),
        Prf.PRF_HMAC_SHA2_256: ("prfsha256",),
        Prf.PRF_HMAC_SHA2_384: ("prfsha384",),
        Prf.PRF_HMAC_SHA2_512: ("prfsha512",),
        Prf.PRF_AES128_XCBC: ("prfaesxcbc",),
        Prf.PRF_AES128_CMAC: ("prfaescmac",),
        Prf.PRF_HMAC_MD5: ("prfmd5",),
    },
    TransformType.KE: {
        KeMethod.NONE: ("none", "modpnone"),
        KeMethod.MODP_2048: ("modp2048",),
        KeMethod.MODP_3072: ("modp3072",),
        KeMethod.MODP_4096: ("modp4096",),
        KeMethod.MODP_6144: ("modp6144",),
        KeMethod.MODP_8192: ("modp8192",),
        KeMethod.MODP_768: ("modp768",),
        KeMethod.MODP_1024: ("modp1024",),
        KeMethod.MODP_1536: ("modp1536",),
        KeMethod.ECP_256: ("ecp256",),
        KeMethod.ECP_384: ("ecp384",),
        KeMethod.ECP_521: ("ecp521",),
        KeMethod.ECP_256_BP: ("ecp256bp",),
        KeMethod.ECP_384_BP: ("ecp384bp",),
        KeMethod.ECP_512_BP: ("ecp512bp",),
        KeMethod.CURVE_25519: ("x25519", "curve25519"),
        KeMethod.CURVE_448: ("x448", "curve448"),
        KeMethod.ML_KEM_768: ("mlkem768",),
        KeMethod.ML_KEM_1024: ("mlkem1024",),
    },
    TransformType.ESN: {
        Esn.NO_EXT_SEQ: ("noesn",),
        Esn.EXT_SEQ: ("esn",),
    },
}
KEYWORDS = _keywords()
_KEYWORD_OF: dict[Transform, str] = {}
for _word, _meant in KEYWORDS.items():
    _KEYWORD_OF.setdefault(_meant, _word)

_AH_OF_GMAC = {
    KEYWORDS["aes128gmac"]: Transform(TransformType.INTEG, Integ.AES_128_GMAC),
    KEYWORDS["aes192gmac"]: Transform(TransformType.INTEG, Integ.AES_192_GMAC),
    KEYWORDS["aes256gmac"]: Transform(TransformType.INTEG, Integ.AES_256_GMAC),
}
_KEYWORD_OF |= {integrity: _KEYWORD_OF[cipher] for cipher, integrity in _AH_OF_GMAC.items()}

ADDITIONAL = tuple(range(TransformType.ADDITIONAL_KE_1, TransformType.ADDITIONAL_KE_7 + 1))
"""The transform types of additional key exchanges, in the order in which they are done (RFC 9370, 2.2.1)."""
_ADDITIONAL_KEYWORD = re.compile(r"ke([1-7])_(.+)")

PRF_OF_INTEGRITY = {
    Integ.HMAC_SHA1_96: Prf.PRF_HMAC_SHA1,
    Integ.HMAC_SHA2_256_128: Prf.PRF_HMAC_SHA2_256,
    Integ.HMAC_SHA2_384_192: Prf.PRF_HMAC_SHA2_384,
    Integ.HMAC_SHA2_512_256: Prf.PRF_HMAC_SHA2_512,
    Integ.AES_XCBC_96: Prf.PRF_AES128_XCBC,
    Integ.AES_CMAC_96: Prf.PRF_AES128_CMAC,
    Integ.HMAC_MD5_96: Prf.PRF_HMAC_MD5,
}
_KIND = {
    TransformType.ENCR: "encryption",
    TransformType.PRF: "PRF",
    TransformType.INTEG: "integrity",
    TransformType.KE: "key exchange",
    TransformType.ESN: "sequence number",
}
_TYPES = {
    Protocol.IKE: (TransformType.ENCR, TransformType.INTEG, TransformType.PRF, TransformType.KE),
    Protocol.AH: (TransformType.INTEG, TransformType.KE, TransformType.ESN),
    Protocol.ESP: (TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN),
}
"""What keywords name directly; additional key exchanges are the key exchanges with a prefix."""
_PROTOCOL_NAME = {Protocol.IKE: "IKE", Protocol.AH: "AH", Protocol.ESP: "ESP"}


def keywords_for(protocol: int, *types: int) -> tuple[str, ...]:
    """The keywords that a proposal of this protocol may hold, of these transform types (none: all).

    One spelling each; KEYWORDS has the others too.
    """
    wanted = set(types or _TYPES[protocol]) & set(_TYPES[protocol])
    return tuple(
        keyword
        for transform, keyword in _KEYWORD_OF.items()
        if transform.type in wanted
        and not (protocol == Protocol.IKE and _only_for_esp(transform))
        and not (protocol != Protocol.AH and transform in _AH_OF_GMAC.values())
    )


def _allowed(protocol: int) -> str:
    kinds = [
        f"{_KIND[transform_type]}: {', '.join(keywords_for(protocol, transform_type))}"
        for transform_type in _TYPES[protocol]
    ]
    return "; ".join([*kinds, "additional key exchanges: a key exchange behind ke1_ to ke7_"])


def _transform(keyword: str) -> Transform | None:
    """What a keyword stands for, None if it is none."""
    added = _ADDITIONAL_KEYWORD.fullmatch(keyword)
    if added is None:
        return KEYWORDS.get(keyword)
    method = KEYWORDS.get(added[2])
    if method is None or method.type != TransformType.KE:
        return None
    return Transform(ADDITIONAL[int(added[1]) - 1], method.id)


def _only_for_esp(transform: Transform) -> bool:
    if transform.type == TransformType.ENCR:
        return transform.id in ONLY_ESP
    return transform == KEYWORDS["none"]


def parse_proposals(text_or_list: str | Iterable[str], protocol: int) -> tuple[Proposal, ...]:
    """Proposals in order of preference, for one of Protocol; raises BadProposal."""
    texts = [text_or_list] if isinstance(text_or_list, str) else text_or_list
    words = [word.strip() for text in texts for word in text.split(",")]
    proposals: list[Proposal] = []
    for word in words:
        if word.lower() == "default":
            proposals.extend(default_proposals(protocol))
        else:
            proposals.append(_parse_one(word.lower(), protocol))
    if not proposals:
        raise BadProposal("no proposal given")
    return tuple(dict.fromkeys(proposals))


@functools.lru_cache(maxsize=256)
def _parse_one(text: str, protocol: int) -> Proposal:
    if len(text) > MAX_PROPOSAL_TEXT:
        raise BadProposal(f"a proposal of {len(text)} characters; at most {MAX_PROPOSAL_TEXT}")
    chosen: dict[int, list[Transform]] = {kind: [] for kind in (*_TYPES[protocol], *ADDITIONAL)}
    for keyword in text.split("-"):
        transform = _transform(keyword)
        if transform is None:
            raise BadProposal(
                f"unknown keyword {keyword!r} in proposal {text!r}; allowed: {_allowed(protocol)}"
            )
        if protocol == Protocol.AH:
            transform = _AH_OF_GMAC.get(transform, transform)
        if transform.type not in chosen or (protocol == Protocol.IKE and _only_for_esp(transform)):
            raise BadProposal(
                f"keyword {keyword!r} has no place in an {_PROTOCOL_NAME[protocol]} proposal ({text!r}); "
                f"allowed: {_allowed(protocol)}"
            )
        if transform not in chosen[transform.type]:
            chosen[transform.type].append(transform)
    _complete(chosen, text, protocol)
    _check_exchanges(chosen, text, protocol)
    return Proposal(protocol, tuple(transform for group in chosen.values() for transform in group))


def _complete(chosen: dict[int, list[Transform]], text: str, protocol: int) -> None:
    """Fill in what the keywords imply and refuse what cannot work."""
    if protocol == Protocol.AH:
        if not chosen[TransformType.INTEG]:
            raise _lacks(TransformType.INTEG, text, protocol)
        if not chosen[TransformType.ESN]:
            chosen[TransformType.ESN].append(KEYWORDS["noesn"])
        return
    encryption = chosen[TransformType.ENCR]
    if not encryption:
        raise _lacks(TransformType.ENCR, text, protocol)
    aeads = [is_aead(transform.id) for transform in encryption]
    if any(aeads) and not all(aeads):
        raise BadProposal(
            f"proposal {text!r} mixes AEAD ciphers with others, which one proposal cannot hold: "
            "write two proposals"
        )
    integrity = chosen[TransformType.INTEG]
    if not aeads[0] and not integrity:
        raise _lacks(TransformType.INTEG, text, protocol)
    if protocol == Protocol.IKE:
        prfs = chosen[TransformType.PRF]
        if not prfs:
            prfs.extend(
                Transform(TransformType.PRF, PRF_OF_INTEGRITY[mac.id])
                for mac in integrity
                if mac.id in PRF_OF_INTEGRITY
            )
        if not prfs:
            raise _lacks(TransformType.PRF, text, protocol)
        if not chosen[TransformType.KE]:
            raise _lacks(TransformType.KE, text, protocol)
    elif not chosen[TransformType.ESN]:
        chosen[TransformType.ESN].append(KEYWORDS["noesn"])
    if aeads[0]:
        integrity.clear()


def _check_exchanges(chosen: dict[int, list[Transform]], text: str, protocol: int) -> None:
    """Additional key exchanges come on top of one, and all differ (RFC 9370, section 2.2.1)."""
    exchanges = [[t.id for t in chosen[kind]] for kind in (TransformType.KE, *ADDITIONAL) if chosen[kind]]
    if any(chosen[kind] for kind in ADDITIONAL) and not any(t.id for t in chosen[TransformType.KE]):
        raise _lacks(TransformType.KE, text, protocol)
    if distinct(exchanges) is None:
        raise BadProposal(f"proposal {text!r} leaves no choice but the same key exchange twice")


def distinct(choices: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """One of each list, the first that will do, none but 0 twice; None if that cannot be.
    At most eight lists, the key exchanges of a proposal."""
    if not choices:
        return ()
    for one in choices[0]:
        others = [[other for other in rest if other != one or not other] for rest in choices[1:]]
        found = distinct(others)
        if found is not None:
            return (one, *found)
    return None


def has_additional(proposal: Proposal) -> bool:
    """Whether it names additional key exchanges (or their absence)."""
    return any(transform.type in ADDITIONAL for transform in proposal.transforms)


def _lacks(transform_type: int, text: str, protocol: int) -> BadProposal:
    allowed = ", ".join(keywords_for(protocol, transform_type))
    return BadProposal(f"proposal {text!r} has no {_KIND[transform_type]} algorithm; allowed: {allowed}")


# Today's good practice (RFC 8221, RFC 8247): AEADs first, no SHA-1, nothing below 128 bits but MODP 2048.
# What a quantum computer does not open comes first, for whoever can; a responder takes its own order.
DEFAULT_IKE: Sequence[str] = (
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512"
    "-x25519-ecp256-ecp384-ecp521-x448-ke1_mlkem768",
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512"
    "-x25519-ecp256-ecp384-ecp521-x448-modp3072-modp4096-modp2048",
    "aes256-aes192-aes128-sha256-sha384-sha512-prfsha256-prfsha384-prfsha512"
    "-x25519-ecp256-ecp384-ecp521-x448-modp3072-modp4096-modp2048",
)
# PFS where the peer has it; `none` because many peers do not ask for it.
DEFAULT_ESP: Sequence[str] = (
    "aes256gcm16-aes128gcm16-chacha20poly1305-x25519-ecp256-ecp384-ecp521-x448-modp3072-modp4096-modp2048-none-esn-noesn",
    "aes256-aes192-aes128-sha256-sha384-sha512-x25519-ecp256-ecp384-ecp521-x448-modp3072-modp4096-modp2048-none-esn-noesn",
)
DEFAULT_AH: Sequence[str] = (
    "sha256-sha384-sha512-x25519-ecp256-ecp384-ecp521-x448-modp3072-modp4096-modp2048-none-esn-noesn",
)


def default_proposals(protocol: int) -> tuple[Proposal, ...]:
    """What `default` stands for."""
    texts = {Protocol.IKE: DEFAULT_IKE, Protocol.AH: DEFAULT_AH}.get(protocol, DEFAULT_ESP)
    return tuple(_parse_one(text, protocol) for text in texts)


def without_key_exchange(proposal: Proposal) -> Proposal:
    """The proposal as IKE_AUTH offers it, whose Child SA has no key exchange of its own (RFC 7296, 1.2)."""
    return Proposal(
        proposal.protocol,
        tuple(t for t in proposal.transforms if t.type != TransformType.KE and t.type not in ADDITIONAL),
    )


def legacy_keywords(proposals: Iterable[Proposal]) -> tuple[str, ...]:
    """The keywords of what `crypto.legacy` calls too weak for today, each once: to be warned of."""
    found = {
        _KEYWORD_OF[transform]: None
        for proposal in proposals
        for transform in proposal.transforms
        if (transform.type, transform.id) in LEGACY and transform in _KEYWORD_OF
    }
    return tuple(found)


def transform_name(transform: Transform) -> str:
    """As strongSwan prints it: AES_GCM_16_256, HMAC_SHA2_256_128, CURVE_25519. Any number has a name."""
    registries = {
        TransformType.ENCR: Encr,
        TransformType.PRF: Prf,
        TransformType.INTEG: Integ,
        TransformType.KE: KeMethod,
        TransformType.ESN: Esn,
    }
    registry = registries.get(transform.type)
    if transform.type in ADDITIONAL:
        return f"KE{ADDITIONAL.index(transform.type) + 1}_{KeMethod.name_of(transform.id)}"
    if registry is None:
        return f"{TransformType.name_of(transform.type)}_{transform.id}"
    name = registry.name_of(transform.id)
    return f"{name}_{transform.key_bits}" if transform.key_bits else name


def format_proposal(proposal: Proposal) -> str:
    """As strongSwan prints it: `IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519`; any peer's too."""
    names = "/".join(transform_name(transform) for transform in proposal.transforms)
    return f"{Protocol.name_of(proposal.protocol)}:{names}"


def keywords_of(proposal: Proposal) -> str:
    """As swanctl.conf writes it: `aes256gcm16-prfsha384-x25519`; what has no keyword is left as its name."""
    return "-".join(map(_word_for, proposal.transforms))


def _word_for(transform: Transform) -> str:
    if transform.type in ADDITIONAL:
        method = _word_for(Transform(TransformType.KE, transform.id))
        return f"ke{ADDITIONAL.index(transform.type) + 1}_{method}"
    return _KEYWORD_OF.get(transform) or transform_name(transform)
