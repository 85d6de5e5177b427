"""The IANA registries of IKEv1: ISAKMP, Oakley and the IPsec DOI, and what drafts and vendors added.

As `wire.numbers`: any number is legal, known ones have names. Many have the same value as something
else in IKEv2 (payload 4 is KE here and a method there), so a constant of this file is never used for IKEv2.
Sources: RFC 2407, 2408, 2409; IANA "ISAKMP identifiers", "IPSEC Notify", "Oakley attributes"; the RFCs
and drafts named beside the constants.
"""

from __future__ import annotations

from typing import Final

from cygnet.wire.numbers import Registry

DOI_IPSEC: Final = 1
"""RFC 2407: the only domain of interpretation that IKEv1 uses."""
SIT_IDENTITY_ONLY: Final = 1
"""RFC 2407, section 4.2.1: the only situation without labels."""


class Exchange(Registry):
    """RFC 2408, section 3.1; RFC 2409, section 5; TRANSACTION: draft-dukes-ike-mode-cfg-02."""

    BASE = 1
    MAIN_MODE = 2
    AUTHENTICATION_ONLY = 3
    AGGRESSIVE = 4
    INFORMATIONAL = 5
    TRANSACTION = 6
    QUICK_MODE = 32
    NEW_GROUP_MODE = 33


class Flags(Registry):
    """Bits of the header's flags octet (RFC 2408, section 3.1)."""

    ENCRYPTION = 0x01
    COMMIT = 0x02
    AUTHENTICATION_ONLY = 0x04


class PayloadType(Registry):
    """RFC 2408, section 3.1; the names are the notations of RFC 2409. NAT_D and NAT_OA: RFC 3947;
    above 127: private use, what drafts of NAT traversal and Cisco's fragmentation took."""

    NONE = 0
    SA = 1
    PROPOSAL = 2
    TRANSFORM = 3
    KE = 4
    ID = 5
    CERT = 6
    CERTREQ = 7
    HASH = 8
    SIG = 9
    NONCE = 10
    NOTIFY = 11
    DELETE = 12
    VENDOR_ID = 13
    ATTRIBUTES = 14
    NAT_D = 20
    NAT_OA = 21
    NAT_D_DRAFT = 130
    NAT_OA_DRAFT = 131
    FRAGMENT = 132


class Protocol(Registry):
    """RFC 2407, section 4.4.1."""

    NONE = 0
    ISAKMP = 1
    AH = 2
    ESP = 3
    IPCOMP = 4


class IsakmpTransform(Registry):
    """RFC 2407, section 4.4.2: the one transform of phase 1."""

    KEY_IKE = 1


class AhTransform(Registry):
    """RFC 2407, section 4.4.3, and IANA."""

    MD5 = 2
    SHA = 3
    DES = 4
    SHA2_256 = 5
    SHA2_384 = 6
    SHA2_512 = 7
    RIPEMD = 8
    AES_XCBC_MAC = 9
    RSA = 10
    AES_128_GMAC = 11
    AES_192_GMAC = 12
    AES_256_GMAC = 13


class EspTransform(Registry, spelling={3: "3DES_CBC", 8: "3IDEA"}):
    """RFC 2407, section 4.4.4, and IANA; equal to IKEv2's numbers up to 20, not beyond."""

    DES_IV64 = 1
    DES_CBC = 2
    TRIPLE_DES_CBC = 3
    RC5 = 4
    IDEA = 5
    CAST = 6
    BLOWFISH = 7
    TRIPLE_IDEA = 8
    DES_IV32 = 9
    RC4 = 10
    NULL = 11
    AES_CBC = 12
    AES_CTR = 13
    AES_CCM_8 = 14
    AES_CCM_12 = 15
    AES_CCM_16 = 16
    AES_GCM_8 = 18
    AES_GCM_12 = 19
    AES_GCM_16 = 20
    SEED_CBC = 21
    CAMELLIA_CBC = 22
    NULL_AES_GMAC = 23


class IpcompTransform(Registry):
    """RFC 2407, section 4.4.5."""

    OUI = 1
    DEFLATE = 2
    LZS = 3
    LZJH = 4


class Phase1Attribute(Registry):
    """RFC 2409, appendix A."""

    ENCRYPTION = 1
    HASH = 2
    AUTHENTICATION = 3
    GROUP = 4
    GROUP_TYPE = 5
    GROUP_PRIME = 6
    GROUP_GENERATOR_ONE = 7
    GROUP_GENERATOR_TWO = 8
    GROUP_CURVE_A = 9
    GROUP_CURVE_B = 10
    LIFE_TYPE = 11
    LIFE_DURATION = 12
    PRF = 13
    KEY_LENGTH = 14
    FIELD_SIZE = 15
    GROUP_ORDER = 16


