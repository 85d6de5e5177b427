//! What the interpreter sees: `cygnet._native` with `Engine`, `OutboundSa`, `InboundSa`, `measure`.
//!
//! The commands of the data plane as methods; events as tuples, their kind first. An SA is made by its
//! constructor and then installed; its keys stay on this side.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::cipher::Cipher;
use crate::drops::{Drop, Drops, NAMES};
use crate::engine;
use crate::inner::{Inner, Selector, TunnelHeader};
use crate::outward::transmit;
use crate::replay::ReplayWindow;
use crate::sa::{self, Common, Path, Use, lock};
use crate::shared::{Event, InEntry, OutEntry, Shared, Socket};
use crate::spd::{self, Filed};
use crate::sys;

type PySelector = (u8, u8, u128, u128, i32, i32);
/// Order (3), action, flow, then first and last of own and other address, protocol, own and other ports.
type PyEntry = ((i64, u64, u32), u8, u64, (u128, u128), (u128, u128), (u8, u8), (i32, i32), (i32, i32));
type PyFiled = (u8, bool, PyEntry, Vec<(u128, u32)>);

fn selectors(given: Vec<PySelector>) -> Vec<Selector> {
    let made = |(family, protocol, first, last, port_first, port_last)| Selector { family, protocol, first, last, port_first, port_last };
    given.into_iter().map(made).collect()
}

fn drops_of<'py>(py: Python<'py>, drops: &Drops) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for (name, count) in drops.counted() {
        found.set_item(name, count)?;
    }
    Ok(found)
}

fn path(socket: usize, local: IpAddr, remote: IpAddr, ports: Option<(u16, u16)>, max_inner: usize) -> Path {
    Path { socket, local, remote, ports, max_inner }
}

/// The parameters that both directions have.
#[derive(FromPyObject)]
struct Parameters {
    id: u64,
    spi: u32,
    flow: u64,
    esn: bool,
    encryption: u16,
    integrity: u16,
    encryption_key: Vec<u8>,
    integrity_key: Vec<u8>,
    local_selectors: Vec<PySelector>,
    remote_selectors: Vec<PySelector>,
    copy_dscp_out: bool,
    copy_dscp_in: bool,
    copy_ecn: bool,
    copy_df: bool,
    set_df: bool,
}

impl Parameters {
    fn common(self) -> PyResult<Common> {
        let cipher = Cipher::new(self.encryption, self.integrity, &self.encryption_key, &self.integrity_key)
            .ok_or_else(|| PyValueError::new_err("the native engine does not carry this cipher suite"))?;
        let used = Use::default();
        used.bytes_alarm.store(u64::MAX, Relaxed);
        used.count_alarm.store(u64::MAX, Relaxed);
        Ok(Common {
            id: self.id,
            spi: self.spi,
            flow: self.flow,
            esn: self.esn,
            cipher,
            local_selectors: selectors(self.local_selectors),
            remote_selectors: selectors(self.remote_selectors),
            header: TunnelHeader {
                copy_dscp_out: self.copy_dscp_out,
                copy_dscp_in: self.copy_dscp_in,
                copy_ecn: self.copy_ecn,
                copy_df: self.copy_df,
                set_df: self.set_df,
            },
            used,
        })
    }
}

/// An outbound SA; `most_packets` and `most_bytes` are its hard limits.
#[pyclass(frozen)]
struct OutboundSa(Arc<sa::OutboundSa>);

/// An inbound SA.
#[pyclass(frozen)]
struct InboundSa(Arc<sa::InboundSa>);

