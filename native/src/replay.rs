//! The anti-replay window: a ring of words that slides without shifting (RFC 6479; RFC 4303, 3.4.3).
//!
//! The order is always: `check` (cheap) -> verify the ICV -> `mark`. Nothing unauthenticated moves the window.

pub const WINDOW_MIN: u64 = 32;
pub const WINDOW_MAX: u64 = 4096;
const WORD_BITS: u64 = 64;

/// `size` sequence numbers up to `top`, the highest authentic one; size 0 turns the protection off.
pub struct ReplayWindow {
    size: u64,
    pub top: u64,
    words: Vec<u64>,
}

impl ReplayWindow {
    /// None for a size that is neither 0 nor within 32 to 4096.
    pub fn new(size: u64) -> Option<Self> {
        if size != 0 && !(WINDOW_MIN..=WINDOW_MAX).contains(&size) {
            return None;
        }
        // One word more than the window needs, so that the word being filled holds no live bit of the
        // window's old end; a power of two, so that an index is a mask (RFC 6479, section 2).
        let mut words = 1;
        while (words - 1) * WORD_BITS < size {
            words *= 2;
        }
        Some(Self { size, top: 0, words: vec![0; words as usize] })
    }

    /// Whether this number could still be accepted.
    pub fn check(&self, sequence: u64) -> bool {
        if sequence == 0 {
            return self.size == 0;
        }
        if sequence > self.top || self.size == 0 {
            return true;
        }
        if self.top - sequence >= self.size {
            return false;
        }
        self.words[self.place(sequence)] >> (sequence % WORD_BITS) & 1 == 0
    }

    /// Accept an authentic number; false if it is a repeat after all (twice within one batch).
    pub fn mark(&mut self, sequence: u64) -> bool {
        if !self.check(sequence) {
            return false;
        }
        if sequence > self.top {
            self.slide(sequence);
        }
        let place = self.place(sequence);
        self.words[place] |= 1 << (sequence % WORD_BITS);
        true
    }

    fn place(&self, sequence: u64) -> usize {
        (sequence / WORD_BITS) as usize & (self.words.len() - 1)
    }

    fn slide(&mut self, top: u64) {
        let (old, new) = (self.top / WORD_BITS, top / WORD_BITS);
        let words = self.words.len();
        for index in 0..(new - old).min(words as u64) {
            self.words[(old + 1 + index) as usize & (words - 1)] = 0;
        }
        self.top = top;
    }

    /// The whole extended sequence number whose lower 32 bits are `low`; None when there is none.
    ///
    /// RFC 4303, appendix A2.2: case A, the window lies within one 2^32 subspace; case B, it spans two.
    pub fn infer(&self, low: u32) -> Option<u64> {
        let size = if self.size == 0 { WINDOW_MIN } else { self.size } as i64;
        let (top_low, top_high) = (i64::from(self.top as u32), (self.top >> 32) as i64);
        let bottom = top_low - size + 1;
        let high = if bottom >= 0 {
            if i64::from(low) >= bottom { top_high } else { top_high + 1 }
        } else if low >= bottom as u32 {
            top_high - 1
        } else {
            top_high
        };
        u32::try_from(high).ok().map(|high| u64::from(high) << 32 | u64::from(low))
    }
}
