//! From the TUN to the wire.
//!
//!     read a batch -> which SA (policy, then the newest SA that fits) -> cut into segments, checksums
//!     -> seal in place -> one send per up to 64 packets
//!
//! Single packets are read with room around them and sealed where they lie; bursts are cut into rows. What is
//! permitted and has no SA yet is held and asked for; nothing here sends in clear.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use foldhash::fast::RandomState;
use ring::rand::{SecureRandom, SystemRandom};

use crate::burst::{Burst, MAX_PACKET, VNET, Vnet, finish_checksum};
use crate::drops::Drop;
use crate::icmp::{mtu_floor, too_big};
use crate::inner::{FlowKey, Inner, UDP, describe, dont_fragment, traffic_class};
use crate::sa::{IPV4_IN_IP, IPV6_IN_IP, OutboundSa, Path, lock};
use crate::shared::{Event, Route, Shared, Socket};
use crate::spd::{DISCARD, PROTECT};
use crate::sys::{self, Target};

/// Reads from the TUN per turn.
const READS: usize = 64;
/// Segments in one UDP_SEGMENT send (UDP_MAX_SEGMENTS of kernels before 6.9).
const MAX_ROWS: usize = 64;
/// Octets of UDP payload in one IPv4 datagram, which a segmented send must not exceed either.
const MAX_DATAGRAM: usize = 65507;
/// Room before a packet for the ESP header and IV, behind it for pad, trailer and ICV.
const HEADROOM: usize = 32;
const TAILROOM: usize = 64;
const MAX_ROUTES: usize = 1 << 16;
/// ESP and AH.
const SEALED: [u8; 2] = [50, 51];

#[derive(Clone)]
enum Decision {
    Seal(Arc<OutboundSa>),
    Drop(Drop),
    /// An SA that the interpreter serves.
    Other,
}

/// A packet that lies ready to be sealed: its SA, where it lies and what its outer header will say.
struct Single {
    sa: Arc<OutboundSa>,
    at: usize,
    length: usize,
    class: u8,
    df: bool,
    /// It leaves in one piece; else the kernel fragments it outside, and it goes alone with DF off.
    whole: bool,
}

/// One row of what is sealed and sent together: where its ESP packet begins, octets of payload.
#[derive(Clone, Copy)]
struct Row {
    at: usize,
    length: usize,
}

/// The TUN device was taken away.
pub struct Gone;

/// What seals and sends rows of a buffer. Apart from the buffers, so that a fault on the way leaves those where
/// they are.
struct Sealer {
    shared: Arc<Shared>,
    random: SystemRandom,
    ivs: Vec<u8>,
    now: f64,
}

pub struct Outward {
    shared: Arc<Shared>,
    sealer: Sealer,
    read: Vec<u8>,
    sealed: Vec<u8>,
    singles: Vec<Single>,
    rows: Vec<Row>,
    routes: HashMap<FlowKey, Decision, RandomState>,
    generation: u64,
}

