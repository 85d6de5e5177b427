//! The Internet checksum (RFC 1071), over little-endian words of 32 bits: 2^16 is 1 modulo 65535, so the
//! width of the word does not matter, and byte order only swaps the result.

/// A 16-bit number as a little-endian reader of network order sees it.
pub fn swap(value: usize) -> u64 {
    u64::from((value as u16).swap_bytes())
}

/// The sum of `data` (of even or odd length), not folded. Halves of 64-bit words are added apart: compilers
/// make that a few wide instructions for each 32 octets.
pub fn sum(data: &[u8]) -> u64 {
    let (mut low, mut high) = (0u64, 0u64);
    let mut words = data.chunks_exact(8);
    for word in words.by_ref() {
        let word = u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        low += word & 0xFFFF_FFFF;
        high += word >> 32;
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let last = u64::from_le_bytes(last);
    low + high + (last & 0xFFFF_FFFF) + (last >> 32)
}

/// The field for a little-endian sum: what makes the whole sum to zero; 0 comes out as 0xFFFF.
pub fn complement(total: u64) -> u16 {
    0xFFFF - (total % 0xFFFF) as u16
}

pub fn store(buffer: &mut [u8], at: usize, value: u16) {
    buffer[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Write the checksum of the IPv4 header that `header` is.
pub fn fix_ipv4_header(header: &mut [u8]) {
    store(header, 10, 0);
    let value = complement(sum(header));
    store(header, 10, value);
}
