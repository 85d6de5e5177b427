//! What a packet that does not fit is answered with (RFC 4301, section 8.2.1).

use crate::checksum::{complement, fix_ipv4_header, store, sum, swap};
use crate::inner::{ICMP, ICMPV6};

/// Path MTUs below these are never said: packets are fragmented outside instead (RFC 1191, RFC 8200).
pub fn mtu_floor(version: u8) -> usize {
    if version == 4 { 576 } else { 1280 }
}

pub fn too_big(packet: &[u8], mtu: usize) -> Vec<u8> {
    if packet[0] >> 4 == 4 { too_big_4(packet, mtu) } else { too_big_6(packet, mtu) }
}

/// Fragmentation needed (RFC 1191, section 4), from the packet's destination: an address that the sender's
/// reverse path filter expects behind the tunnel.
fn too_big_4(packet: &[u8], mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(548)];
    let mut message = vec![0; 28 + quoted.len()];
    let length = message.len() as u16;
    message[..2].copy_from_slice(&[0x45, 0xC0]);
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message[8..10].copy_from_slice(&[64, ICMP]);
    message[12..16].copy_from_slice(&packet[16..20]);
    message[16..20].copy_from_slice(&packet[12..16]);
    fix_ipv4_header(&mut message[..20]);
    message[20..22].copy_from_slice(&[3, 4]);
    message[26..28].copy_from_slice(&(mtu as u16).to_be_bytes());
    message[28..].copy_from_slice(quoted);
    let value = complement(sum(&message[20..]));
    store(&mut message, 22, value);
    message
}

/// Packet Too Big (RFC 4443, section 3.2).
fn too_big_6(packet: &[u8], mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(1232)];
    let mut message = vec![0; 48 + quoted.len()];
    message[0] = 0x60;
    message[4..6].copy_from_slice(&((8 + quoted.len()) as u16).to_be_bytes());
    message[6..8].copy_from_slice(&[ICMPV6, 64]);
    message[8..24].copy_from_slice(&packet[24..40]);
    message[24..40].copy_from_slice(&packet[8..24]);
    message[40] = 2;
    message[44..48].copy_from_slice(&(mtu as u32).to_be_bytes());
    message[48..].copy_from_slice(quoted);
    let pseudo = sum(&message[8..40]) + swap(usize::from(ICMPV6)) + swap(8 + quoted.len());
    let value = complement(pseudo + sum(&message[40..]));
    store(&mut message, 42, value);
    message
}