class Phase2Attribute(Registry):
    """RFC 2407, section 4.5; EXT_SEQ: RFC 4304."""

    LIFE_TYPE = 1
    LIFE_DURATION = 2
    GROUP = 3
    ENCAPSULATION = 4
    AUTHENTICATION = 5
    KEY_LENGTH = 6
    KEY_ROUNDS = 7
    COMPRESS_DICTIONARY_SIZE = 8
    COMPRESS_PRIVATE_ALGORITHM = 9
    ECN_TUNNEL = 10
    EXT_SEQ = 11
    AUTHENTICATION_KEY_LENGTH = 12
    SIGNATURE_ALGORITHM = 13


class Encryption(Registry, spelling={5: "3DES_CBC"}):
    """Phase 1's ciphers (RFC 2409, appendix A; AES: RFC 3602; Camellia: RFC 4312)."""

    DES_CBC = 1
    IDEA_CBC = 2
    BLOWFISH_CBC = 3
    RC5_R16_B64_CBC = 4
    TRIPLE_DES_CBC = 5
    CAST_CBC = 6
    AES_CBC = 7
    CAMELLIA_CBC = 8


class Hash(Registry):
    """RFC 2409, appendix A; SHA-2: IANA (RFC 4868)."""

    MD5 = 1
    SHA1 = 2
    TIGER = 3
    SHA2_256 = 4
    SHA2_384 = 5
    SHA2_512 = 6


class Authentication(Registry):
    """Phase 1's authentication methods (RFC 2409, appendix A). ECDSA: RFC 4754. Hybrid:
    draft-ietf-ipsec-isakmp-hybrid-auth-05. XAUTH: draft-beaulieu-ike-xauth-02, section 7.2."""

    PSK = 1
    DSS_SIGNATURE = 2
    RSA_SIGNATURE = 3
    RSA_ENCRYPTION = 4
    REVISED_RSA_ENCRYPTION = 5
    ECDSA_256 = 9
    ECDSA_384 = 10
    ECDSA_521 = 11
    HYBRID_INIT_RSA = 64221
    HYBRID_RESP_RSA = 64222
    HYBRID_INIT_DSS = 64223
    HYBRID_RESP_DSS = 64224
    XAUTH_INIT_PSK = 65001
    XAUTH_RESP_PSK = 65002
    XAUTH_INIT_DSS = 65003
    XAUTH_RESP_DSS = 65004
    XAUTH_INIT_RSA = 65005
    XAUTH_RESP_RSA = 65006
    XAUTH_INIT_RSA_ENCRYPTION = 65007
    XAUTH_RESP_RSA_ENCRYPTION = 65008
    XAUTH_INIT_REVISED_RSA_ENCRYPTION = 65009
    XAUTH_RESP_REVISED_RSA_ENCRYPTION = 65010


class LifeType(Registry):
    """RFC 2409, appendix A; RFC 2407, section 4.5: the same in both phases."""

    SECONDS = 1
    KILOBYTES = 2


class Encapsulation(Registry):
    """RFC 2407, section 4.5; 3 and 4: RFC 3947, section 5.1; the private ones: its drafts 02 and 03."""

    TUNNEL = 1
    TRANSPORT = 2
    UDP_TUNNEL = 3
    UDP_TRANSPORT = 4
    UDP_TUNNEL_DRAFT = 61443
    UDP_TRANSPORT_DRAFT = 61444


class IntegrityAlgorithm(Registry):
    """Phase 2's attribute "authentication algorithm" (RFC 2407, section 4.5, and IANA)."""

    HMAC_MD5 = 1
    HMAC_SHA1 = 2
    DES_MAC = 3
    KPDK = 4
    HMAC_SHA2_256 = 5
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7
    HMAC_RIPEMD = 8
    AES_XCBC_MAC = 9
    SIGNATURE_RSA = 10
    AES_128_GMAC = 11
    AES_192_GMAC = 12
    AES_256_GMAC = 13


class IdType(Registry):
    """RFC 2407, section 4.6.2.1."""

    IPV4_ADDR = 1
    FQDN = 2
    USER_FQDN = 3
    IPV4_ADDR_SUBNET = 4
    IPV6_ADDR = 5
    IPV6_ADDR_SUBNET = 6
    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class CertEncoding(Registry):
    """RFC 2408, section 3.9."""

    NONE = 0
    PKCS7_X509 = 1
    PGP = 2
    DNS_SIGNED_KEY = 3
    X509_SIGNATURE = 4
    X509_KEY_EXCHANGE = 5
    KERBEROS_TOKENS = 6
    CRL = 7
    ARL = 8
    SPKI = 9
    X509_ATTRIBUTE = 10


