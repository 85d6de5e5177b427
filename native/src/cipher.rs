//! ESP transforms by IANA number, in place (`cygnet.crypto.suites`).
//!
//! A packet is `SPI | sequence | IV | body | ICV` in one slice; the caller has written all but the ICV.
//! Combined modes: nonce = salt | IV, additional data = SPI | sequence, the extended number whole (RFC 4106,
//! section 5). Separate ones: encrypt, then MAC over everything before the ICV, then the upper half of an
//! extended number (RFC 4303, section 2.2.1). Verification comes before decryption.

use aes::cipher::{
    Array, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, StreamCipher, consts, inout::InOutBuf,
};
use aes::{Aes128, Aes192, Aes256};
use ring::aead::{self, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use subtle::ConstantTimeEq;
use ccm::aead::AeadInOut;

pub const HEADER: usize = 8;

const ENCR_NULL: u16 = 11;
const ENCR_AES_CBC: u16 = 12;
const ENCR_AES_CTR: u16 = 13;
const ENCR_AES_CCM: [u16; 3] = [14, 15, 16];
const ENCR_AES_GCM: [u16; 3] = [18, 19, 20];
const ENCR_NULL_AES_GMAC: u16 = 21;
const ENCR_CHACHA20_POLY1305: u16 = 28;
/// AES-CCM-8, AES-GCM-16, ChaCha20-Poly1305 with implicit IV, and what they are otherwise.
const IMPLICIT: [(u16, u16); 3] = [(29, 14), (30, 20), (31, ENCR_CHACHA20_POLY1305)];
const ICV: [usize; 3] = [8, 12, 16];

enum Aes {
    Bits128(Aes128),
    Bits192(Aes192),
    Bits256(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => Aes128::new_from_slice(key).ok().map(Self::Bits128),
            24 => Aes192::new_from_slice(key).ok().map(Self::Bits192),
            32 => Aes256::new_from_slice(key).ok().map(Self::Bits256),
            _ => None,
        }
    }
}

/// One expression for each key length.
macro_rules! with {
    ($aes:expr, $name:ident => $what:expr) => {
        match $aes {
            Aes::Bits128($name) => $what,
            Aes::Bits192($name) => $what,
            Aes::Bits256($name) => $what,
        }
    };
}

enum Plain {
    Null,
    Cbc(Aes),
    Ctr(Aes, [u8; 4]),
}

enum Kind {
    Aead(LessSafeKey, [u8; 4]),
    /// AES-GMAC: a GCM that encrypts nothing and authenticates all (RFC 4543).
    Gmac(LessSafeKey, [u8; 4]),
    Ccm(Aes, [u8; 3]),
    Separate(Plain, hmac::Key),
}

/// A cipher suite with its keys.
pub struct Cipher {
    kind: Kind,
    /// The IV is the sequence number and is not sent (RFC 8750).
    implicit: bool,
    pub iv: usize,
    pub icv: usize,
    /// What the body is a multiple of.
    pub align: usize,
}

/// ICV octets of HMAC-SHA1-96, SHA2-256-128, 384-192, 512-256 by their numbers.
fn mac(integrity: u16, key: &[u8]) -> Option<(hmac::Key, usize)> {
    let (algorithm, length, icv) = match integrity {
        2 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20, 12),
        12 => (hmac::HMAC_SHA256, 32, 16),
        13 => (hmac::HMAC_SHA384, 48, 24),
        14 => (hmac::HMAC_SHA512, 64, 32),
        _ => return None,
    };
    (key.len() == length).then(|| (hmac::Key::new(algorithm, key), icv))
}

fn position(of: u16, within: [u16; 3]) -> Option<usize> {
    within.iter().position(|one| *one == of)
}

