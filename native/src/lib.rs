//! Cygnet's native data plane engine: ESP between the TUN and UDP or raw sockets, without the interpreter.
//!
//! The laws are those of the portable engine (`cygnet.dataplane.engines`, `cygnet.ipsec`), which is the readable
//! reference; the contract tests hold both to equal bytes, verdicts and counters. Policy reaches the kernel, SAs
//! expire and paths are measured on the Python side; here are the packets' ways:
//!
//!     TUN -> outward -> (burst, sa, cipher) -> socket        socket -> inward -> (sa, cipher, burst) -> TUN
//!
//! All unsafe code is in `sys`.

#![deny(unsafe_code)]

mod burst;
mod checksum;
mod cipher;
mod drops;
mod engine;
mod icmp;
mod inner;
mod inward;
mod measure;
mod outward;
mod python;
mod replay;
mod sa;
mod shared;
mod spd;
mod sys;
