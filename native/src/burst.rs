//! Bursts: one large packet of a flow cut into segments (GSO), segments of a flow joined into one (GRO).
//!
//! Field by field as Linux does it (net/ipv4/tcp_offload.c, udp_offload.c) and as `cygnet.dataplane.offload`
//! does it with columns. Checksums are made for what is cut and verified for what is joined.

use crate::checksum::{complement, fix_ipv4_header, store, sum, swap};
use crate::inner::{TCP, UDP};

pub const VNET: usize = 10;
pub const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
pub const MAX_PACKET: usize = 65535;
const FIN_PSH: u8 = 0x09;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// virtio_net_hdr, in host order: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vnet {
    pub flags: u8,
    pub gso_type: u8,
    pub header: u16,
    pub segment: u16,
    pub start: u16,
    pub offset: u16,
}

impl Vnet {
    pub fn read(octets: &[u8; VNET]) -> Self {
        let at = |place: usize| u16::from_ne_bytes([octets[place], octets[place + 1]]);
        Self { flags: octets[0], gso_type: octets[1], header: at(2), segment: at(4), start: at(6), offset: at(8) }
    }

    pub fn write(&self) -> [u8; VNET] {
        let mut octets = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, value) in [(2, self.header), (4, self.segment), (6, self.start), (8, self.offset)] {
            octets[place..place + 2].copy_from_slice(&value.to_ne_bytes());
        }
        octets
    }
}

/// A packet larger than its segments, as judged. Offsets count from the packet's begin.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    pub transport: usize,
    pub tcp: bool,
    /// Octets before the payload.
    pub header: usize,
    pub segment: usize,
    pub count: usize,
}

impl Burst {
    /// The kernel's `hdr_len` is not believed: it may be the whole packet's length.
    pub fn judge(packet: &[u8], vnet: &Vnet) -> Option<Self> {
        let tcp = match vnet.gso_type & !GSO_ECN {
            GSO_TCPV4 | GSO_TCPV6 => true,
            GSO_UDP_L4 => false,
            _ => return None,
        };
        let (segment, transport) = (usize::from(vnet.segment), usize::from(vnet.start));
        if segment == 0 || packet.len() > MAX_PACKET || packet.is_empty() {
            return None;
        }
        let minimum = if packet[0] >> 4 == 4 { 20 } else { 40 };
        let least = if tcp { 20 } else { 8 };
        if transport < minimum || packet.len() < transport + least {
            return None;
        }
        if minimum == 20 && transport != usize::from(packet[0] & 15) * 4 {
            return None;
        }
        let header = transport + if tcp { usize::from(packet[transport + 12] >> 4) * 4 } else { 8 };
        if header < transport + least || header >= packet.len() {
            return None;
        }
        Some(Self { transport, tcp, header, segment, count: (packet.len() - header).div_ceil(segment) })
    }

    /// Octets of segment `number`.
    pub fn length(&self, packet: &[u8], number: usize) -> usize {
        self.header + self.segment.min(packet.len() - self.header - number * self.segment)
    }

    /// Write segment `number` of `packet` to `out`, which has its length.
    pub fn cut(&self, packet: &[u8], number: usize, out: &mut [u8]) {
        let (transport, header) = (self.transport, self.header);
        let from = header + number * self.segment;
        let length = out.len();
        out[..header].copy_from_slice(&packet[..header]);
        out[header..].copy_from_slice(&packet[from..from + length - header]);
        let four = out[0] >> 4 == 4;
        if four {
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            let identity = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(number as u16);
            out[4..6].copy_from_slice(&identity.to_be_bytes());
            fix_ipv4_header(&mut out[..transport]);
        } else {
            out[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        }
        let field = if self.tcp {
            let first = u32::from_be_bytes([packet[transport + 4], packet[transport + 5], packet[transport + 6], packet[transport + 7]]);
            let sequence = first.wrapping_add((number * self.segment) as u32);
            out[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            // FIN and PSH belong to the last segment, CWR to the first.
            if number + 1 < self.count {
                out[transport + 13] &= !FIN_PSH;
            }
            if number > 0 {
                out[transport + 13] &= !CWR;
            }
            transport + 16
        } else {
            out[transport + 4..transport + 6].copy_from_slice(&((length - transport) as u16).to_be_bytes());
            transport + 6
        };
        store(out, field, 0);
        let total = pseudo(out, transport, self.tcp) + sum(&out[transport..]);
        store(out, field, complement(total));
    }
}

/// The sum of the pseudo header of a packet whose transport header begins at `transport`.
fn pseudo(packet: &[u8], transport: usize, tcp: bool) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    sum(addresses) + swap(usize::from(if tcp { TCP } else { UDP })) + swap(packet.len() - transport)
}

/// Do what NEEDS_CSUM leaves to do: the field holds the pseudo header's sum. False: no such field.
pub fn finish_checksum(packet: &mut [u8], vnet: &Vnet) -> bool {
    if vnet.flags & NEEDS_CSUM == 0 {
        return true;
    }
    let (start, field) = (usize::from(vnet.start), usize::from(vnet.start) + usize::from(vnet.offset));
    if field + 2 > packet.len() {
        return false;
    }
    let value = complement(sum(&packet[start..]));
    store(packet, field, value);
    true
}

/// What packets that may be joined look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    pub tcp: bool,
    pub transport: usize,
    pub header: usize,
}