impl Cipher {
    /// None for what this engine does not carry, or keys that do not fit.
    pub fn new(encryption: u16, integrity: u16, key: &[u8], integrity_key: &[u8]) -> Option<Self> {
        let found = IMPLICIT.iter().find(|one| one.0 == encryption);
        let (encryption, implicit) = found.map_or((encryption, false), |one| (one.1, true));
        let iv = if implicit { 0 } else { 8 };
        let salted = |salt: usize| key.len().checked_sub(salt).map(|end| key.split_at(end));
        let combined = |kind: Kind, icv: usize| (integrity == 0 && integrity_key.is_empty()).then_some(Self { kind, implicit, iv, icv, align: 4 });
        let gmac = encryption == ENCR_NULL_AES_GMAC;
        if let Some(which) = position(if gmac { ENCR_AES_GCM[2] } else { encryption }, ENCR_AES_GCM) {
            let (secret, salt) = salted(4)?;
            let algorithm = match secret.len() {
                16 => &aead::AES_128_GCM,
                32 => &aead::AES_256_GCM,
                _ => return None,
            };
            let key = LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?);
            let salt = salt.try_into().ok()?;
            return combined(if gmac { Kind::Gmac(key, salt) } else { Kind::Aead(key, salt) }, ICV[which]);
        }
        if encryption == ENCR_CHACHA20_POLY1305 {
            let (secret, salt) = salted(4)?;
            let key = LessSafeKey::new(UnboundKey::new(&aead::CHACHA20_POLY1305, secret).ok()?);
            return combined(Kind::Aead(key, salt.try_into().ok()?), 16);
        }
        if let Some(which) = position(encryption, ENCR_AES_CCM) {
            let (secret, salt) = salted(3)?;
            return combined(Kind::Ccm(Aes::new(secret)?, salt.try_into().ok()?), ICV[which]);
        }
        let (mac, icv) = mac(integrity, integrity_key)?;
        let (plain, iv, align) = match encryption {
            ENCR_NULL if key.is_empty() => (Plain::Null, 0, 4),
            ENCR_AES_CBC => (Plain::Cbc(Aes::new(key)?), 16, 16),
            ENCR_AES_CTR => {
                let (secret, salt) = salted(4)?;
                (Plain::Ctr(Aes::new(secret)?, salt.try_into().ok()?), 8, 4)
            }
            _ => return None,
        };
        Some(Self { kind: Kind::Separate(plain, mac), implicit, iv, icv, align })
    }

    pub fn head(&self) -> usize {
        HEADER + self.iv
    }

    /// Octets of body for `length` octets of payload: with pad, pad length and next header.
    pub fn padded(&self, length: usize) -> usize {
        (length + 2).div_ceil(self.align) * self.align
    }

    pub fn sealed_length(&self, length: usize) -> usize {
        self.head() + self.padded(length) + self.icv
    }

    /// Octets of IV that must be random (RFC 3602, section 3); the others count.
    pub fn random_iv(&self) -> usize {
        if self.iv == 16 { 16 } else { 0 }
    }

    /// Encrypt the body of `packet` and write its ICV. False: the library refused, nothing may be sent.
    pub fn seal(&self, packet: &mut [u8], sequence: u64, esn: bool) -> bool {
        let end = packet.len() - self.icv;
        let (aad, aad_length) = additional(packet, sequence, esn);
        let iv = self.nonce_iv(packet, sequence);
        let from = self.head();
        match &self.kind {
            Kind::Gmac(key, salt) => match gmac(key, nonce(salt, iv), packet, end, sequence, esn) {
                Some(tag) => {
                    packet[end..].copy_from_slice(tag.as_ref());
                    true
                }
                None => false,
            },
            Kind::Aead(key, salt) => {
                let nonce = nonce(salt, iv);
                let (head, icv) = packet.split_at_mut(end);
                let aad = aead::Aad::from(&aad[..aad_length]);
                match key.seal_in_place_separate_tag(nonce, aad, &mut head[from..]) {
                    Ok(tag) => icv.copy_from_slice(&tag.as_ref()[..self.icv]),
                    Err(_) => return false,
                }
                true
            }
            Kind::Ccm(aes, salt) => {
                let nonce = ccm_nonce(salt, &iv);
                let (head, icv) = packet.split_at_mut(end);
                let body = &mut head[from..];
                let aad = &aad[..aad_length];
                let sealed = match self.icv {
                    8 => with!(aes, aes => ccm_seal::<_, consts::U8>(aes, &nonce, aad, body, icv)),
                    12 => with!(aes, aes => ccm_seal::<_, consts::U12>(aes, &nonce, aad, body, icv)),
                    _ => with!(aes, aes => ccm_seal::<_, consts::U16>(aes, &nonce, aad, body, icv)),
                };
                sealed.is_some()
            }
            Kind::Separate(plain, mac) => {
                let head = self.head();
                let (before, body) = packet[..end].split_at_mut(head);
                plain.encrypt(&before[HEADER..], body);
                let tag = self.tag(mac, packet, end, sequence, esn);
                packet[end..].copy_from_slice(&tag.as_ref()[..self.icv]);
                true
            }
        }
    }

    /// Verify `packet` and decrypt its body in place; false: not authentic (what the body holds then is
    /// never looked at). The packet has room for head and ICV, and whole blocks between.
    pub fn open(&self, packet: &mut [u8], sequence: u64, esn: bool) -> bool {
        let end = packet.len() - self.icv;
        let (aad, aad_length) = additional(packet, sequence, esn);
        let iv = self.nonce_iv(packet, sequence);
        let from = self.head();
        match &self.kind {
            Kind::Gmac(key, salt) => {
                let tag = gmac(key, nonce(salt, iv), packet, end, sequence, esn);
                tag.is_some_and(|tag| tag.as_ref().ct_eq(&packet[end..]).into())
            }
            Kind::Aead(key, salt) => {
                let nonce = || nonce(salt, iv);
                let aad = || aead::Aad::from(&aad[..aad_length]);
                if self.icv == 16 {
                    return key.open_in_place(nonce(), aad(), &mut packet[from..]).is_ok();
                }
                // The library verifies whole tags only. GCM is counter mode: sealing a ciphertext yields the
                // plaintext, and sealing that the ciphertext with the tag that it should have had.
                let (head, icv) = packet.split_at_mut(end);
                let body = &mut head[from..];
                if key.seal_in_place_separate_tag(nonce(), aad(), body).is_err() {
                    return false;
                }
                let Ok(tag) = key.seal_in_place_separate_tag(nonce(), aad(), body) else { return false };
                bool::from(tag.as_ref()[..self.icv].ct_eq(icv))
                    && key.seal_in_place_separate_tag(nonce(), aad(), body).is_ok()
            }
            Kind::Ccm(aes, salt) => {
                let nonce = ccm_nonce(salt, &iv);
                let (head, icv) = packet.split_at_mut(end);
                let body = &mut head[from..];
                let aad = &aad[..aad_length];
                let opened = match self.icv {
                    8 => with!(aes, aes => ccm_open::<_, consts::U8>(aes, &nonce, aad, body, icv)),
                    12 => with!(aes, aes => ccm_open::<_, consts::U12>(aes, &nonce, aad, body, icv)),
                    _ => with!(aes, aes => ccm_open::<_, consts::U16>(aes, &nonce, aad, body, icv)),
                };
                opened.is_some()
            }
            Kind::Separate(plain, mac) => {
                let mut icv = [0; 64];
                icv[..self.icv].copy_from_slice(&packet[end..]);
                let tag = self.tag(mac, packet, end, sequence, esn);
                if !bool::from(tag.as_ref()[..self.icv].ct_eq(&icv[..self.icv])) {
                    return false;
                }
                let head = self.head();
                let (before, body) = packet[..end].split_at_mut(head);
                plain.decrypt(&before[HEADER..], body);
                true
            }
        }
    }

    /// The eight octets of the nonce after the salt.
    fn nonce_iv(&self, packet: &[u8], sequence: u64) -> [u8; 8] {
        let sent = packet.get(HEADER..HEADER + 8).and_then(|iv| iv.try_into().ok());
        if self.implicit { sequence.to_be_bytes() } else { sent.unwrap_or_default() }
    }

    /// The place of the ICV holds the upper half of an extended number meanwhile.
    fn tag(&self, mac: &hmac::Key, packet: &mut [u8], end: usize, sequence: u64, esn: bool) -> hmac::Tag {
        let mut covered = end;
        if esn {
            packet[end..end + 4].copy_from_slice(&((sequence >> 32) as u32).to_be_bytes());
            covered += 4;
        }
        hmac::sign(mac, &packet[..covered])
    }
}

