//! What an inner packet is, for policy: addresses, protocol, ports (`cygnet.ipsec.inner`, fragments, tunnel).
//!
//! Lengths in the packet are re-derived and never believed. Ports come only from packets that carry
//! them: a later fragment, or a protocol without ports, has `NO_PORT` (RFC 4301, 4.4.1.1 and 7).

use std::collections::{HashMap, VecDeque};

use crate::checksum::fix_ipv4_header;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const NO_PORT: i32 = -1;
const FRAGMENT: u8 = 44;
const AH: u8 = 51;
const MOBILITY: u8 = 135;
const MAX_EXTENSIONS: usize = 8;

/// One packet as the SPD sees it. Addresses are numbers, of an IPv4 one the lower 32 bits. Of an ICMP
/// message both ports are type * 256 + code. `fragment`: the identification of a part of a packet;
/// `later`: another part than the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub family: u8,
    pub protocol: u8,
    pub source: u128,
    pub destination: u128,
    pub source_port: i32,
    pub destination_port: i32,
    pub fragment: Option<u32>,
    pub later: bool,
}

fn u16_at(packet: &[u8], at: usize) -> usize {
    usize::from(packet[at]) << 8 | usize::from(packet[at + 1])
}

pub fn version(packet: &[u8]) -> u8 {
    packet.first().map_or(0, |first| first >> 4)
}

fn v4(packet: &[u8], at: usize) -> u128 {
    u128::from(u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]))
}

fn v6(packet: &[u8], at: usize) -> u128 {
    packet[at..at + 16].iter().fold(0, |number, octet| number << 8 | u128::from(*octet))
}

/// A cheap name of the packet's flow: protocol, addresses, ports or ICMP type and code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    kind: u16,
    octets: [u8; 36],
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | 33 | 132 | 136)
}

impl FlowKey {
    /// None where only `describe` can tell: options, fragments, extension headers, runts.
    pub fn of(packet: &[u8]) -> Option<Self> {
        if packet.len() < 20 {
            return None;
        }
        let mut octets = [0; 36];
        if packet[0] == 0x45 {
            if packet[6] & 0x3F != 0 || packet[7] != 0 {
                return None;
            }
            let protocol = packet[9];
            let end = if has_ports(protocol) { 24 } else if protocol == ICMP { 22 } else { 20 };
            if end > packet.len() {
                return None;
            }
            octets[..end - 12].copy_from_slice(&packet[12..end]);
            return Some(Self { kind: u16::from(protocol), octets });
        }
        if packet[0] >> 4 == 6 && packet.len() >= 44 {
            let protocol = packet[6];
            let end = if has_ports(protocol) { 44 } else if protocol == ICMPV6 { 42 } else { return None };
            octets[..end - 8].copy_from_slice(&packet[8..end]);
            return Some(Self { kind: u16::from(protocol) | 256, octets });
        }
        None
    }
}

/// The packet that `packet` begins with, or None if that is no IP packet.
pub fn describe(packet: &[u8]) -> Option<Inner> {
    match version(packet) {
        4 if packet.len() >= 20 => describe_4(packet),
        6 if packet.len() >= 40 => describe_6(packet),
        _ => None,
    }
}

fn describe_4(packet: &[u8]) -> Option<Inner> {
    let header = usize::from(packet[0] & 15) * 4;
    let total = u16_at(packet, 2);
    if header < 20 || total < header || total > packet.len() {
        return None;
    }
    let offset = u16_at(packet, 6) & 0x1FFF;
    let (source_port, destination_port) =
        if offset == 0 { ports(&packet[header..total], packet[9])? } else { (NO_PORT, NO_PORT) };
    Some(Inner {
        family: 4,
        protocol: packet[9],
        source: v4(packet, 12),
        destination: v4(packet, 16),
        source_port,
        destination_port,
        fragment: (offset != 0 || packet[6] & 0x20 != 0).then(|| u16_at(packet, 4) as u32),
        later: offset > 0,
    })
}