/// The methods of one class: what both directions have, and its own.
macro_rules! methods {
    ($class:ident { $($own:tt)* }) => {
        #[pymethods]
        impl $class {
            #[getter]
            fn id(&self) -> u64 {
                self.0.common.id
            }

            #[getter]
            fn bytes(&self) -> u64 {
                self.0.common.used.bytes.load(Relaxed)
            }

            #[getter]
            fn packets(&self) -> u64 {
                self.0.common.used.packets.load(Relaxed)
            }

            /// Seconds of the interpreter's monotonic clock, -1: never.
            #[getter]
            fn last_used(&self) -> f64 {
                self.0.common.used.last_used()
            }

            #[getter]
            fn drops<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                drops_of(py, &self.0.common.used.drops)
            }

            /// Count packets that the interpreter dropped on this SA. Raises ValueError for no such reason.
            fn add_drop(&self, reason: &str, count: u64) -> PyResult<()> {
                let known = self.0.common.used.drops.add_named(reason, count);
                if known { Ok(()) } else { Err(PyValueError::new_err(reason.to_owned())) }
            }

            /// Tell `Alarm` once these octets, or packets or sequence numbers, are reached.
            fn set_alarms(&self, octets: u64, count: u64) {
                let used = &self.0.common.used;
                used.bytes_alarm.store(octets, Relaxed);
                used.count_alarm.store(count, Relaxed);
                used.alarmed.store(false, Relaxed);
            }

            $($own)*
        }
    };
}

methods! { OutboundSa {
    /// `iv_base` is random for each installation; `hard_*` are limits, all ones where there is none.
    #[new]
    fn new(parameters: Parameters, iv_base: u64, hard_packets: u64, hard_bytes: u64) -> PyResult<Self> {
        let nowhere = path(usize::MAX, IpAddr::from([0; 4]), IpAddr::from([0; 4]), None, 0);
        Ok(Self(Arc::new(sa::OutboundSa::new(parameters.common()?, iv_base, hard_packets, hard_bytes, nowhere))))
    }

    /// The number of the last packet sent.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence.load(Relaxed)
    }

    /// Begin behind this number. It never goes back: raises ValueError then.
    fn advance(&self, sequence: u64) -> PyResult<()> {
        let before = self.0.sequence.fetch_max(sequence, Relaxed);
        if before > sequence { Err(PyValueError::new_err("sequence numbers never go back")) } else { Ok(()) }
    }

    /// Where packets go from now on; `socket` is the engine's index.
    fn set_path(&self, socket: usize, local: IpAddr, remote: IpAddr, ports: Option<(u16, u16)>, max_inner: usize) {
        *lock(&self.0.path) = path(socket, local, remote, ports, max_inner);
    }

    /// Seal `count` packets in place, as `cygnet.ipsec.esp.OutboundSa.seal_batch` does it; `random` are the
    /// octets of the IVs where the cipher wants such. The octets of the last sealed one, 0: numbers used up.
    #[allow(clippy::too_many_arguments)]
    fn seal_batch(&self, py: Python<'_>, buffer: PyBuffer<u8>, start: usize, count: usize, length: usize, last: usize,
                  next_header: u8, random: &[u8], now: f64) -> PyResult<usize> {
        let sa = &self.0;
        let cipher = &sa.common.cipher;
        let stride = cipher.sealed_length(length);
        let whole = (count.max(1) - 1) * stride + cipher.sealed_length(last);
        let iv = cipher.random_iv();
        if count == 0 || last > length || random.len() < iv * count || start.saturating_add(whole) > buffer.len_bytes() {
            return Err(PyValueError::new_err("the buffer does not hold these packets"));
        }
        let Some(first) = sa.reserve(count as u64, sa.limit) else {
            sa.common.used.drops.add(Drop::SequenceExhausted, count);
            return Ok(0);
        };
        let mut octets = buffer.to_vec(py)?;
        for index in 0..count {
            let payload = if index + 1 < count { length } else { last };
            let at = start + index * stride;
            let packet = &mut octets[at..at + cipher.sealed_length(payload)];
            if !sa.seal(packet, payload, first + index as u64, next_header, &random[index * iv..(index + 1) * iv]) {
                return Err(PyValueError::new_err("the cipher refuses"));
            }
        }
        buffer.copy_from_slice(py, &octets)?;
        sa.count(count, (count - 1) * length + last, now);
        Ok(cipher.sealed_length(last))
    }
} }

