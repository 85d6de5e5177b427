//! Why a packet was dropped: the names of `cygnet.ipsec.drops`, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! drops {
    ($($name:ident => $text:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Drop { $($name),* }
        pub const NAMES: &[&str] = &[$($text),*];
    };
}

drops! {
    Short => "short", NoSa => "no_sa", Replay => "replay", BadIcv => "bad_icv", BadPadding => "bad_padding",
    Dummy => "dummy", WrongProtocol => "wrong_protocol", BadInner => "bad_inner", Selector => "selector",
    CarvedOut => "carved_out", Ecn => "ecn", Runt => "runt", NotIp => "not_ip", NoPolicy => "no_policy",
    Discarded => "discarded", NoOutboundSa => "no_outbound_sa", HeldTooLong => "held_too_long",
    TooBig => "too_big", SequenceExhausted => "sequence_exhausted", HardLimit => "hard_limit", Loop => "loop",
    Fault => "fault", SendFailed => "send_failed", TunFull => "tun_full", ReportFull => "report_full",
}

#[derive(Default)]
pub struct Drops([AtomicU64; NAMES.len()]);

impl Drops {
    pub fn add(&self, reason: Drop, count: usize) {
        self.0[reason as usize].fetch_add(count as u64, Relaxed);
    }

    pub fn count(&self, reason: Drop) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }

    /// False if there is no reason of that name.
    pub fn add_named(&self, reason: &str, count: u64) -> bool {
        let place = NAMES.iter().position(|name| *name == reason);
        place.map(|place| self.0[place].fetch_add(count, Relaxed)).is_some()
    }

    /// Name and number of the reasons that occurred.
    pub fn counted(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Relaxed))).filter(|one| one.1 > 0).collect()
    }
}
