"""`secrets` and `authorities`: what this gateway proves itself with, and whom it believes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cygnet.config.model.kinds import Files, Hashes, Ids, MaybeSecret, OneUrl, Secret, Text, Texts, Urls
from cygnet.config.model.section import Section, key


class Shared(Section):
    GATHER: ClassVar[dict[str, str]] = {"id": "ids"}
    GATHER_VALUES: ClassVar[frozenset[str]] = frozenset({"id"})

    secret: Secret = Field(
        repr=False, description="The secret: text, `0x` and hex digits, or `0s` and base64."
    )
    ids: dict[str, Ids] = key({}, "`id<suffix>`: identities of those who share it; none: everybody.")


class Password(Section):
    GATHER: ClassVar[dict[str, str]] = {"id": "ids"}
    GATHER_VALUES: ClassVar[frozenset[str]] = frozenset({"id"})

    secret: MaybeSecret = Field(
        default=None,
        repr=False,
        description="The password: text, `0x` and hex digits, or `0s` and base64. Serves every method.",
        json_schema_extra={"x-default": ""},
    )
    hash: Hashes = Field(
        default=(),
        repr=False,
        description="Instead of the password what is kept of it (`cygnet client hash` makes them): "
        "`$scrypt$...` for EAP-GTC, PAP and XAUTH, `$nt$...` for EAP-MSCHAPv2.",
    )
    groups: Texts = key((), "Groups that the user is a member of; see `remote.groups`.")
    ids: dict[str, Ids] = key({}, "`id<suffix>`: names of the user.")


class Key(Section):
    file: Text = Field(
        description="File of the private key, PEM, DER or PKCS#12; relative ones in `private/`."
    )
    secret: MaybeSecret = Field(default=None, repr=False, description="Passphrase of an encrypted key.")


class Secrets(Section):
    GATHER: ClassVar[dict[str, str]] = {
        "ike": "ike", "eap": "eap", "xauth": "xauth", "ntlm": "ntlm", "ppk": "ppk", "private": "private",
        "rsa": "rsa", "ecdsa": "ecdsa", "pkcs8": "pkcs8", "pkcs12": "pkcs12",
    }  # fmt: skip

    ike: dict[str, Shared] = key({}, "`ike<suffix>`: pre-shared keys.")
    users: Files = key(
        (),
        "Files of users, one a line: a name, what is kept of the password (`hash` of an `eap` section, one or"
        " two), and `groups=a,b`; `#` begins a comment.",
    )
    eap: dict[str, Password] = key({}, "`eap<suffix>`: the password of a user.")
    xauth: dict[str, Password] = key({}, "`xauth<suffix>`: the same.")
    ntlm: dict[str, Shared] = key({}, "`ntlm<suffix>`: the NT hash of a user's password, 16 octets.")
    ppk: dict[str, Shared] = key(
        {}, "`ppk<suffix>`: postquantum pre-shared keys (RFC 8784), named by their `id`."
    )
    private: dict[str, Key] = key(
        {}, "`private<suffix>`: a private key, and its passphrase if it is encrypted."
    )
    rsa: dict[str, Key] = key({}, "`rsa<suffix>`: the same, in `rsa/`.")
    ecdsa: dict[str, Key] = key({}, "`ecdsa<suffix>`: the same, in `ecdsa/`.")
    pkcs8: dict[str, Key] = key({}, "`pkcs8<suffix>`: the same, in `pkcs8/`.")
    pkcs12: dict[str, Key] = key({}, "`pkcs12<suffix>`: a key with its certificates, in `pkcs12/`.")


class Authority(Section):
    LATER: ClassVar[dict[str, tuple[str, ...]]] = {"handle": (), "slot": (), "module": ()}

    cacert: Files = key((), "The authority's certificate: a file, relative ones in `x509ca/`.")
    file: Text = key("", "The same, by absolute path.")
    crl_uris: Urls = key((), "Where its revocation lists are, besides where its certificates say.")
    ocsp_uris: Urls = key((), "Who answers OCSP for it, besides whom its certificates name.")
    cert_uri_base: OneUrl = key(
        "",
        "Where its certificates are, with `options.hash_and_url`: by their SHA-1 in hex, added to this.",
    )
