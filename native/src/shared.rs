//! What both directions share: the databases, the descriptors, what is held, the way up.
//!
//! Commands change the databases under short locks and then raise `generation`: each direction keeps what it
//! decided per flow until that number changes. The interpreter is told things through a bounded queue and an
//! eventfd, and is never waited for, but in one case: an SPI that nobody knows while commands are waiting.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::{Acquire, Release}};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::drops::{Drop, Drops};
use crate::inner::{Fragments, Inner, Selector, within};
use crate::sa::{InboundSa, OutboundSa, lock};
use crate::spd::Spd;
use crate::sys;

/// Events that wait for the interpreter: those that may be lost, and octets in them.
const MAX_EVENTS: usize = 2048;
const MAX_EVENT_OCTETS: usize = 8 << 20;
/// How long an unknown SPI waits for commands that are on their way, and how many times as long as it did none
/// waits again: whoever sends junk may cost the others a tenth of the thread's time, no more.
const COMMANDS_WAIT: Duration = Duration::from_millis(50);
const REST: u32 = 10;
/// Per flow and for all flows: what waits for an SA to come; wait longer and it is stale.
const HELD_PACKETS: usize = 16;
const HELD_OCTETS: usize = 1 << 20;
const HELD_SECONDS: f64 = 10.0;
const MAX_HELD_FLOWS: usize = 256;
const ACQUIRE_AGAIN: f64 = 1.0;

