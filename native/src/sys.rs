//! System calls that the standard library does not wrap: all of the crate's unsafe code is in this file.
//!
//! Every function borrows descriptors and slices for the time of one call. Pointers that the kernel follows
//! are made from those borrows inside the call and are gone when it returns; sizes given to the kernel are
//! the slices' own. What the kernel writes (addresses, control messages) is parsed from initialised arrays of
//! octets with checked slices.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};

const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
/// Room for what a socket is told about a datagram: IPv6 extension headers come whole.
const CONTROL: usize = 1024;
/// Room for what a send says: three messages at most.
const SAID: usize = 128;
const NAME: usize = size_of::<libc::sockaddr_in6>();

/// A descriptor of our own for the file behind `fd`, which somebody else keeps open.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `fd` is not negative and is only used for the call; if it is not open, the call says so.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

pub fn event() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor that is returned is new and nobody else's.
    let fd = checked(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) } as isize)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Wait until one of `fds` can be read, `milliseconds` at most; which of them can.
pub fn readable(fds: &[RawFd], milliseconds: i32, ready: &mut [bool]) -> io::Result<()> {
    let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 16];
    let polled = &mut polled[..fds.len().min(16)];
    for (one, fd) in polled.iter_mut().zip(fds) {
        one.fd = *fd;
    }
    // SAFETY: the pointer and the number are of one live array.
    let done = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    checked(done as isize)?;
    for (one, ready) in polled.iter().zip(ready) {
        *ready = one.revents != 0;
    }
    Ok(())
}

/// Block all signals in this thread: they are the interpreter's.
pub fn block_signals() {
    // SAFETY: the set is filled before it is read; the old mask is not asked for.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// DF on what this socket sends or not. What ICMP told the kernel of the path is not obeyed (`dataplane.path_mtu`), but
/// where IPv6 is cut without DF: that is for the sender to do.
pub fn set_df(fd: &OwnedFd, version: u8, df: bool) -> io::Result<()> {
    let (level, option) = if version == 4 { (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER) };
    let value: c_int = match (df, version) {
        (true, _) => libc::IP_PMTUDISC_PROBE,
        (false, 4) => libc::IP_PMTUDISC_OMIT,
        (false, _) => libc::IPV6_PMTUDISC_DONT,
    };
    // SAFETY: the pointer and the size are of one live integer.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), size_of::<c_int>() as libc::socklen_t)
    };
    checked(done as isize).map(drop)
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

// -- sending -------------------------------------------------------------------------------------------

/// Where packets go and what is said about them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// 0 on raw sockets.
    pub port: u16,
    pub traffic_class: u8,
}

struct Envelope {
    name: [u8; NAME],
    name_length: usize,
    control: [u64; SAID / 8],
    control_length: usize,
}

impl Envelope {
    fn new(target: &Target, segment: u16) -> Self {
        let (name, name_length) = socket_address(target.remote, target.port);
        let mut made = Self { name, name_length, control: [0; SAID / 8], control_length: 0 };
        let class = c_int::from(target.traffic_class).to_ne_bytes();
        match target.local {
            IpAddr::V4(local) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&local.octets());
                made.add(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
                made.add(libc::IPPROTO_IP, libc::IP_TOS, &class);
            }
            IpAddr::V6(local) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&local.octets());
                made.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
                made.add(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
            }
        }
        if segment > 0 {
            made.add(libc::IPPROTO_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
        made
    }

    /// One control message: cmsghdr {length, level, type}, data, padded to 8 octets.
    fn add(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let head = size_of::<libc::cmsghdr>();
        let at = self.control_length;
        let mut octets = [0; 64];
        octets[..8].copy_from_slice(&(head + data.len()).to_ne_bytes());
        octets[8..12].copy_from_slice(&level.to_ne_bytes());
        octets[12..16].copy_from_slice(&kind.to_ne_bytes());
        octets[head..head + data.len()].copy_from_slice(data);
        let words = (head + data.len()).div_ceil(8);
        for (word, octets) in self.control[at / 8..at / 8 + words].iter_mut().zip(octets.chunks_exact(8)) {
            *word = u64::from_ne_bytes([octets[0], octets[1], octets[2], octets[3], octets[4], octets[5], octets[6], octets[7]]);
        }
        self.control_length = at + words * 8;
    }

    fn header(&mut self, parts: &[IoSlice<'_>]) -> libc::msghdr {
        // SAFETY: all zeros is a valid msghdr: null pointers, zero lengths.
        let mut header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        header.msg_name = self.name.as_mut_ptr().cast();
        header.msg_namelen = self.name_length as libc::socklen_t;
        // IoSlice is guaranteed to have iovec's layout; sending does not write through it.
        header.msg_iov = parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = parts.len();
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = self.control_length;
        header
    }
}

/// One datagram, or as many as segments of `segment` octets fit into it (0: one).
pub fn send(fd: &OwnedFd, parts: &[IoSlice<'_>], target: &Target, segment: u16) -> io::Result<()> {
    let mut envelope = Envelope::new(target, segment);
    let header = envelope.header(parts);
    // SAFETY: all that the header points to is borrowed or owned here until the call returns.
    checked(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) }).map(drop)
}

/// Datagrams of one part each; how many of them the kernel took, and why it did not take the next.
pub fn send_each(fd: &OwnedFd, datagrams: &[IoSlice<'_>], target: &Target) -> (usize, Option<io::Error>) {
    let mut envelope = Envelope::new(target, 0);
    let mut headers: Vec<libc::mmsghdr> = datagrams
        .iter()
        .map(|part| libc::mmsghdr { msg_hdr: envelope.header(std::slice::from_ref(part)), msg_len: 0 })
        .collect();
    // SAFETY: the headers' pointers are to `envelope` and `datagrams`, which live until the call returns.
    let done = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, libc::MSG_DONTWAIT) };
    match checked(done as isize) {
        Ok(taken) => (taken, None),
        Err(error) => (0, Some(error)),
    }
}