/// The tag over SPI, number (the extended one whole), IV and payload (RFC 4543, section 3.3).
fn gmac(key: &LessSafeKey, nonce: Nonce, packet: &[u8], end: usize, sequence: u64, esn: bool) -> Option<aead::Tag> {
    let mut covered = packet[..end].to_vec();
    if esn {
        covered.splice(4..8, sequence.to_be_bytes());
    }
    key.seal_in_place_separate_tag(nonce, aead::Aad::from(&covered), &mut []).ok()
}

impl Plain {
    fn encrypt(&self, iv: &[u8], body: &mut [u8]) {
        match self {
            Self::Null => {}
            Self::Cbc(aes) => with!(aes, aes => {
                if let Ok(mut mode) = cbc::Encryptor::inner_iv_slice_init(aes, iv) {
                    mode.encrypt_blocks(Array::slice_as_chunks_mut(body).0);
                }
            }),
            Self::Ctr(aes, salt) => ctr(aes, salt, iv, body),
        }
    }

    fn decrypt(&self, iv: &[u8], body: &mut [u8]) {
        match self {
            Self::Null => {}
            Self::Cbc(aes) => with!(aes, aes => {
                if let Ok(mut mode) = cbc::Decryptor::inner_iv_slice_init(aes, iv) {
                    mode.decrypt_blocks(Array::slice_as_chunks_mut(body).0);
                }
            }),
            Self::Ctr(aes, salt) => ctr(aes, salt, iv, body),
        }
    }
}