methods! { InboundSa {
    /// Raises ValueError for what is not carried and for windows that cannot be.
    #[new]
    fn new(parameters: Parameters, replay_window: u64, notify_first_use: bool, encapsulated: bool, source: (IpAddr, u16)) -> PyResult<Self> {
        let window = ReplayWindow::new(replay_window)
            .ok_or_else(|| PyValueError::new_err(format!("replay window {replay_window}: it must be 0 or 32 to 4096")))?;
        Ok(Self(Arc::new(sa::InboundSa {
            common: parameters.common()?,
            window: Mutex::new(window),
            seen: AtomicBool::new(false),
            notify_first_use,
            lingering: AtomicBool::new(false),
            encapsulated: AtomicBool::new(encapsulated),
            source: Mutex::new(source),
        })))
    }

    /// The highest authentic sequence number.
    #[getter]
    fn top(&self) -> u64 {
        lock(&self.0.window).top
    }

    /// As if this number had arrived: for tests of what happens at the ends of the number space.
    fn mark(&self, sequence: u64) -> bool {
        lock(&self.0.window).mark(sequence)
    }

    #[getter]
    fn seen(&self) -> bool {
        self.0.seen.load(Relaxed)
    }

    #[setter]
    fn set_seen(&self, seen: bool) {
        self.0.seen.store(seen, Relaxed);
    }

    fn linger(&self) {
        self.0.lingering.store(true, Relaxed);
    }

    fn set_source(&self, source: (IpAddr, u16), encapsulated: bool) {
        *lock(&self.0.source) = source;
        self.0.encapsulated.store(encapsulated, Relaxed);
    }

    /// Open ESP packets: for each its payload, or the name of the reason; and whether one was the newest so far.
    /// What is not good is counted.
    fn open_batch<'py>(&self, py: Python<'py>, packets: Vec<Vec<u8>>, now: f64) -> PyResult<(Vec<Bound<'py, PyAny>>, bool)> {
        let used = &self.0.common.used;
        let mut found = Vec::with_capacity(packets.len());
        let mut newest = false;
        for mut packet in packets {
            match self.0.open(&mut packet) {
                Ok((at, length, is_newest)) => {
                    newest |= is_newest;
                    used.packets.fetch_add(1, Relaxed);
                    used.bytes.fetch_add(length as u64, Relaxed);
                    used.touch(now);
                    found.push(PyBytes::new(py, &packet[at..at + length]).into_any());
                }
                Err((reason, is_newest)) => {
                    newest |= is_newest;
                    used.drops.add(reason, 1);
                    found.push(NAMES[reason as usize].into_pyobject(py)?.into_any());
                }
            }
        }
        Ok((found, newest))
    }
} }

/// The engine: descriptors, databases, two threads.
#[pyclass(frozen)]
struct Engine(engine::Engine);

#[pymethods]
impl Engine {
    /// `sockets`: (descriptor, IP version, port or 0 for a raw one). `pair`: where commands come from, or -1.
    /// The descriptors stay the caller's. Raises OSError.
    #[new]
    fn new(tun: RawFd, sockets: Vec<(RawFd, u8, u16)>, pair: RawFd, default_action: u8, gso: bool, now: f64) -> PyResult<Self> {
        let mut ours = Vec::with_capacity(sockets.len());
        for (fd, version, port) in sockets {
            ours.push(Socket::new(sys::duplicate(fd)?, version, port));
        }
        Ok(Self(engine::Engine::new(Shared::new(tun, ours, pair, default_action, gso, now)?)))
    }

    fn start(&self) -> PyResult<()> {
        Ok(self.0.start()?)
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }

    /// One turn of a direction (0: out, 1: in) in this thread, where the engine was not started.
    fn step(&self, py: Python<'_>, direction: usize) {
        py.detach(|| self.0.step(direction));
    }

    #[getter]
    fn now(&self) -> f64 {
        self.0.shared.now()
    }

    /// For tests: the clock stands at `now` from here on.
    fn stop_clock(&self, now: f64) {
        self.0.shared.stop_clock(now);
    }