class Notify(Registry):
    """RFC 2408, section 3.14.1; RFC 2407, section 4.6.3; RFC 3706; Cisco's load balancing."""

    INVALID_PAYLOAD_TYPE = 1
    DOI_NOT_SUPPORTED = 2
    SITUATION_NOT_SUPPORTED = 3
    INVALID_COOKIE = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_MINOR_VERSION = 6
    INVALID_EXCHANGE_TYPE = 7
    INVALID_FLAGS = 8
    INVALID_MESSAGE_ID = 9
    INVALID_PROTOCOL_ID = 10
    INVALID_SPI = 11
    INVALID_TRANSFORM_ID = 12
    ATTRIBUTES_NOT_SUPPORTED = 13
    NO_PROPOSAL_CHOSEN = 14
    BAD_PROPOSAL_SYNTAX = 15
    PAYLOAD_MALFORMED = 16
    INVALID_KEY_INFORMATION = 17
    INVALID_ID_INFORMATION = 18
    INVALID_CERT_ENCODING = 19
    INVALID_CERTIFICATE = 20
    CERT_TYPE_UNSUPPORTED = 21
    INVALID_CERT_AUTHORITY = 22
    INVALID_HASH_INFORMATION = 23
    AUTHENTICATION_FAILED = 24
    INVALID_SIGNATURE = 25
    ADDRESS_NOTIFICATION = 26
    NOTIFY_SA_LIFETIME = 27
    CERTIFICATE_UNAVAILABLE = 28
    UNSUPPORTED_EXCHANGE_TYPE = 29
    UNEQUAL_PAYLOAD_LENGTHS = 30
    CONNECTED = 16384
    RESPONDER_LIFETIME = 24576
    REPLAY_STATUS = 24577
    INITIAL_CONTACT = 24578
    R_U_THERE = 36136
    R_U_THERE_ACK = 36137
    UNITY_LOAD_BALANCE = 40501

    @staticmethod
    def is_error(number: int) -> bool:
        """RFC 2408, section 3.14.1: 1 to 8191, and 8192 to 16383 for private use."""
        return 0 < number < 16384


class CfgType(Registry):
    """draft-dukes-ike-mode-cfg-02, section 3.2."""

    REQUEST = 1
    REPLY = 2
    SET = 3
    ACK = 4


class CfgAttribute(Registry):
    """Mode config (draft-dukes-ike-mode-cfg-02, section 3.3), XAUTH (draft-beaulieu-ike-xauth-02, 6.2),
    and Cisco's Unity attributes (as Cisco's clients, vpnc, racoon and strongSwan have them)."""

    INTERNAL_IP4_ADDRESS = 1
    INTERNAL_IP4_NETMASK = 2
    INTERNAL_IP4_DNS = 3
    INTERNAL_IP4_NBNS = 4
    INTERNAL_ADDRESS_EXPIRY = 5
    INTERNAL_IP4_DHCP = 6
    APPLICATION_VERSION = 7
    INTERNAL_IP6_ADDRESS = 8
    INTERNAL_IP6_NETMASK = 9
    INTERNAL_IP6_DNS = 10
    INTERNAL_IP6_NBNS = 11
    INTERNAL_IP6_DHCP = 12
    INTERNAL_IP4_SUBNET = 13
    SUPPORTED_ATTRIBUTES = 14
    INTERNAL_IP6_SUBNET = 15
    XAUTH_TYPE = 16520
    XAUTH_USER_NAME = 16521
    XAUTH_USER_PASSWORD = 16522
    XAUTH_PASSCODE = 16523
    XAUTH_MESSAGE = 16524
    XAUTH_CHALLENGE = 16525
    XAUTH_DOMAIN = 16526
    XAUTH_STATUS = 16527
    XAUTH_NEXT_PIN = 16528
    XAUTH_ANSWER = 16529
    UNITY_BANNER = 28672
    UNITY_SAVE_PASSWD = 28673
    UNITY_DEF_DOMAIN = 28674
    UNITY_SPLITDNS_NAME = 28675
    UNITY_SPLIT_INCLUDE = 28676
    UNITY_NATT_PORT = 28677
    UNITY_LOCAL_LAN = 28678
    UNITY_PFS = 28679
    UNITY_FW_TYPE = 28680
    UNITY_BACKUP_SERVERS = 28681
    UNITY_DDNS_HOSTNAME = 28682


class XauthType(Registry):
    """draft-beaulieu-ike-xauth-02, section 6.3."""

    GENERIC = 0
    RADIUS_CHAP = 1
    OTP = 2
    S_KEY = 3


class XauthStatus(Registry):
    """draft-beaulieu-ike-xauth-02, section 6.2."""

    FAIL = 0
    OK = 1