impl Kind {
    /// TCP with nothing but ACK and PSH, UDP with a checksum; no IP options or extension headers, no fragments,
    /// and DF where it exists. `packet` has the length that its header says.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let length = packet.len();
        if length < 29 {
            return None;
        }
        let (protocol, transport) = if packet[0] == 0x45 {
            if packet[6] != 0x40 || packet[7] != 0 {
                return None;
            }
            (packet[9], 20)
        } else if packet[0] >> 4 == 6 && length >= 49 {
            (packet[6], 40)
        } else {
            return None;
        };
        if protocol == TCP {
            if length < transport + 20 || packet[transport + 13] & !PSH != ACK {
                return None;
            }
            let header = transport + usize::from(packet[transport + 12] >> 4) * 4;
            return (header >= transport + 20 && header < length).then_some(Self { tcp: true, transport, header });
        }
        let said = usize::from(packet[transport + 4]) << 8 | usize::from(packet[transport + 5]);
        let summed = packet[transport + 6] | packet[transport + 7] != 0;
        (protocol == UDP && said == length - transport && summed).then_some(Self { tcp: false, transport, header: transport + 8 })
    }

    /// Whether `next` may follow `before` in one burst of segments of `segment` octets: equal headers but for
    /// what counts on. PSH is the caller's.
    pub fn follows(&self, before: &[u8], next: &[u8], segment: usize) -> bool {
        let at = self.transport;
        let same = |from: usize, to: usize| before[from..to] == next[from..to];
        let alike = if at == 20 { same(0, 2) && same(6, 10) && same(12, 20) } else { same(0, 4) && same(6, 40) };
        if !alike || !same(at, at + 4) {
            return false;
        }
        if !self.tcp {
            return true;
        }
        let number = |packet: &[u8]| u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]]);
        same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, self.header) && number(next) == number(before).wrapping_add(segment as u32)
    }

    pub fn pushes(&self, packet: &[u8]) -> bool {
        self.tcp && packet[self.transport + 13] & PSH != 0
    }

    /// Whether the transport checksum holds.
    pub fn verified(&self, packet: &[u8]) -> bool {
        (pseudo(packet, self.transport, self.tcp) + sum(&packet[self.transport..])) % 0xFFFF == 0
    }

    /// Whether the IP header's checksum holds.
    pub fn ip_verified(&self, packet: &[u8]) -> bool {
        self.transport != 20 || sum(&packet[..20]) % 0xFFFF == 0
    }

    /// The headers of the joined packet and its vnet header: `first` is its first segment, `total` its octets.
    pub fn joined(&self, first: &[u8], total: usize, segment: usize, push: bool) -> ([u8; VNET], Vec<u8>) {
        let mut head = first[..self.header].to_vec();
        let at = self.transport;
        let four = at == 20;
        if four {
            head[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            fix_ipv4_header(&mut head[..20]);
        } else {
            head[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        }
        let (offset, gso_type) = if self.tcp {
            if push {
                head[at + 13] |= PSH;
            }
            (16, if four { GSO_TCPV4 } else { GSO_TCPV6 })
        } else {
            head[at + 4..at + 6].copy_from_slice(&((total - at) as u16).to_be_bytes());
            (6, GSO_UDP_L4)
        };
        let addresses = if four { &head[12..20] } else { &head[8..40] };
        let pseudo = sum(addresses) + swap(usize::from(if self.tcp { TCP } else { UDP })) + swap(total - at);
        store(&mut head, at + offset, (pseudo % 0xFFFF) as u16);
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type,
            header: self.header as u16,
            segment: segment as u16,
            start: at as u16,
            offset: offset as u16,
        };
        (vnet.write(), head)
    }
}