    /// Readable when there are events.
    #[getter]
    fn event_fd(&self) -> RawFd {
        self.0.shared.event_fd()
    }

    fn events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        self.0.shared.events().into_iter().map(|event| told(py, event)).collect()
    }

    /// The interpreter reads commands (or has just done so): an unknown SPI waits for that.
    fn draining(&self, yes: bool) {
        self.0.shared.draining(yes);
    }

    fn set_tun_offloads(&self, tso: bool, uso: bool) {
        self.0.shared.tun_tso.store(tso, Relaxed);
        self.0.shared.tun_uso.store(uso, Relaxed);
    }

    /// (tun_tso, tun_uso, udp_gso): any may have turned false meanwhile.
    #[getter]
    fn offloads(&self) -> (bool, bool, bool) {
        let shared = &self.0.shared;
        (shared.tun_tso.load(Relaxed), shared.tun_uso.load(Relaxed), shared.udp_gso.load(Relaxed))
    }

    #[getter]
    fn drops<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        drops_of(py, &self.0.shared.drops)
    }

    fn put_policy(&self, policy: u64, connection: &str, trap: bool, flows: Vec<u64>, filed: Vec<PyFiled>) {
        let made = |(family, by_remote, entry, prefixes): PyFiled| {
            let (order, action, flow, own, other, protocol, own_ports, other_ports) = entry;
            let entry = Arc::new(spd::entry(order, action, flow, own, other, protocol, [own_ports, other_ports]));
            Filed { family, by_remote, entry, prefixes }
        };
        lock(&self.0.shared.spd).put(policy, connection, trap, flows, filed.into_iter().map(made).collect());
    }

    fn remove_policy(&self, policy: u64) {
        lock(&self.0.shared.spd).remove(policy);
    }

    /// After policies or SAs changed: what was decided per flow is decided anew.
    fn forget(&self) {
        self.0.shared.forget();
    }

    fn install_outbound(&self, sa: &OutboundSa) {
        let shared = &self.0.shared;
        let flow = sa.0.common.flow;
        shared.sad.write().unwrap_or_else(PoisonError::into_inner).install_outbound(flow, OutEntry::Native(sa.0.clone()));
        shared.forget();
    }

    fn install_inbound(&self, sa: &InboundSa, local: IpAddr) {
        let shared = &self.0.shared;
        shared.sad.write().unwrap_or_else(PoisonError::into_inner).install_inbound(sa.0.common.spi, local, InEntry::Native(sa.0.clone()));
    }

    /// An SA that the interpreter serves: its packets are handed up.
    fn install_other_outbound(&self, id: u64, flow: u64, local: Vec<PySelector>, remote: Vec<PySelector>) {
        let shared = &self.0.shared;
        let entry = OutEntry::Other { id, local: selectors(local), remote: selectors(remote) };
        shared.sad.write().unwrap_or_else(PoisonError::into_inner).install_outbound(flow, entry);
        shared.forget();
    }

    fn install_other_inbound(&self, id: u64, spi: u32, local: IpAddr) {
        self.0.shared.sad.write().unwrap_or_else(PoisonError::into_inner).install_inbound(spi, local, InEntry::Other { id });
    }

    fn remove_outbound(&self, id: u64, flow: u64) {
        let shared = &self.0.shared;
        shared.sad.write().unwrap_or_else(PoisonError::into_inner).remove_outbound(flow, id);
        shared.forget();
    }

    fn remove_inbound(&self, id: u64, spi: u32, local: IpAddr) {
        let shared = &self.0.shared;
        shared.sad.write().unwrap_or_else(PoisonError::into_inner).remove_inbound(spi, local, id);
        shared.forget();
    }

    /// The ends of an inbound SA moved.
    fn move_inbound(&self, id: u64, spi: u32, before: IpAddr, after: IpAddr) {
        let mut sad = self.0.shared.sad.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sad.remove_inbound(spi, before, id) {
            sad.install_inbound(spi, after, entry);
        }
    }

    /// An outbound SA of this flow was installed: what waits for it goes.
    fn release(&self, flow: u64) {
        self.0.shared.release(flow);
    }

    /// A packet with its vnet header goes as if it were read from the TUN.
    fn inject(&self, raw: Vec<u8>) {
        self.0.shared.inject(raw);
    }

    fn drop_stale(&self) {
        self.0.shared.drop_stale();
    }

    /// Send packets that stand `stride` apart in `data`, the last shorter or equal: "" or the reason why some
    /// did not leave. For SAs that the interpreter serves: sockets' settings have one owner.
    #[allow(clippy::too_many_arguments)]
    fn transmit(&self, py: Python<'_>, socket: usize, local: IpAddr, remote: IpAddr, ports: Option<(u16, u16)>, data: Vec<u8>,
                stride: usize, class: u8, df: bool) -> &'static str {
        if data.is_empty() || stride == 0 {
            return "";
        }
        let packets: Vec<(usize, usize)> = (0..data.len()).step_by(stride).map(|at| (at, stride.min(data.len() - at))).collect();
        let path = path(socket, local, remote, ports, 0);
        py.detach(|| transmit(&self.0.shared, &path, &data, &packets, class, df)).map_or("", |reason| NAMES[reason as usize])
    }
}

