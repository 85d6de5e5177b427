//! The Internet checksum (RFC 1071), over little-endian words of 32 bits: 2^16 is 1 modulo 65535, so the
//! width of the word does not matter, and byte order only swaps the result.

/// A 16-bit number as a little-endian reader of network order sees it.
pub fn swap(value: usize) -> u64 {
    u64::from((value as u16).swap_bytes())
}

/// The sum of `data` (of even or odd length), not folded.
pub fn sum(data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(4);
    let mut total: u64 = words.by_ref().map(|word| u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u64::from(u32::from_le_bytes(last));
    total
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