pub enum Event {
    /// A packet of this flow needs an SA.
    Acquire { flow: u64, packet: Inner },
    /// Limits were reached: soft or hard ones, by SA.
    Alarm { id: u64 },
    /// Used up; nothing more leaves on it.
    Hard { id: u64, why: &'static str },
    FirstUse { id: u64 },
    Moved { id: u64, remote: IpAddr, port: u16 },
    /// A path turned out narrower than it was known to be.
    Narrower { id: u64 },
    /// Not ESP: its owner is the daemon.
    Foreign { local: IpAddr, port: u16, remote: IpAddr, remote_port: u16, data: Vec<u8> },
    /// For an SA that this engine does not carry: a packet with its vnet header from the TUN, or from the wire.
    Outside { raw: Vec<u8> },
    Inside {
        local: IpAddr,
        port: u16,
        remote: IpAddr,
        remote_port: u16,
        traffic_class: u8,
        data: Vec<u8>,
        /// Of plain ESP: the IPv4 header, or the IPv6 extension headers by their numbers.
        outer: Vec<u8>,
        extensions: Vec<(u8, Vec<u8>)>,
    },
    Fault { text: String },
    TunGone,
}

impl Event {
    /// Where an event may be lost because senders may make any number of them: its octets, and which part of the
    /// queue it may fill. Packets for the interpreter leave half of it to the daemon's own.
    fn expendable(&self) -> Option<(usize, usize)> {
        match self {
            Self::Inside { data, .. } | Self::Outside { raw: data } => Some((data.len(), 2)),
            Self::Foreign { data, .. } => Some((data.len(), 1)),
            Self::Fault { text } => Some((text.len(), 1)),
            Self::Acquire { .. } => Some((0, 1)),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    octets: usize,
}

/// A socket of the data plane's, and its DF setting as last made.
pub struct Socket {
    pub fd: OwnedFd,
    pub version: u8,
    /// 0: raw.
    pub port: u16,
    df: RwLock<Option<bool>>,
}

impl Socket {
    pub fn new(fd: OwnedFd, version: u8, port: u16) -> Self {
        Self { fd, version, port, df: RwLock::new(None) }
    }

    /// Do `what` while DF is as wanted: others who want it so too do not wait.
    pub fn with_df<R>(&self, df: bool, what: impl Fn() -> R) -> R {
        loop {
            {
                let set = self.df.read().unwrap_or_else(PoisonError::into_inner);
                if *set == Some(df) {
                    return what();
                }
            }
            let mut set = self.df.write().unwrap_or_else(PoisonError::into_inner);
            // A socket that refuses keeps what it has; the packets go all the same.
            let _ = sys::set_df(&self.fd, self.version, df);
            *set = Some(df);
        }
    }
}

/// An SA that the interpreter serves stands in the databases without keys.
pub enum OutEntry {
    Native(Arc<OutboundSa>),
    Other { id: u64, local: Vec<Selector>, remote: Vec<Selector> },
}

impl OutEntry {
    fn id(&self) -> u64 {
        match self {
            Self::Native(sa) => sa.common.id,
            Self::Other { id, .. } => *id,
        }
    }
}

#[derive(Clone)]
pub enum InEntry {
    Native(Arc<InboundSa>),
    Other { id: u64 },
}

#[derive(Default)]
pub struct Sad {
    /// By flow, newest first.
    outbound: HashMap<u64, Vec<OutEntry>>,
    inbound: HashMap<(u32, IpAddr), InEntry>,
}

#[derive(Clone)]
pub enum Route {
    Native(Arc<OutboundSa>),
    Other,
}

impl Sad {
    pub fn install_outbound(&mut self, flow: u64, entry: OutEntry) {
        self.outbound.entry(flow).or_default().insert(0, entry);
    }

    pub fn remove_outbound(&mut self, flow: u64, id: u64) {
        if let Some(entries) = self.outbound.get_mut(&flow) {
            entries.retain(|one| one.id() != id);
            if entries.is_empty() {
                self.outbound.remove(&flow);
            }
        }
    }

    pub fn install_inbound(&mut self, spi: u32, local: IpAddr, entry: InEntry) {
        self.inbound.insert((spi, local), entry);
    }

    /// Only if it is that SA that stands there.
    pub fn remove_inbound(&mut self, spi: u32, local: IpAddr, id: u64) -> Option<InEntry> {
        let there = match self.inbound.get(&(spi, local))? {
            InEntry::Native(sa) => sa.common.id,
            InEntry::Other { id } => *id,
        };
        (there == id).then(|| self.inbound.remove(&(spi, local))).flatten()
    }

    pub fn inbound(&self, spi: u32, local: IpAddr) -> Option<InEntry> {
        self.inbound.get(&(spi, local)).cloned()
    }

    pub fn outbound(&self, flow: u64, packet: &Inner) -> Option<Route> {
        self.outbound.get(&flow)?.iter().find_map(|entry| match entry {
            OutEntry::Native(sa) => within(&sa.common.local_selectors, &sa.common.remote_selectors, packet, true).then(|| Route::Native(sa.clone())),
            OutEntry::Other { local, remote, .. } => within(local, remote, packet, true).then_some(Route::Other),
        })
    }
}

#[derive(Default)]
struct Commands {
    draining: bool,
    drained: u64,
    /// Before this nothing waits for them.
    rested: Option<Instant>,
}

struct Held {
    asked: f64,
    packets: Vec<(f64, Vec<u8>)>,
}

#[derive(Default)]
struct Holding {
    flows: HashMap<u64, Held>,
    octets: usize,
}

pub struct Shared {
    pub sad: RwLock<Sad>,
    pub spd: Mutex<Spd>,
    generation: AtomicU64,
    pub drops: Drops,
    pub sockets: Vec<Socket>,
    pub tun_tso: AtomicBool,
    pub tun_uso: AtomicBool,
    pub udp_gso: AtomicBool,
    pub running: AtomicBool,
    pub outbound_fragments: Mutex<Fragments>,
    pub inbound_fragments: Mutex<Fragments>,
    tun: File,
    pair: RawFd,
    queue: Mutex<Queue>,
    event: File,
    wakes: [File; 2],
    commands: (Mutex<Commands>, Condvar),
    holding: Mutex<Holding>,
    injected: Mutex<Vec<Vec<u8>>>,
    clock: (Instant, f64),
    /// In tests: where the clock stands, as f64 bits; 0: it goes.
    stands: AtomicU64,
}

impl Shared {
    /// `pair` is where commands come from, -1: from nowhere. `now`: the interpreter's clock.
    pub fn new(tun: RawFd, sockets: Vec<Socket>, pair: RawFd, default: u8, gso: bool, now: f64) -> io::Result<Self> {
        Ok(Self {
            sad: RwLock::default(),
            spd: Mutex::new(Spd::new(default)),
            generation: AtomicU64::new(1),
            drops: Drops::default(),
            sockets,
            tun_tso: AtomicBool::new(false),
            tun_uso: AtomicBool::new(false),
            udp_gso: AtomicBool::new(gso),
            running: AtomicBool::new(false),
            outbound_fragments: Mutex::default(),
            inbound_fragments: Mutex::default(),
            tun: File::from(sys::duplicate(tun)?),
            pair,
            queue: Mutex::default(),
            event: File::from(sys::event()?),
            wakes: [File::from(sys::event()?), File::from(sys::event()?)],
            commands: (Mutex::default(), Condvar::new()),
            holding: Mutex::default(),
            injected: Mutex::default(),
            clock: (Instant::now(), now),
            stands: AtomicU64::new(0),
        })
    }

    pub fn stop_clock(&self, now: f64) {
        self.stands.store(now.to_bits(), Release);
    }

    /// Seconds of the interpreter's monotonic clock.
    pub fn now(&self) -> f64 {
        let stands = self.stands.load(Acquire);
        if stands != 0 {
            return f64::from_bits(stands);
        }
        self.clock.0.elapsed().as_secs_f64() + self.clock.1
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// What was decided per flow is decided anew.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Release);
    }

    // -- the TUN -----------------------------------------------------------------------------------------

    pub fn tun_fd(&self) -> RawFd {
        self.tun.as_raw_fd()
    }

    pub fn read_tun(&self, parts: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.tun).read_vectored(parts)
    }

    pub fn write_tun(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.tun).write_vectored(parts).map(drop)
    }

    // -- the way up --------------------------------------------------------------------------------------

