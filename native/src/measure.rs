//! What a packet costs in process, and what of that is the cipher's (bench/engine.py).

use std::time::Instant;

use crate::sa::{IPV4_IN_IP, InboundSa, OutboundSa};

const BATCH: usize = 64;

/// Nanoseconds a packet: sealed, opened, and the cipher alone for both; the best of several rounds.
pub fn measure(outbound: &OutboundSa, inbound: &InboundSa, length: usize, batches: usize) -> (f64, f64, f64, f64) {
    let cipher = &outbound.common.cipher;
    let size = cipher.sealed_length(length);
    let stride = size.next_multiple_of(64);
    let mut buffer = vec![0x45; BATCH * stride];
    let random = [0x5A; BATCH * 16];
    let iv = cipher.random_iv();
    let mut best = [f64::MAX; 4];
    let mut note = |place: usize, since: Instant| {
        best[place] = best[place].min(since.elapsed().as_nanos() as f64 / BATCH as f64);
    };
    for _ in 0..batches {
        for packet in buffer.chunks_mut(stride) {
            packet[cipher.head()..cipher.head() + length].fill(0x45);
        }
        let since = Instant::now();
        let Some(first) = outbound.reserve(BATCH as u64, outbound.limit) else { break };
        for (index, packet) in buffer.chunks_mut(stride).enumerate() {
            outbound.seal(&mut packet[..size], length, first + index as u64, IPV4_IN_IP, &random[index * iv..(index + 1) * iv]);
        }
        outbound.count(BATCH, BATCH * length, 0.0);
        note(0, since);
        let sealed = buffer.clone();
        let since = Instant::now();
        for packet in buffer.chunks_mut(stride) {
            let _ = std::hint::black_box(inbound.open(&mut packet[..size]));
        }
        note(1, since);
        let since = Instant::now();
        for (index, packet) in buffer.chunks_mut(stride).enumerate() {
            std::hint::black_box(cipher.seal(&mut packet[..size], first + index as u64, outbound.common.esn));
        }
        note(2, since);
        buffer.copy_from_slice(&sealed);
        let since = Instant::now();
        for (index, packet) in buffer.chunks_mut(stride).enumerate() {
            std::hint::black_box(cipher.open(&mut packet[..size], first + index as u64, outbound.common.esn));
        }
        note(3, since);
    }
    (best[0], best[1], best[2], best[3])
}
