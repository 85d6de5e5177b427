//! From the wire to the TUN.
//!
//!     receive a batch -> cut where the control message says -> which SA -> open in place
//!     -> selectors and policy (RFC 4301, section 5.2) -> ECN (RFC 6040) -> join -> write
//!
//! What is not ESP goes to its owner, the daemon; an SPI that is not known may be on its way from the daemon,
//! so waiting commands are carried out and it is looked up once more.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use foldhash::fast::RandomState;

use crate::burst::{Kind, MAX_PACKET, VNET};
use crate::drops::Drop;
use crate::inner::{FlowKey, describe, impossible_source, total_length, within};
use crate::sa::{InboundSa, lock};
use crate::shared::{Event, InEntry, Shared};
use crate::sys::{Receiver, Told};

/// Datagrams, each perhaps a group of 64, in one receive.
const DATAGRAMS: usize = 16;
const MAX_ROWS: usize = 64;
/// Flows inside that are kept verdicts of.
const MAX_ADMITTED: usize = 1 << 16;
/// Flows whose segments are being joined at once.
const MAX_GROUPS: usize = 8;

/// An inner packet: datagram, begin and octets within it, SA.
#[derive(Clone, Copy)]
struct Opened {
    datagram: usize,
    at: usize,
    length: usize,
    sa: usize,
}

/// Segments of one flow in sequence.
struct Group {
    kind: Kind,
    flow: FlowKey,
    sa: u64,
    segment: usize,
    total: usize,
    packets: Vec<Opened>,
    /// Nothing may follow: a shorter segment or PSH was the last.
    closed: bool,
}

pub struct Inward {
    shared: Arc<Shared>,
    receiver: Receiver,
    sas: Vec<(Arc<InboundSa>, u32, IpAddr)>,
    opened: Vec<Opened>,
    groups: Vec<Group>,
    admitted: HashMap<(u64, FlowKey), Option<Drop>, RandomState>,
    generation: u64,
    now: f64,
}