    pub fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    pub fn tell(&self, event: Event) {
        let mut queue = lock(&self.queue);
        if let Some((octets, part)) = event.expendable() {
            if queue.events.len() >= MAX_EVENTS / part || queue.octets + octets > MAX_EVENT_OCTETS / part {
                self.drops.add(Drop::ReportFull, 1);
                return;
            }
            queue.octets += octets;
        }
        let first = queue.events.is_empty();
        queue.events.push_back(event);
        drop(queue);
        if first {
            ring(&self.event);
        }
    }

    pub fn events(&self) -> VecDeque<Event> {
        quiet(&self.event);
        std::mem::take(&mut *lock(&self.queue)).events
    }

    pub fn wake(&self, direction: usize) {
        ring(&self.wakes[direction]);
    }

    pub fn wake_fd(&self, direction: usize) -> RawFd {
        self.wakes[direction].as_raw_fd()
    }

    pub fn woken(&self, direction: usize) {
        quiet(&self.wakes[direction]);
    }

    // -- commands ----------------------------------------------------------------------------------------

    pub fn draining(&self, yes: bool) {
        let mut state = lock(&self.commands.0);
        state.draining = yes;
        if !yes {
            state.drained += 1;
            self.commands.1.notify_all();
        }
    }

    /// An SPI is not known: it may be on its way. Returns once the commands that wait are carried out.
    pub fn await_commands(&self) {
        let state = lock(&self.commands.0);
        let (before, since) = (state.drained, Instant::now());
        if state.rested.is_some_and(|until| since < until) {
            return;
        }
        if !state.draining {
            let mut ready = [false];
            if self.pair < 0 || sys::readable(&[self.pair], 0, &mut ready).is_err() || !ready[0] {
                return;
            }
        }
        // The outcome does not matter: the SPI is looked up once more either way.
        let waited = self.commands.1.wait_timeout_while(state, COMMANDS_WAIT, |state| state.drained == before);
        waited.unwrap_or_else(PoisonError::into_inner).0.rested = Some(since + since.elapsed() * REST);
    }

    // -- waiting for an SA -------------------------------------------------------------------------------

    /// Keep a packet (with its vnet header) of a flow that has no SA, bounded, and ask for one.
    pub fn hold(&self, flow: u64, packet: &Inner, raw: impl FnOnce() -> Vec<u8>, now: f64) {
        let mut holding = lock(&self.holding);
        if !holding.flows.contains_key(&flow) {
            if !lock(&self.spd).trap(flow) || holding.flows.len() >= MAX_HELD_FLOWS {
                self.drops.add(Drop::NoOutboundSa, 1);
                return;
            }
            holding.flows.insert(flow, Held { asked: now - ACQUIRE_AGAIN, packets: Vec::new() });
        }
        let octets = holding.octets;
        let Some(held) = holding.flows.get_mut(&flow) else { return };
        if now - held.asked >= ACQUIRE_AGAIN {
            held.asked = now;
            self.tell(Event::Acquire { flow, packet: *packet });
        }
        let raw = raw();
        if held.packets.len() >= HELD_PACKETS || octets + raw.len() > HELD_OCTETS {
            self.drops.add(Drop::NoOutboundSa, 1);
            return;
        }
        let size = raw.len();
        held.packets.push((now, raw));
        holding.octets += size;
    }

    /// An SA for the flow has come: what was held goes now.
    pub fn release(&self, flow: u64) {
        let mut holding = lock(&self.holding);
        let Some(held) = holding.flows.remove(&flow) else { return };
        let mut injected = lock(&self.injected);
        for (_, raw) in held.packets {
            holding.octets -= raw.len();
            injected.push(raw);
        }
        drop(injected);
        self.wake(0);
    }

    /// A packet with its vnet header goes as if it were read now.
    pub fn inject(&self, raw: Vec<u8>) {
        lock(&self.injected).push(raw);
        self.wake(0);
    }

    pub fn injected(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *lock(&self.injected))
    }

    /// Called now and then: what waited too long is dropped, and flows nobody asks for are forgotten.
    pub fn drop_stale(&self) {
        let now = self.now();
        let mut holding = lock(&self.holding);
        let (mut dropped, mut octets) = (0, 0);
        holding.flows.retain(|_, held| {
            held.packets.retain(|(since, raw)| {
                let fresh = now - since < HELD_SECONDS;
                if !fresh {
                    dropped += 1;
                    octets += raw.len();
                }
                fresh
            });
            !held.packets.is_empty() || now - held.asked < HELD_SECONDS
        });
        holding.octets -= octets;
        self.drops.add(Drop::HeldTooLong, dropped);
    }
}

/// An eventfd only fails to count when it is full, and then it is ringing.
fn ring(event: &File) {
    let _ = (&mut &*event).write(&1u64.to_ne_bytes());
}

fn quiet(event: &File) {
    let _ = (&mut &*event).read(&mut [0; 8]);
}
