//! The two threads: one from the TUN to the wire, one from the wire to the TUN.
//!
//! One thread a direction keeps every flow in order without locks on its way; a fault of ours in the way of one
//! packet costs what was read with it, no SA.

use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use crate::drops::Drop;
use crate::inward::Inward;
use crate::outward::{Gone, Outward};
use crate::sa::lock;
use crate::shared::{Event, Shared};
use crate::sys;

pub const OUT: usize = 0;
pub const IN: usize = 1;
const FAULTS_TOLD: u64 = 10;
const WAIT: i32 = 5000;

pub struct Engine {
    pub shared: Arc<Shared>,
    outward: Arc<Mutex<Outward>>,
    inward: Arc<Mutex<Inward>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        Self {
            outward: Arc::new(Mutex::new(Outward::new(shared.clone()))),
            inward: Arc::new(Mutex::new(Inward::new(shared.clone()))),
            shared,
            threads: Mutex::default(),
        }
    }

    pub fn start(&self) -> std::io::Result<()> {
        self.shared.running.store(true, Release);
        let (shared, outward) = (self.shared.clone(), self.outward.clone());
        let first = Builder::new().name("cygnet-out".into()).spawn(move || run_outward(&shared, &outward))?;
        lock(&self.threads).push(first);
        let (shared, inward) = (self.shared.clone(), self.inward.clone());
        let second = Builder::new().name("cygnet-in".into()).spawn(move || run_inward(&shared, &inward))?;
        lock(&self.threads).push(second);
        Ok(())
    }

    /// Returns once both threads have ended.
    pub fn stop(&self) {
        self.shared.running.store(false, Release);
        self.shared.wake(OUT);
        self.shared.wake(IN);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A thread that panicked has told so.
            let _ = thread.join();
        }
    }

    /// One turn of a direction in the caller's thread, where no threads were started.
    pub fn step(&self, direction: usize) {
        if direction == OUT {
            guarded(&self.shared, || lock(&self.outward).turn().unwrap_or(false));
        } else {
            for socket in 0..self.shared.sockets.len() {
                while guarded(&self.shared, || lock(&self.inward).turn(socket)) {}
            }
        }
    }
}

fn guarded(shared: &Shared, work: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|fault| {
        shared.drops.add(Drop::Fault, 1);
        if shared.drops.count(Drop::Fault) <= FAULTS_TOLD {
            let text = fault.downcast_ref::<String>().cloned();
            let text = text.or_else(|| fault.downcast_ref::<&str>().map(ToString::to_string));
            shared.tell(Event::Fault { text: text.unwrap_or_default() });
        }
        true
    })
}

fn run_outward(shared: &Shared, outward: &Mutex<Outward>) {
    sys::block_signals();
    let mut outward = lock(outward);
    let fds = [shared.tun_fd(), shared.wake_fd(OUT)];
    let mut ready = [false; 2];
    let mut gone = false;
    while shared.running.load(Acquire) {
        let more = guarded(shared, || match outward.turn() {
            Ok(more) => more,
            Err(Gone) => {
                gone = true;
                false
            }
        });
        if gone {
            shared.tell(Event::TunGone);
            return;
        }
        if !more && sys::readable(&fds, WAIT, &mut ready).is_ok() && ready[1] {
            shared.woken(OUT);
        }
    }
}

fn run_inward(shared: &Shared, inward: &Mutex<Inward>) {
    sys::block_signals();
    let mut inward = lock(inward);
    let mut fds: Vec<RawFd> = vec![shared.wake_fd(IN)];
    fds.extend(shared.sockets.iter().map(|socket| socket.fd.as_raw_fd()));
    let mut ready = vec![false; fds.len()];
    while shared.running.load(Acquire) {
        if sys::readable(&fds, WAIT, &mut ready).is_err() {
            continue;
        }
        if ready[0] {
            shared.woken(IN);
        }
        for socket in (0..shared.sockets.len()).filter(|socket| ready[socket + 1]) {
            guarded(shared, || inward.turn(socket));
        }
    }
}