fn told<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        Event::Acquire { flow, packet } => ("acquire", flow, inner(&packet)).into_pyobject(py),
        Event::Alarm { id } => ("alarm", id).into_pyobject(py),
        Event::Hard { id, why } => ("hard", id, why).into_pyobject(py),
        Event::FirstUse { id } => ("first_use", id).into_pyobject(py),
        Event::Moved { id, remote, port } => ("moved", id, remote, port).into_pyobject(py),
        Event::Narrower { id } => ("narrower", id).into_pyobject(py),
        Event::Foreign { local, port, remote, remote_port, data } => {
            ("foreign", local, port, remote, remote_port, PyBytes::new(py, &data)).into_pyobject(py)
        }
        Event::Outside { raw } => ("outside", PyBytes::new(py, &raw)).into_pyobject(py),
        Event::Inside { local, port, remote, remote_port, traffic_class, data, outer, extensions } => {
            let extensions: Vec<_> = extensions.iter().map(|(kind, octets)| (*kind, PyBytes::new(py, octets))).collect();
            let (data, outer) = (PyBytes::new(py, &data), PyBytes::new(py, &outer));
            ("inside", local, port, remote, remote_port, traffic_class, data, outer, extensions).into_pyobject(py)
        }
        Event::Fault { text } => ("fault", text).into_pyobject(py),
        Event::TunGone => ("tun_gone",).into_pyobject(py),
    }
}

/// Family, protocol, source and destination address, source and destination port (-1: none to see).
fn inner(packet: &Inner) -> (u8, u8, u128, u128, i32, i32) {
    (packet.family, packet.protocol, packet.source, packet.destination, packet.source_port, packet.destination_port)
}

/// Nanoseconds a packet of `length` octets: sealed and opened by SAs in batches of 64, and the same by the
/// cipher alone. `outbound` and `inbound` have one key and nothing else to do.
#[pyfunction]
fn measure(py: Python<'_>, outbound: &OutboundSa, inbound: &InboundSa, length: usize, batches: usize) -> (f64, f64, f64, f64) {
    py.detach(|| crate::measure::measure(&outbound.0, &inbound.0, length, batches))
}

/// What policy sees of a packet: family, protocol, addresses, ports (-1: none); None where it is no packet.
#[pyfunction]
fn describe(packet: &[u8]) -> Option<(u8, u8, u128, u128, i32, i32)> {
    crate::inner::describe(packet).as_ref().map(inner)
}

/// Counts up with every change that `cygnet.dataplane.engines.native` must know.
const API: u32 = 1;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("API", API)?;
    module.add_class::<Engine>()?;
    module.add_class::<OutboundSa>()?;
    module.add_class::<InboundSa>()?;
    module.add_function(wrap_pyfunction!(measure, module)?)?;
    module.add_function(wrap_pyfunction!(describe, module)?)
}