/// The counter block is nonce (salt) | IV | 1 (RFC 3686, section 4).
fn ctr(aes: &Aes, salt: &[u8; 4], iv: &[u8], body: &mut [u8]) {
    let mut block = [0; 16];
    block[..4].copy_from_slice(salt);
    block[4..12].copy_from_slice(iv);
    block[15] = 1;
    with!(aes, aes => {
        if let Ok(core) = ctr::CtrCore::<_, ctr::flavors::Ctr32BE>::inner_iv_slice_init(aes, &block) {
            aes::cipher::StreamCipherCoreWrapper::from_core(core).apply_keystream(body);
        }
    });
}

fn ccm_seal<C, M>(aes: C, nonce: &[u8; 11], aad: &[u8], body: &mut [u8], icv: &mut [u8]) -> Option<()>
where
    C: aes::cipher::BlockSizeUser<BlockSize = consts::U16> + aes::cipher::BlockCipherEncrypt,
    M: aes::cipher::array::ArraySize + ccm::TagSize,
{
    let mode = ccm::Ccm::<C, M, consts::U11>::from(aes);
    let tag = mode.encrypt_inout_detached(&Array::from(*nonce), aad, InOutBuf::from(body)).ok()?;
    icv.copy_from_slice(&tag);
    Some(())
}

fn ccm_open<C, M>(aes: C, nonce: &[u8; 11], aad: &[u8], body: &mut [u8], icv: &[u8]) -> Option<()>
where
    C: aes::cipher::BlockSizeUser<BlockSize = consts::U16> + aes::cipher::BlockCipherEncrypt,
    M: aes::cipher::array::ArraySize + ccm::TagSize,
{
    let mode = ccm::Ccm::<C, M, consts::U11>::from(aes);
    let tag = Array::try_from(icv).ok()?;
    mode.decrypt_inout_detached(&Array::from(*nonce), aad, InOutBuf::from(body), &tag).ok()
}

fn nonce(salt: &[u8; 4], iv: [u8; 8]) -> Nonce {
    let mut octets = [0; 12];
    octets[..4].copy_from_slice(salt);
    octets[4..].copy_from_slice(&iv);
    Nonce::assume_unique_for_key(octets)
}

fn ccm_nonce(salt: &[u8; 3], iv: &[u8]) -> [u8; 11] {
    let mut octets = [0; 11];
    octets[..3].copy_from_slice(salt);
    octets[3..].copy_from_slice(iv);
    octets
}

/// SPI and sequence number as combined modes authenticate them, and how many octets that is.
fn additional(packet: &[u8], sequence: u64, esn: bool) -> ([u8; 12], usize) {
    let mut aad = [0; 12];
    if esn {
        aad[..4].copy_from_slice(&packet[..4]);
        aad[4..].copy_from_slice(&sequence.to_be_bytes());
        return (aad, 12);
    }
    aad[..8].copy_from_slice(&packet[..8]);
    (aad, 8)
}