impl Inward {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            receiver: Receiver::new(DATAGRAMS, MAX_PACKET + 1),
            sas: Vec::new(),
            opened: Vec::new(),
            groups: Vec::new(),
            admitted: HashMap::default(),
            generation: 0,
            now: 0.0,
        }
    }

    /// Take what a socket has, up to a bound; whether there may be more.
    pub fn turn(&mut self, socket: usize) -> bool {
        let shared = self.shared.clone();
        let Some(socket) = shared.sockets.get(socket) else { return false };
        let Ok(count) = self.receiver.receive(&socket.fd) else { return false };
        self.now = shared.now();
        let generation = shared.generation();
        if generation != self.generation {
            self.generation = generation;
            self.admitted.clear();
        }
        self.sas.clear();
        self.opened.clear();
        for datagram in 0..count {
            let told = self.receiver.told(datagram);
            if socket.port == 0 {
                self.plain(datagram, told, socket.version);
            } else {
                self.encapsulated(datagram, told, socket.port);
            }
        }
        self.deliver();
        count == DATAGRAMS
    }

    /// Plain ESP. IPv4 gives the outer header too, IPv6 does not.
    fn plain(&mut self, datagram: usize, mut told: Told, version: u8) {
        let octets = self.receiver.datagram(datagram);
        let mut start = 0;
        if version == 4 {
            if octets.len() < 20 {
                return;
            }
            start = usize::from(octets[0] & 15) * 4;
            told.traffic_class = octets[1];
            told.local = Some(Ipv4Addr::new(octets[16], octets[17], octets[18], octets[19]).into());
        }
        told.source_port = 0;
        if octets.len() < start + 8 || told.truncated {
            self.shared.drops.add(Drop::Short, 1);
            return;
        }
        let length = octets.len() - start;
        self.open(datagram, start, length, 1, &told, 0);
    }

    /// ESP in UDP; groups of datagrams with one SPI are opened together, those with SPI 0 are IKE's.
    fn encapsulated(&mut self, datagram: usize, told: Told, port: u16) {
        let octets = self.receiver.datagram(datagram);
        let size = octets.len();
        if size < 8 {
            // A NAT keepalive (RFC 3948, section 2.3) says nothing.
            if octets != [0xFF] {
                self.shared.drops.add(Drop::Runt, 1);
            }
            return;
        }
        let segment = if told.segment == 0 { size } else { told.segment.min(size) };
        let spi = |octets: &[u8], at: usize| [octets[at], octets[at + 1], octets[at + 2], octets[at + 3]];
        let mut at = 0;
        while at < size {
            let octets = self.receiver.datagram(datagram);
            if (size - at).min(segment) < 8 {
                at += segment;
                continue;
            }
            let this = spi(octets, at);
            let mut count = 1;
            let mut end = (at + segment).min(size);
            while end + 8 <= size && segment >= 8 && spi(octets, end) == this {
                end = (end + segment).min(size);
                count += 1;
            }
            self.open(datagram, at, end - at, count, &told, port);
            at += count * segment;
        }
    }

    /// `count` packets of one SPI in `length` octets, all of one size but the last.
    fn open(&mut self, datagram: usize, start: usize, length: usize, count: usize, told: &Told, port: u16) {
        let octets = &self.receiver.datagram(datagram)[start..start + length];
        let spi = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
        let local = told.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stride = if count == 1 { length } else { told.segment };
        if spi == 0 && port != 0 {
            for data in octets.chunks(stride) {
                let data = data.to_vec();
                self.shared.tell(Event::Foreign { local, port, remote: told.source, remote_port: told.source_port, data });
            }
            return;
        }
        let Some(index) = self.find(spi, local) else {
            self.unknown(spi, local, datagram, start, length, stride, told, port);
            return;
        };
        let sa = self.sas[index].0.clone();
        let common = &sa.common;
        let outer = told.traffic_class;
        let ecn = common.header.changes_inner(outer);
        let (mut good, mut payload, mut newest) = (0, 0, false);
        let packets = &mut self.receiver.datagram_mut(datagram)[start..start + length];
        for (number, packet) in packets.chunks_mut(stride).enumerate() {
            let (at, length) = match sa.open(packet) {
                Ok((at, length, is_newest)) => {
                    newest |= is_newest;
                    (at, length)
                }
                Err((reason, is_newest)) => {
                    newest |= is_newest;
                    common.used.drops.add(reason, 1);
                    continue;
                }
            };
            good += 1;
            payload += length;
            let inner = &mut packet[at..at + length];
            if ecn && total_length(inner) > 0 && !common.header.decapsulate(inner, outer) {
                common.used.drops.add(Drop::Ecn, 1);
                continue;
            }
            self.opened.push(Opened { datagram, at: start + number * stride + at, length, sa: index });
        }
        if good == 0 {
            return;
        }
        let used = &common.used;
        used.packets.fetch_add(good, Relaxed);
        used.bytes.fetch_add(payload as u64, Relaxed);
        used.touch(self.now);
        if !sa.seen.swap(true, Relaxed) && sa.notify_first_use {
            self.shared.tell(Event::FirstUse { id: common.id });
        }
        if newest {
            self.moved(&sa, (told.source, told.source_port));
        }
        if sa.alarm() {
            self.shared.tell(Event::Alarm { id: common.id });
        }
    }

    /// The SA's place among this turn's, or None: not one of ours.
    fn find(&mut self, spi: u32, local: IpAddr) -> Option<usize> {
        if let Some(index) = self.sas.iter().rposition(|one| one.1 == spi && one.2 == local) {
            return Some(index);
        }
        let InEntry::Native(sa) = self.look_up(spi, local)? else { return None };
        self.sas.push((sa, spi, local));
        Some(self.sas.len() - 1)
    }

    fn look_up(&self, spi: u32, local: IpAddr) -> Option<InEntry> {
        self.shared.sad.read().unwrap_or_else(PoisonError::into_inner).inbound(spi, local)
    }

    /// Packets of an SPI that is not among ours: it may be on its way, or the interpreter's.
    #[allow(clippy::too_many_arguments)]
    fn unknown(&mut self, spi: u32, local: IpAddr, datagram: usize, start: usize, length: usize, stride: usize, told: &Told, port: u16) {
        let octets = &self.receiver.datagram(datagram)[start..start + length];
        match self.look_up(spi, local) {
            Some(InEntry::Other { .. }) => {
                for data in octets.chunks(stride) {
                    self.shared.tell(Event::Inside {
                        local,
                        port,
                        remote: told.source,
                        remote_port: told.source_port,
                        traffic_class: told.traffic_class,
                        data: data.to_vec(),
                        outer: if port == 0 { self.receiver.datagram(datagram)[..start].to_vec() } else { Vec::new() },
                        extensions: self.receiver.extensions(datagram),
                    });
                }
            }
            Some(InEntry::Native(_)) => self.open(datagram, start, length, octets.len().div_ceil(stride), told, port),
            None => {
                self.shared.await_commands();
                if self.look_up(spi, local).is_some() {
                    self.open(datagram, start, length, octets.len().div_ceil(stride), told, port);
                } else {
                    self.shared.drops.add(Drop::NoSa, octets.len().div_ceil(stride));
                }
            }
        }
    }

    /// Authentic, newest, from elsewhere (RFC 7296, section 2.23): the daemon decides what that means.
    fn moved(&self, sa: &InboundSa, source: (IpAddr, u16)) {
        let mut known = lock(&sa.source);
        if *known == source || !sa.encapsulated.load(Relaxed) || sa.lingering.load(Relaxed) {
            return;
        }
        *known = source;
        self.shared.tell(Event::Moved { id: sa.common.id, remote: source.0, port: source.1 });
    }

    // -- delivering --------------------------------------------------------------------------------------

    fn deliver(&mut self) {
        let opened = std::mem::take(&mut self.opened);
        for one in &opened {
            self.deliver_one(*one);
        }
        self.opened = opened;
        while !self.groups.is_empty() {
            let group = self.groups.remove(0);
            self.write(&group);
        }
    }

    fn deliver_one(&mut self, mut one: Opened) {
        let sa = self.sas[one.sa].0.clone();
        let total = total_length(&self.receiver.datagram(one.datagram)[one.at..one.at + one.length]);
        if total == 0 {
            sa.common.used.drops.add(Drop::BadInner, 1);
            return;
        }
        one.length = total;
        let packet = &self.receiver.datagram(one.datagram)[one.at..one.at + total];
        let flow = FlowKey::of(packet);
        let known = flow.and_then(|flow| self.admitted.get(&(sa.common.id, flow))).copied();
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let verdict = self.judge(&sa, packet);
                if let Some(flow) = flow {
                    if self.admitted.len() >= MAX_ADMITTED {
                        self.admitted.clear();
                    }
                    self.admitted.insert((sa.common.id, flow), verdict);
                }
                verdict
            }
        };
        if let Some(reason) = verdict {
            sa.common.used.drops.add(reason, 1);
            return;
        }
        let kind = Kind::of(packet).filter(|kind| if kind.tcp { &self.shared.tun_tso } else { &self.shared.tun_uso }.load(Relaxed));
        match (flow, kind) {
            (Some(flow), Some(kind)) => self.join(one, flow, kind, sa.common.id),
            (Some(flow), None) => {
                // What this flow sent before goes before.
                if let Some(place) = self.groups.iter().position(|group| group.flow == flow && group.sa == sa.common.id) {
                    let group = self.groups.remove(place);
                    self.write(&group);
                }
                self.write_one(one);
            }
            (None, _) => {
                for group in std::mem::take(&mut self.groups) {
                    self.write(&group);
                }
                self.write_one(one);
            }
        }
    }

    /// May this packet come out of this SA? None: yes.
    fn judge(&self, sa: &InboundSa, packet: &[u8]) -> Option<Drop> {
        let Some(packet) = describe(packet) else { return Some(Drop::BadInner) };
        let common = &sa.common;
        let packet = lock(&self.shared.inbound_fragments).whole(packet, common.flow, self.now);
        if impossible_source(&packet) || !within(&common.local_selectors, &common.remote_selectors, &packet, false) {
            return Some(Drop::Selector);
        }
        (!lock(&self.shared.spd).permits_inbound(common.flow, &packet)).then_some(Drop::CarvedOut)
    }

    fn octets(&self, one: &Opened) -> &[u8] {
        &self.receiver.datagram(one.datagram)[one.at..one.at + one.length]
    }

    /// Append to the group of its flow if it continues that, else begin a new one.
    fn join(&mut self, one: Opened, flow: FlowKey, kind: Kind, sa: u64) {
        if let Some(place) = self.groups.iter().position(|group| group.flow == flow && group.sa == sa) {
            if self.continues(&self.groups[place], &one, kind) {
                let pushes = kind.pushes(self.octets(&one));
                let group = &mut self.groups[place];
                let payload = one.length - kind.header;
                let before = group.packets[group.packets.len() - 1];
                group.total += payload;
                group.packets.push(one);
                group.closed = payload < group.segment || group.packets.len() >= MAX_ROWS;
                let pushed = kind.pushes(&self.receiver.datagram(before.datagram)[before.at..before.at + before.length]);
                self.groups[place].closed |= pushes && !pushed;
                return;
            }
            let group = self.groups.remove(place);
            self.write(&group);
        }
        if self.groups.len() >= MAX_GROUPS {
            let oldest = self.groups.remove(0);
            self.write(&oldest);
        }
        self.groups.push(Group { kind, flow, sa, segment: one.length - kind.header, total: one.length, packets: vec![one], closed: false });
    }

    fn continues(&self, group: &Group, one: &Opened, kind: Kind) -> bool {
        let payload = one.length - kind.header;
        if group.closed || kind != group.kind || payload > group.segment || group.total + payload > MAX_PACKET {
            return false;
        }
        let before = self.octets(&group.packets[group.packets.len() - 1]);
        let next = self.octets(one);
        // PSH ends a burst: it may come with the last segment, or stand in all.
        if kind.pushes(before) && !kind.pushes(next) {
            return false;
        }
        if !kind.follows(before, next, group.segment) {
            return false;
        }
        // What is joined is vouched for: the TUN is told that its checksum is right.
        let first_good = group.packets.len() > 1 || (kind.ip_verified(before) && kind.verified(before));
        first_good && kind.verified(next)
    }

    fn write(&self, group: &Group) {
        if group.packets.len() == 1 {
            self.write_one(group.packets[0]);
            return;
        }
        let first = self.octets(&group.packets[0]);
        let last = self.octets(&group.packets[group.packets.len() - 1]);
        let (vnet, head) = group.kind.joined(first, group.total, group.segment, group.kind.pushes(last));
        let mut parts = Vec::with_capacity(group.packets.len() + 2);
        parts.push(IoSlice::new(&vnet));
        parts.push(IoSlice::new(&head));
        parts.extend(group.packets.iter().map(|one| IoSlice::new(&self.octets(one)[group.kind.header..])));
        let Err(error) = self.shared.write_tun(&parts) else { return };
        if error.raw_os_error() == Some(libc::EINVAL) {
            // This kernel refuses such bursts after all: from now on packet by packet.
            self.shared.tun_tso.store(false, Relaxed);
            self.shared.tun_uso.store(false, Relaxed);
            for one in &group.packets {
                self.write_one(*one);
            }
        } else {
            self.shared.drops.add(Drop::TunFull, group.packets.len());
        }
    }

    fn write_one(&self, one: Opened) {
        if self.shared.write_tun(&[IoSlice::new(&[0; VNET]), IoSlice::new(self.octets(&one))]).is_err() {
            self.shared.drops.add(Drop::TunFull, 1);
        }
    }
}
