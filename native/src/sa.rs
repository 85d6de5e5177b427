//! One direction of a Child SA: geometry, keys, numbers, counters; sealing and opening one packet (RFC 4303).
//!
//! Numbers are taken in batches from an atomic counter that never goes back: no two packets share one, whoever
//! asks. IVs of counter-mode ciphers are that number plus a base that is random for each installation, so that
//! a key that is wrongly installed twice still never meets the same IV.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cipher::{Cipher, HEADER};
use crate::drops::{Drop, Drops};
use crate::inner::{Selector, TunnelHeader, version};
use crate::replay::ReplayWindow;

/// A lock whose holder panicked is still a lock: the fault was counted where it happened.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub const IPV4_IN_IP: u8 = 4;
pub const IPV6_IN_IP: u8 = 41;
const NO_NEXT_HEADER: u8 = 59;

/// Where packets of an outbound SA go. `socket` is an index into the engine's.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub socket: usize,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Ours and the peer's; None: plain ESP.
    pub ports: Option<(u16, u16)>,
    pub max_inner: usize,
}

#[derive(Default)]
pub struct Use {
    pub bytes: AtomicU64,
    pub packets: AtomicU64,
    /// Seconds as f64 bits; 0: never.
    last: AtomicU64,
    pub drops: Drops,
    /// Alarms in octets and packets (or sequence numbers), and whether one was told and not yet answered.
    pub bytes_alarm: AtomicU64,
    pub count_alarm: AtomicU64,
    pub alarmed: AtomicBool,
    pub hard_told: AtomicBool,
}

impl Use {
    pub fn touch(&self, now: f64) {
        self.last.store(now.to_bits(), Relaxed);
    }

    /// -1: never.
    pub fn last_used(&self) -> f64 {
        match self.last.load(Relaxed) {
            0 => -1.0,
            bits => f64::from_bits(bits),
        }
    }
}

pub struct Common {
    /// The engine's number of this SA, for events and caches.
    pub id: u64,
    pub spi: u32,
    pub flow: u64,
    pub esn: bool,
    pub cipher: Cipher,
    pub local_selectors: Vec<Selector>,
    pub remote_selectors: Vec<Selector>,
    pub header: TunnelHeader,
    pub used: Use,
}

pub struct OutboundSa {
    pub common: Common,
    pub sequence: AtomicU64,
    pub limit: u64,
    pub hard_packets: u64,
    pub hard_bytes: u64,
    iv_base: u64,
    pub path: Mutex<Path>,
}

impl OutboundSa {
    pub fn new(common: Common, iv_base: u64, hard_packets: u64, hard_bytes: u64, path: Path) -> Self {
        let limit = if common.esn { u64::MAX } else { u64::from(u32::MAX) };
        Self { common, sequence: AtomicU64::new(0), limit, hard_packets: hard_packets.min(limit), hard_bytes, iv_base, path: Mutex::new(path) }
    }

    /// Take `count` sequence numbers, none above `most`: the first of them. None: there are not so many, and
    /// none was taken (RFC 4303, section 3.3.3), or the octets are used up.
    pub fn reserve(&self, count: u64, most: u64) -> Option<u64> {
        if self.common.used.bytes.load(Relaxed) >= self.hard_bytes {
            return None;
        }
        let more = |last: u64| last.checked_add(count).filter(|end| *end <= most);
        self.sequence.fetch_update(Relaxed, Relaxed, more).ok().map(|last| last + 1)
    }