fn socket_address(address: IpAddr, port: u16) -> ([u8; NAME], usize) {
    let mut name = [0; NAME];
    name[2..4].copy_from_slice(&port.to_be_bytes());
    match address {
        IpAddr::V4(four) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&four.octets());
            (name, size_of::<libc::sockaddr_in>())
        }
        IpAddr::V6(six) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[8..24].copy_from_slice(&six.octets());
            (name, NAME)
        }
    }
}

// -- receiving -----------------------------------------------------------------------------------------

/// What the kernel says about a datagram. `segment` 0: it is one, else several of that size each but the last.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub length: usize,
    pub source: IpAddr,
    pub source_port: u16,
    pub local: Option<IpAddr>,
    pub traffic_class: u8,
    pub segment: usize,
    /// There was more to say than room.
    pub truncated: bool,
}

/// Room for `count` datagrams of up to `size` octets, and what the kernel says about them.
pub struct Receiver {
    buffer: Vec<u8>,
    size: usize,
    spacing: usize,
    names: Vec<[u8; NAME]>,
    controls: Vec<[u64; CONTROL / 8]>,
    used: Vec<usize>,
    told: Vec<Told>,
}

impl Receiver {
    pub fn new(count: usize, size: usize) -> Self {
        // An odd number of cache lines apart, so that the begins of datagrams do not share cache sets.
        let spacing = size.next_multiple_of(128) + 64;
        Self {
            buffer: vec![0; count * spacing],
            size,
            spacing,
            names: vec![[0; NAME]; count],
            controls: vec![[0; CONTROL / 8]; count],
            used: vec![0; count],
            told: Vec::with_capacity(count),
        }
    }

    /// Take what is there without waiting; how many datagrams it was.
    pub fn receive(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        self.told.clear();
        let parts: Vec<libc::iovec> = self
            .buffer
            .chunks_mut(self.spacing)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: self.size })
            .collect();
        let mut parts = parts;
        let mut headers: Vec<libc::mmsghdr> = Vec::with_capacity(parts.len());
        for ((part, name), control) in parts.iter_mut().zip(&mut self.names).zip(&mut self.controls) {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut header = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL;
            headers.push(header);
        }
        // SAFETY: every pointer is into a buffer of `self` or this function with the length given beside it.
        let done = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        let count = checked(done as isize)?;
        for (index, header) in headers.iter().take(count).enumerate() {
            let used = header.msg_hdr.msg_controllen.min(CONTROL);
            let mut told = parse(header.msg_len as usize, &self.names[index], &self.controls[index], used);
            told.truncated = header.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0;
            self.used[index] = used;
            self.told.push(told);
        }
        Ok(count)
    }

    pub fn told(&self, index: usize) -> Told {
        self.told[index]
    }

    /// IPv6 extension headers before the payload, by their numbers.
    pub fn extensions(&self, index: usize) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        each_message(&self.controls[index], self.used[index], |level, kind, data| {
            let number = match kind {
                libc::IPV6_HOPOPTS => 0,
                libc::IPV6_RTHDR => 43,
                libc::IPV6_DSTOPTS => 60,
                _ => return,
            };
            if level == libc::IPPROTO_IPV6 {
                found.push((number, data.to_vec()));
            }
        });
        found
    }

    pub fn datagram(&self, index: usize) -> &[u8] {
        let at = index * self.spacing;
        &self.buffer[at..at + self.told[index].length]
    }

    pub fn datagram_mut(&mut self, index: usize) -> &mut [u8] {
        let at = index * self.spacing;
        &mut self.buffer[at..at + self.told[index].length]
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|four| Ipv4Addr::from(four).into()),
        16 => <[u8; 16]>::try_from(octets).ok().map(|six| Ipv6Addr::from(six).into()),
        _ => None,
    }
}

fn parse(length: usize, name: &[u8; NAME], control: &[u64; CONTROL / 8], used: usize) -> Told {
    let six = u16::from_ne_bytes([name[0], name[1]]) == libc::AF_INET6 as u16;
    let source = address(if six { &name[8..24] } else { &name[4..8] }).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let source_port = u16::from_be_bytes([name[2], name[3]]);
    let mut told = Told { length, source, source_port, local: None, traffic_class: 0, segment: 0, truncated: false };
    each_message(control, used, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_UDP, UDP_GRO) if data.len() >= 4 => {
            told.segment = usize::from(u16::from_ne_bytes([data[0], data[1]]));
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 12 => told.local = address(&data[8..12]),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= 16 => told.local = address(&data[..16]),
        (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            told.traffic_class = data.first().copied().unwrap_or(0);
        }
        _ => {}
    });
    told
}

/// Level, type and data of every control message in the first `used` octets.
fn each_message(control: &[u64; CONTROL / 8], used: usize, mut take: impl FnMut(c_int, c_int, &[u8])) {
    let mut octets = [0; CONTROL];
    for (place, word) in octets.chunks_exact_mut(8).zip(control).take(used.div_ceil(8)) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let head = size_of::<libc::cmsghdr>();
    let mut at = 0;
    while at + head <= used {
        let integer = |place: usize| c_int::from_ne_bytes([octets[place], octets[place + 1], octets[place + 2], octets[place + 3]]);
        let whole = integer(at) as usize;
        if whole < head || at + whole > used {
            break;
        }
        take(integer(at + 8), integer(at + 12), &octets[at + head..at + whole]);
        at += whole.next_multiple_of(8);
    }
}