impl Outward {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            sealer: Sealer { shared: shared.clone(), random: SystemRandom::new(), ivs: Vec::new(), now: 0.0 },
            shared,
            read: vec![0; READS * 2048 + 2 * (MAX_PACKET + 1) + HEADROOM + TAILROOM],
            sealed: vec![0; 1 << 17],
            singles: Vec::with_capacity(READS),
            rows: Vec::with_capacity(MAX_ROWS),
            routes: HashMap::default(),
            generation: 0,
        }
    }

    /// Take what the TUN has, up to a bound; whether there may be more.
    pub fn turn(&mut self) -> Result<bool, Gone> {
        self.sealer.now = self.shared.now();
        self.forget_if_changed();
        // After a fault some may stand here whose octets are about to be overwritten.
        self.singles.clear();
        for raw in self.shared.injected() {
            self.take_injected(&raw);
        }
        let mut place = 0;
        let mut more = true;
        for _ in 0..READS {
            let at = place + HEADROOM;
            let mut head = [0; VNET];
            let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut self.read[at..at + MAX_PACKET])];
            let size = match self.shared.read_tun(&mut parts) {
                // A device never reads as empty: its other end is gone.
                Ok(0) => return Err(Gone),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(Gone),
                // Nothing there, or the device is down.
                Err(_) => {
                    more = false;
                    break;
                }
            };
            if size <= VNET {
                continue;
            }
            let (vnet, length) = (Vnet::read(&head), size - VNET);
            if vnet.gso_type != 0 {
                self.seal_singles();
                self.take_burst(at, length, &vnet);
                place = 0;
                continue;
            }
            self.take_single(at, length, &vnet);
            place += (HEADROOM + length + TAILROOM).next_multiple_of(16);
            if place + HEADROOM + MAX_PACKET + TAILROOM > self.read.len() {
                self.seal_singles();
                place = 0;
            }
        }
        self.seal_singles();
        Ok(more)
    }

    fn forget_if_changed(&mut self) {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.generation = generation;
            self.routes.clear();
        }
    }

    fn take_injected(&mut self, raw: &[u8]) {
        let Some((head, packet)) = raw.split_first_chunk::<VNET>() else { return };
        if packet.is_empty() || packet.len() > MAX_PACKET {
            return;
        }
        self.read[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let vnet = Vnet::read(head);
        if vnet.gso_type != 0 {
            self.take_burst(HEADROOM, packet.len(), &vnet);
        } else {
            self.take_single(HEADROOM, packet.len(), &vnet);
            self.seal_singles();
        }
    }

    // -- bursts ------------------------------------------------------------------------------------------

    fn take_burst(&mut self, at: usize, length: usize, vnet: &Vnet) {
        let Some(burst) = Burst::judge(&self.read[at..at + length], vnet) else {
            self.shared.drops.add(Drop::NotIp, 1);
            return;
        };
        let Some(sa) = self.route(at, length, Some(vnet)) else { return };
        let path = *lock(&sa.path);
        let packet = &self.read[at..at + length];
        let full = burst.header + burst.segment;
        if full > path.max_inner.max(mtu_floor(packet[0] >> 4)) {
            self.too_big(&sa, &path, at, length);
            return;
        }
        let common = &sa.common;
        let class = common.header.outer_traffic_class(traffic_class(packet));
        let df = full <= path.max_inner && common.header.outer_df(dont_fragment(packet));
        let stride = common.cipher.sealed_length(full);
        let most = (MAX_DATAGRAM / stride).clamp(1, MAX_ROWS);
        for first in (0..burst.count).step_by(most) {
            self.rows.clear();
            for number in first..burst.count.min(first + most) {
                let row = (number - first) * stride;
                let from = row + common.cipher.head();
                let octets = burst.length(&self.read[at..at + length], number);
                burst.cut(&self.read[at..at + length], number, &mut self.sealed[from..from + octets]);
                self.rows.push(Row { at: row, length: octets });
            }
            if !self.sealer.seal_and_send(&sa, &path, &mut self.sealed, &self.rows, class, df) {
                break;
            }
        }
    }

    // -- single packets ----------------------------------------------------------------------------------

    fn take_single(&mut self, at: usize, length: usize, vnet: &Vnet) {
        if !finish_checksum(&mut self.read[at..at + length], vnet) {
            self.shared.drops.add(Drop::NotIp, 1);
            return;
        }
        let Some(sa) = self.route(at, length, None) else { return };
        let max_inner = lock(&sa.path).max_inner;
        let packet = &self.read[at..at + length];
        let fixed = dont_fragment(packet);
        if length > max_inner.max(mtu_floor(packet[0] >> 4)) && fixed {
            let path = *lock(&sa.path);
            self.too_big(&sa, &path, at, length);
            return;
        }
        let whole = length <= max_inner;
        let header = &sa.common.header;
        let class = header.outer_traffic_class(traffic_class(packet));
        let df = header.outer_df(fixed) && whole;
        self.singles.push(Single { sa, at, length, class, df, whole });
    }

    /// Runs of one SA and outer header go together. What one SA sends stays in order: a run ends where its SA
    /// has a packet that does not fit; other SAs' packets between do not end it.
    fn seal_singles(&mut self) {
        let mut singles = std::mem::take(&mut self.singles);
        let mut done = [false; READS];
        for first in 0..singles.len() {
            if done[first] {
                continue;
            }
            let one = &singles[first];
            let path = *lock(&one.sa.path);
            let head = one.sa.common.cipher.head();
            let stride = one.sa.common.cipher.sealed_length(one.length);
            let most = if path.ports.is_some() { (MAX_DATAGRAM / stride).clamp(1, MAX_ROWS) } else { MAX_ROWS };
            self.rows.clear();
            for (index, next) in singles.iter().enumerate().skip(first) {
                if done[index] || !Arc::ptr_eq(&next.sa, &one.sa) {
                    continue;
                }
                // Segments are equal, only the last may be shorter; raw sockets take each by itself.
                let shorter = next.length < one.length;
                let fits = next.class == one.class && next.df == one.df && (next.length == one.length || shorter || path.ports.is_none());
                if self.rows.len() >= most || (!self.rows.is_empty() && (!fits || !next.whole)) {
                    break;
                }
                done[index] = true;
                self.rows.push(Row { at: next.at - head, length: next.length });
                if (shorter && path.ports.is_some()) || !next.whole {
                    break;
                }
            }
            self.sealer.seal_and_send(&one.sa, &path, &mut self.read, &self.rows, one.class, one.df);
        }
        singles.clear();
        self.singles = singles;
    }

    // -- which SA ----------------------------------------------------------------------------------------

    /// The SA for the packet at `at`, or None: it was dropped, held or handed on. `burst`: its vnet header.
    fn route(&mut self, at: usize, length: usize, burst: Option<&Vnet>) -> Option<Arc<OutboundSa>> {
        let key = FlowKey::of(&self.read[at..at + length]);
        let known = key.as_ref().and_then(|key| self.routes.get(key)).cloned();
        let decision = match known {
            Some(decision) => decision,
            None => {
                let decision = self.decide(at, length, burst)?;
                if let Some(key) = key {
                    if self.routes.len() >= MAX_ROUTES {
                        self.routes.clear();
                    }
                    self.routes.insert(key, decision.clone());
                }
                decision
            }
        };
        match decision {
            Decision::Seal(sa) => Some(sa),
            Decision::Drop(reason) => {
                self.shared.drops.add(reason, 1);
                None
            }
            Decision::Other => {
                self.shared.tell(Event::Outside { raw: self.raw(at, length, burst) });
                None
            }
        }
    }

    fn raw(&self, at: usize, length: usize, burst: Option<&Vnet>) -> Vec<u8> {
        let mut raw = Vec::with_capacity(VNET + length);
        raw.extend_from_slice(&burst.map_or([0; VNET], Vnet::write));
        raw.extend_from_slice(&self.read[at..at + length]);
        raw
    }

    fn decide(&mut self, at: usize, length: usize, burst: Option<&Vnet>) -> Option<Decision> {
        let Some(packet) = describe(&self.read[at..at + length]) else { return Some(Decision::Drop(Drop::NotIp)) };
        let packet = lock(&self.shared.outbound_fragments).whole(packet, 0, self.sealer.now);
        let (action, flow) = lock(&self.shared.spd).lookup_outbound(&packet);
        if action == DISCARD {
            return Some(Decision::Drop(Drop::Discarded));
        }
        if action != PROTECT {
            // Bypassed flows stay in the kernel; one that gets here all the same must not be looped back.
            return Some(Decision::Drop(Drop::NoPolicy));
        }
        let sad = self.shared.sad.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = sad.outbound(flow, &packet);
        if found.is_none() {
            // Under the lock: an SA that is being installed releases what is held only after this.
            self.shared.hold(flow, &packet, || self.raw(at, length, burst), self.sealer.now);
        }
        drop(sad);
        Some(match found? {
            Route::Native(sa) if is_own(&packet, &lock(&sa.path)) => Decision::Drop(Drop::Loop),
            Route::Native(sa) => Decision::Seal(sa),
            Route::Other => Decision::Other,
        })
    }

    /// Tell the sender inside what fits, as the network beyond would. Less than the smallest MTU of its protocol
    /// is never said: such packets leave all the same, cut outside.
    fn too_big(&self, sa: &OutboundSa, path: &Path, at: usize, length: usize) {
        sa.common.used.drops.add(Drop::TooBig, 1);
        let packet = &self.read[at..at + length];
        let message = too_big(packet, path.max_inner.max(mtu_floor(packet[0] >> 4)));
        if self.shared.write_tun(&[IoSlice::new(&[0; VNET]), IoSlice::new(&message)]).is_err() {
            self.shared.drops.add(Drop::TunFull, 1);
        }
    }
}