fn describe_6(packet: &[u8]) -> Option<Inner> {
    // A payload length of 0 announces a jumbogram (RFC 2675): none fits through here.
    let total = 40 + u16_at(packet, 4);
    if total > packet.len() || (total == 40 && packet[6] != 59) {
        return None;
    }
    let (mut protocol, mut at) = (packet[6], 40);
    let (mut fragment, mut later) = (None, false);
    let mut walked = 0;
    while matches!(protocol, 0 | 43 | FRAGMENT | AH | 60) {
        walked += 1;
        if walked > MAX_EXTENSIONS || at + 8 > total {
            return None;
        }
        let following = packet[at];
        if protocol == FRAGMENT {
            let offset = u16_at(packet, at + 2);
            if offset & 0xFFF9 != 0 {
                // An atomic fragment is whole (RFC 6946).
                fragment = Some(u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]]));
            }
            later = later || offset >= 8;
            at += 8;
        } else if protocol == AH {
            at += (usize::from(packet[at + 1]) + 2) * 4;
        } else {
            at += (usize::from(packet[at + 1]) + 1) * 8;
        }
        protocol = following;
        if later {
            break;
        }
    }
    let (mut source_port, mut destination_port) = (NO_PORT, NO_PORT);
    if !later {
        if at > total {
            return None;
        }
        (source_port, destination_port) = ports(&packet[at..total], protocol)?;
    }
    Some(Inner {
        family: 6,
        protocol,
        source: v6(packet, 8),
        destination: v6(packet, 24),
        source_port,
        destination_port,
        fragment,
        later,
    })
}

/// None if the payload is too short to hold what its protocol must hold.
fn ports(payload: &[u8], protocol: u8) -> Option<(i32, i32)> {
    if has_ports(protocol) {
        return (payload.len() >= 4).then(|| (u16_at(payload, 0) as i32, u16_at(payload, 2) as i32));
    }
    if protocol == ICMP || protocol == ICMPV6 {
        return (payload.len() >= 2).then(|| (u16_at(payload, 0) as i32, u16_at(payload, 0) as i32));
    }
    if protocol == MOBILITY && payload.len() >= 3 {
        let kind = i32::from(payload[2]) << 8;
        return Some((kind, kind));
    }
    Some((NO_PORT, NO_PORT))
}

/// The packet's own length, or 0; the rest is TFC padding (RFC 4303, 2.7).
pub fn total_length(packet: &[u8]) -> usize {
    match version(packet) {
        4 if packet.len() >= 20 => {
            let (header, total) = (usize::from(packet[0] & 15) * 4, u16_at(packet, 2));
            if header >= 20 && header <= total && total <= packet.len() { total } else { 0 }
        }
        6 if packet.len() >= 40 => {
            let total = 40 + u16_at(packet, 4);
            if total <= packet.len() { total } else { 0 }
        }
        _ => 0,
    }
}

/// `policy.selectors.TrafficSelector`.
#[derive(Clone, Copy, Debug)]
pub struct Selector {
    pub family: u8,
    pub protocol: u8,
    pub first: u128,
    pub last: u128,
    pub port_first: i32,
    pub port_last: i32,
}

impl Selector {
    fn fits(&self, family: u8, protocol: u8, address: u128, port: i32) -> bool {
        if self.family != family || address < self.first || address > self.last {
            return false;
        }
        if self.protocol != 0 && self.protocol != protocol {
            return false;
        }
        if self.port_first == 0 && self.port_last == 65535 {
            return true;
        }
        if port == NO_PORT {
            return self.port_first == 65535 && self.port_last == 0; // OPAQUE
        }
        self.port_first <= port && port <= self.port_last
    }
}

/// Whether a packet lies within an SA's selectors: some local one and some remote one of its protocol.
pub fn within(local: &[Selector], remote: &[Selector], packet: &Inner, outbound: bool) -> bool {
    let source = (packet.source, packet.source_port);
    let destination = (packet.destination, packet.destination_port);
    let (ours, theirs) = if outbound { (source, destination) } else { (destination, source) };
    let any = |selectors: &[Selector], (address, port): (u128, i32)| {
        selectors.iter().any(|one| one.fits(packet.family, packet.protocol, address, port))
    };
    any(local, ours) && any(remote, theirs)
}

/// A source that no packet from another machine can have: loopback, multicast, 0/8 (RFC 1122, 3.2.1.3).
pub fn impossible_source(packet: &Inner) -> bool {
    let source = packet.source;
    if packet.family == 4 {
        return matches!(source >> 24, 0 | 127) || source >> 28 == 0xE || source == 0xFFFF_FFFF;
    }
    source == 1 || source >> 120 == 0xFF
}

