"""The wire format of IKEv1 (RFC 2407, 2408, 2409): octets <-> messages. Imports nothing but `wire`.

    from cygnet.wire.v1 import message, numbers, payloads, vendor_ids

`numbers`     the registries: Exchange, Flags, PayloadType, Phase1Attribute, Phase2Attribute, Notify, ...
`payloads`    frozen values: SaPayload(proposals) / Proposal(number, protocol, spi, transforms) /
              Transform(number, id, attributes) / Attribute(type, value: int fixed | bytes variable) with
              `.number` for either form; KePayload, HashPayload, SignaturePayload, VendorIdPayload,
              NoncePayload, NatDPayload: (data); IdPayload(id_type, protocol, port, data); CertPayload,
              CertReqPayload (encoding, data); NotifyPayload(protocol, spi, type, data);
              DeletePayload(protocol, spis);
              AttributesPayload(cfg_type, identifier, attributes); NatOaPayload(id_type, data);
              FragmentPayload(id, number, data, flags) with `.last`; UnknownPayload(type, data).
              `.emit()` is the body without the generic header (SAi_b, IDii_b as we sent them).
              NatDPayload and NatOaPayload take `draft=True` for the payload numbers 130 and 131.
`message`     receiving:  decode_header(datagram) (of `wire.message`; both versions, the same Header)
                          decode(datagram) -> Message; with the encryption flag: payloads empty, `.sealed` set
                          opened(message, plaintext) -> Message with payloads, octets, padding
                          decode_payloads(first_type, data) -> (payloads, octets of each, padding)
              looking:    Message.one / maybe / all / notify as in IKEv2; `.octets[i]` as received;
                          Message.body_of(payload): received SAi_b, IDii_b, IDir_b;
                          Message.hashed() -> (HASH value, the octets it covers); raises when not first
              sending:    encode(header, payloads) -> clear datagram
                          encode_payloads(payloads) -> (first_type, octets)
                          prefix_hash(first_type, octets, digest) -> (HASH, octets): before what it covers
                          encode_sealed(header, first_type, ciphertext) -> datagram with the encryption flag
                          header.length and header.next_payload are derived; `Header` from `wire.message`,
                          major=1, minor=0, the SPIs are the cookies.
`vendor_ids`  constants that are sent; name_of(data) -> str | None for people

All decoding raises `wire.cursor.Malformed` and nothing else; encoding raises ValueError.
"""