impl Sealer {
    /// Rows lie ready in `buffer`; false when the SA is used up.
    fn seal_and_send(&mut self, sa: &OutboundSa, path: &Path, buffer: &mut [u8], rows: &[Row], class: u8, df: bool) -> bool {
        let common = &sa.common;
        let Some(first) = sa.reserve(rows.len() as u64, sa.hard_packets) else {
            common.used.drops.add(Drop::HardLimit, rows.len());
            if let Some(why) = sa.used_up(rows.len() as u64) {
                self.shared.tell(Event::Hard { id: common.id, why });
            }
            return false;
        };
        let cipher = &common.cipher;
        let random = cipher.random_iv();
        self.ivs.resize(rows.len() * random, 0);
        if random > 0 && self.random.fill(&mut self.ivs).is_err() {
            common.used.drops.add(Drop::Fault, rows.len());
            return true;
        }
        let mut octets = 0;
        for (index, row) in rows.iter().enumerate() {
            let packet = &mut buffer[row.at..row.at + cipher.sealed_length(row.length)];
            let next_header = if packet[cipher.head()] >> 4 == 4 { IPV4_IN_IP } else { IPV6_IN_IP };
            let iv = &self.ivs[index * random..(index + 1) * random];
            if !sa.seal(packet, row.length, first + index as u64, next_header, iv) {
                common.used.drops.add(Drop::Fault, rows.len());
                return true;
            }
            octets += row.length;
        }
        sa.count(rows.len(), octets, self.now);
        let sent: Vec<(usize, usize)> = rows.iter().map(|row| (row.at, cipher.sealed_length(row.length))).collect();
        let mut failed = transmit(&self.shared, path, buffer, &sent, class, df);
        if failed == Some(Drop::TooBig) {
            // The path became narrower just now: these go in fragments, the next ones fit.
            self.shared.tell(Event::Narrower { id: common.id });
            failed = transmit(&self.shared, path, buffer, &sent, class, false);
        }
        if let Some(reason) = failed {
            common.used.drops.add(reason, rows.len());
        }
        if sa.alarm() {
            self.shared.tell(Event::Alarm { id: common.id });
        }
        true
    }
}