// -- fragments (RFC 4301, section 7.3) ---------------------------------------------------------------

const MAX_PACKETS: usize = 1024;
const SECONDS: f64 = 30.0;
type FragmentKey = (u64, u8, u128, u128, u32);

/// Packets of which a first fragment was seen, the oldest forgotten when there are too many.
#[derive(Default)]
pub struct Fragments {
    seen: HashMap<FragmentKey, (u8, i32, i32, f64, u64)>,
    order: VecDeque<(FragmentKey, u64)>,
    number: u64,
}

impl Fragments {
    /// The packet with the ports of its first fragment. `channel` keeps apart what came different ways.
    pub fn whole(&mut self, packet: Inner, channel: u64, now: f64) -> Inner {
        let Some(identification) = packet.fragment else { return packet };
        // IPv6 reassembles by addresses and identification alone (RFC 8200, section 4.5).
        let protocol = if packet.family == 4 { packet.protocol } else { 0 };
        let key = (channel, protocol, packet.source, packet.destination, identification);
        if !packet.later {
            self.number += 1;
            let known = (packet.protocol, packet.source_port, packet.destination_port, now + SECONDS, self.number);
            self.seen.insert(key, known);
            self.order.push_back((key, self.number));
            while self.order.len() > MAX_PACKETS {
                if let Some((oldest, number)) = self.order.pop_front() {
                    // One that came again meanwhile stands further behind too.
                    if self.seen.get(&oldest).is_some_and(|one| one.4 == number) {
                        self.seen.remove(&oldest);
                    }
                }
            }
            return packet;
        }
        match self.seen.get(&key) {
            None => packet,
            Some(found) if now >= found.3 => {
                self.seen.remove(&key);
                packet
            }
            Some(&(protocol, source_port, destination_port, _, _)) => {
                Inner { protocol, source_port, destination_port, ..packet }
            }
        }
    }
}

// -- the outer header (RFC 4301, section 5.1.2; RFC 6040) ----------------------------------------------

/// `policy.sa.TunnelHeader`.
#[derive(Clone, Copy, Debug)]
pub struct TunnelHeader {
    pub copy_dscp_out: bool,
    pub copy_dscp_in: bool,
    pub copy_ecn: bool,
    pub copy_df: bool,
    /// Without `copy_df`: DF is set, else clear.
    pub set_df: bool,
}

pub fn traffic_class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] } else { (packet[0] & 15) << 4 | packet[1] >> 4 }
}

/// DF of an IPv4 packet; IPv6 is never fragmented on its way.
pub fn dont_fragment(packet: &[u8]) -> bool {
    packet[0] >> 4 != 4 || packet[6] & 0x40 != 0
}

impl TunnelHeader {
    pub fn outer_traffic_class(&self, inner: u8) -> u8 {
        let dscp = if self.copy_dscp_out { inner & 0xFC } else { 0 };
        if self.copy_ecn { dscp | inner & 3 } else { dscp }
    }

    pub fn outer_df(&self, inner: bool) -> bool {
        if self.copy_df { inner } else { self.set_df }
    }

    /// Whether an outer traffic class can change any inner one: mostly it cannot, and nobody need look.
    pub fn changes_inner(&self, outer: u8) -> bool {
        (self.copy_ecn && matches!(outer & 3, 1 | 3)) || self.copy_dscp_in
    }

    /// Carry the outer DSCP and ECN over to the inner packet; false: drop (CE on Not-ECT).
    pub fn decapsulate(&self, packet: &mut [u8], outer: u8) -> bool {
        let inner = traffic_class(packet);
        let mut ecn = inner & 3;
        if self.copy_ecn {
            // RFC 6040, figure 4.
            ecn = match (ecn, outer & 3) {
                (0, 3) => return false,
                (_, 3) => 3,
                (2, 1) => 1,
                _ => ecn,
            };
        }
        let new = if self.copy_dscp_in { outer & 0xFC } else { inner & 0xFC } | ecn;
        if new == inner {
            return true;
        }
        if packet[0] >> 4 == 4 {
            packet[1] = new;
            let header = usize::from(packet[0] & 15) * 4;
            fix_ipv4_header(&mut packet[..header]);
        } else {
            packet[0] = 0x60 | new >> 4;
            packet[1] = (new & 15) << 4 | packet[1] & 15;
        }
        true
    }
}