    /// Why `count` packets may not leave; None if that was told before.
    pub fn used_up(&self, count: u64) -> Option<&'static str> {
        if self.common.used.hard_told.swap(true, Relaxed) {
            return None;
        }
        let end = self.sequence.load(Relaxed).checked_add(count);
        Some(match end {
            Some(end) if end <= self.hard_packets => "bytes",
            _ if self.hard_packets == self.limit => "sequence",
            _ => "packets",
        })
    }

    /// Seal one packet whose `length` octets of payload stand `head` octets into `packet`, which has exactly
    /// `sealed_length(length)` octets. `random` are the octets of its IV where the cipher wants such.
    pub fn seal(&self, packet: &mut [u8], length: usize, sequence: u64, next_header: u8, random: &[u8]) -> bool {
        let cipher = &self.common.cipher;
        packet[..4].copy_from_slice(&self.common.spi.to_be_bytes());
        packet[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        if cipher.iv == 8 {
            packet[HEADER..HEADER + 8].copy_from_slice(&self.iv_base.wrapping_add(sequence).to_be_bytes());
        } else {
            packet[HEADER..HEADER + cipher.iv].copy_from_slice(random);
        }
        let from = cipher.head() + length;
        let end = packet.len() - cipher.icv;
        // RFC 4303, 2.4: the pad is 1, 2, 3, ...; then its length and the next header.
        let pad = end - from - 2;
        for (octet, value) in packet[from..end - 2].iter_mut().zip(1..) {
            *octet = value;
        }
        packet[end - 2] = pad as u8;
        packet[end - 1] = next_header;
        cipher.seal(packet, sequence, self.common.esn)
    }

    pub fn count(&self, packets: usize, bytes: usize, now: f64) {
        let used = &self.common.used;
        used.packets.fetch_add(packets as u64, Relaxed);
        used.bytes.fetch_add(bytes as u64, Relaxed);
        used.touch(now);
    }

    /// Whether an alarm is due that was not told yet.
    pub fn alarm(&self) -> bool {
        let used = &self.common.used;
        (self.sequence.load(Relaxed) >= used.count_alarm.load(Relaxed) || used.bytes.load(Relaxed) >= used.bytes_alarm.load(Relaxed))
            && !used.alarmed.swap(true, Relaxed)
    }
}

/// Where an authentic packet came from.
pub type Source = (IpAddr, u16);

pub struct InboundSa {
    pub common: Common,
    pub window: Mutex<ReplayWindow>,
    pub seen: AtomicBool,
    pub notify_first_use: bool,
    /// Removed, and kept for receiving only.
    pub lingering: AtomicBool,
    pub encapsulated: AtomicBool,
    pub source: Mutex<Source>,
}

impl InboundSa {
    /// Open one ESP packet in place: the payload's place within `packet`, and whether it is the newest so far.
    /// Else why it was dropped, and the same (an authentic packet moves the window whatever is in it).
    pub fn open(&self, packet: &mut [u8]) -> Result<(usize, usize, bool), (Drop, bool)> {
        let cipher = &self.common.cipher;
        let (head, icv) = (cipher.head(), cipher.icv);
        if packet.len() < head + cipher.align + icv || (packet.len() - head - icv) % cipher.align != 0 {
            return Err((Drop::Short, false));
        }
        let low = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let sequence = {
            let window = lock(&self.window);
            let whole = if self.common.esn { window.infer(low) } else { Some(u64::from(low)) };
            whole.filter(|whole| window.check(*whole)).ok_or((Drop::Replay, false))?
        };
        if !cipher.open(packet, sequence, self.common.esn) {
            return Err((Drop::BadIcv, false));
        }
        let newest = {
            let mut window = lock(&self.window);
            let before = window.top;
            if !window.mark(sequence) {
                return Err((Drop::Replay, false));
            }
            window.top > before
        };
        let end = packet.len() - icv;
        let (pad, next_header) = (usize::from(packet[end - 2]), packet[end - 1]);
        let body = end - head;
        if pad + 2 > body {
            return Err((Drop::BadPadding, newest));
        }
        let from = end - 2 - pad;
        if packet[from..end - 2].iter().zip(1..).any(|(octet, value): (&u8, u8)| *octet != value) {
            return Err((Drop::BadPadding, newest));
        }
        if next_header == NO_NEXT_HEADER {
            return Err((Drop::Dummy, newest));
        }
        let wanted = if version(&packet[head..]) == 4 { IPV4_IN_IP } else { IPV6_IN_IP };
        if from == head || next_header != wanted {
            return Err((Drop::WrongProtocol, newest));
        }
        Ok((head, from - head, newest))
    }

    pub fn alarm(&self) -> bool {
        let used = &self.common.used;
        (used.packets.load(Relaxed) >= used.count_alarm.load(Relaxed) || used.bytes.load(Relaxed) >= used.bytes_alarm.load(Relaxed))
            && !used.alarmed.swap(true, Relaxed)
    }
}