/// A sealed packet of the same tunnel that the routes led back in: sealing it again would never end.
fn is_own(packet: &Inner, path: &Path) -> bool {
    let (family, remote) = match path.remote {
        std::net::IpAddr::V4(four) => (4, u128::from(u32::from(four))),
        std::net::IpAddr::V6(six) => (6, u128::from(six)),
    };
    if packet.destination != remote || packet.family != family {
        return false;
    }
    SEALED.contains(&packet.protocol)
        || (packet.protocol == UDP && path.ports.is_some_and(|(local, remote)| (packet.source_port, packet.destination_port) == (local.into(), remote.into())))
}

/// Send ESP packets that stand at (begin, octets) of `buffer`; None, or why (some of) it did not leave.
pub fn transmit(shared: &Shared, path: &Path, buffer: &[u8], packets: &[(usize, usize)], class: u8, df: bool) -> Option<Drop> {
    let Some(socket) = shared.sockets.get(path.socket) else { return Some(Drop::SendFailed) };
    let target = Target { local: path.local, remote: path.remote, port: path.ports.map_or(0, |ports| ports.1), traffic_class: class };
    socket.with_df(df, || transmit_now(shared, socket, &target, buffer, packets))
}

fn transmit_now(shared: &Shared, socket: &Socket, target: &Target, buffer: &[u8], packets: &[(usize, usize)]) -> Option<Drop> {
    let together = packets.len() > 1 && target.port != 0 && shared.udp_gso.load(Relaxed);
    if packets.len() == 1 || together {
        // What lies side by side is one part.
        let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(packets.len());
        let (mut begin, mut end) = (packets[0].0, packets[0].0);
        for (at, length) in packets {
            if *at != end {
                parts.push(IoSlice::new(&buffer[begin..end]));
                begin = *at;
            }
            end = at + length;
        }
        parts.push(IoSlice::new(&buffer[begin..end]));
        let segment = if together { packets[0].1 as u16 } else { 0 };
        let error = sys::send(&socket.fd, &parts, target, segment).err()?;
        if !together || !matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) {
            return Some(reason(&error));
        }
        // EIO: the device cannot segment (no checksum offload): never again. EINVAL: segments larger than the
        // path takes, or something that each packet by itself will tell.
        if error.raw_os_error() == Some(libc::EIO) {
            shared.udp_gso.store(false, Relaxed);
        }
    }
    let datagrams: Vec<IoSlice<'_>> = packets.iter().map(|(at, length)| IoSlice::new(&buffer[*at..at + length])).collect();
    let (mut next, mut failed) = (0, None);
    while next < datagrams.len() {
        let (taken, error) = sys::send_each(&socket.fd, &datagrams[next..], target);
        next += taken;
        if let Some(error) = error {
            failed = Some(reason(&error));
            next += 1;
        }
    }
    failed
}

fn reason(error: &std::io::Error) -> Drop {
    if error.raw_os_error() == Some(libc::EMSGSIZE) { Drop::TooBig } else { Drop::SendFailed }
}
