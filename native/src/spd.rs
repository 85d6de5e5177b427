//! The security policy database: `cygnet.policy.lookup` and `spd` in the same structure.
//!
//! An entry is a box in five dimensions, filed under the one of its two addresses that it narrows more. Places
//! where own ranges begin or end are cuts; a lookup goes down one tree: slots of equal size, branches at cuts, then
//! branches in the other dimensions, then a short chain. Trees grow where packets go, and a change forgets only
//! the slots that it meets; so a packet passes a handful of steps however many entries there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::inner::Inner;

pub const PROTECT: u8 = 1;
pub const DISCARD: u8 = 3;

/// Priority, policy, place: what orders entries, unique.
pub type Order = (i64, u64, u32);

#[derive(Clone, Debug)]
pub struct Entry {
    pub order: Order,
    pub action: u8,
    pub flow: u64,
    /// First and last of: other address, protocol, own port, other port; then own address.
    pub bounds: [(i128, i128); 4],
    pub own: (u128, u128),
}

const OTHER: usize = 0;
const OWN: usize = 4;
const MAX_CHAIN: usize = 2;
const MAX_CUTS: usize = 256;
const MAX_GROWN: usize = 4_000_000;

type Region = [(i128, i128); 4];
type Point = [i128; 4];

enum Node {
    Chain(Vec<Arc<Entry>>),
    Branch(Box<Branch>),
}

struct Branch {
    dimension: usize,
    /// Of own addresses the cuts are u128 numbers; IPv6 addresses fit i128 after a shift of the origin.
    cuts: Vec<i128>,
    entries: Vec<Arc<Entry>>,
    region: Region,
    /// Of a branch by own address.
    own: (u128, u128),
    children: Vec<Option<Node>>,
}

/// Own and other addresses are compared as i128 with the origin shifted, so that -1 is free for "no port".
fn key(address: u128) -> i128 {
    (address ^ (1 << 127)) as i128
}

fn unkey(key: i128) -> u128 {
    key as u128 ^ (1 << 127)
}

pub struct Index {
    bits: u32,
    pub count: usize,
    by_prefix: BTreeMap<u32, HashMap<u128, Vec<Arc<Entry>>>>,
    uses: BTreeMap<u128, usize>,
    cuts: Vec<u128>,
    stale: bool,
    base: u128,
    shift: u32,
    slots: usize,
    made_for: usize,
    root: Vec<Option<Node>>,
    grown: usize,
}

impl Index {
    fn new(bits: u32) -> Self {
        let mut made = Self {
            bits,
            count: 0,
            by_prefix: BTreeMap::new(),
            uses: BTreeMap::new(),
            cuts: Vec::new(),
            stale: false,
            base: 0,
            shift: 0,
            slots: 1,
            made_for: 0,
            root: Vec::new(),
            grown: 0,
        };
        made.make_root();
        made
    }

    fn last(&self) -> u128 {
        if self.bits == 128 { u128::MAX } else { (1 << self.bits) - 1 }
    }

    fn prefix_key(&self, first: u128, length: u32) -> u128 {
        first.checked_shr(self.bits - length).unwrap_or(0)
    }

    fn cuts_of(&self, entry: &Entry) -> impl Iterator<Item = u128> + use<> {
        let last = self.last();
        let end = (entry.own.1 < last).then(|| entry.own.1 + 1);
        [Some(entry.own.0), end].into_iter().flatten().filter(|cut| *cut > 0)
    }

    fn add(&mut self, entry: &Arc<Entry>, prefixes: &[(u128, u32)]) {
        for (first, length) in prefixes {
            let key = self.prefix_key(*first, *length);
            self.by_prefix.entry(*length).or_default().entry(key).or_default().push(entry.clone());
        }
        self.count += 1;
        for cut in self.cuts_of(entry) {
            *self.uses.entry(cut).or_insert_with(|| {
                self.stale = true;
                0
            }) += 1;
        }
        self.forget(entry);
    }

    fn discard(&mut self, entry: &Arc<Entry>, prefixes: &[(u128, u32)]) {
        for (first, length) in prefixes {
            let key = self.prefix_key(*first, *length);
            if let Some(table) = self.by_prefix.get_mut(length) {
                if let Some(filed) = table.get_mut(&key) {
                    filed.retain(|one| one.order != entry.order);
                    if filed.is_empty() {
                        table.remove(&key);
                    }
                }
                if table.is_empty() {
                    self.by_prefix.remove(length);
                }
            }
        }
        self.count -= 1;
        for cut in self.cuts_of(entry) {
            if let Some(uses) = self.uses.get_mut(&cut) {
                *uses -= 1;
                if *uses == 0 {
                    // A cut too many does no harm until the cuts are made anew.
                    self.uses.remove(&cut);
                }
            }
        }
        self.forget(entry);
    }

    fn make_root(&mut self) {
        self.base = self.cuts.first().copied().unwrap_or(0);
        let span = self.cuts.last().map_or(1, |last| last - self.base);
        let wide = span / (2 * self.cuts.len() as u128 + 1);
        self.shift = 128 - wide.leading_zeros();
        // Slots that begin at multiples of their size need no cut inside for prefixes of that size.
        self.base = self.base >> self.shift << self.shift;
        self.slots = (self.cuts.last().map_or(0, |last| last - self.base) >> self.shift) as usize + 1;
        self.made_for = self.cuts.len();
        self.drop_trees();
    }

    fn drop_trees(&mut self) {
        self.root.clear();
        self.root.resize_with(self.slots + 2, || None);
        self.grown = 0;
    }

    fn settle(&mut self) {
        self.cuts = self.uses.keys().copied().collect();
        self.stale = false;
        if self.cuts.len() < self.made_for / 4 || self.cuts.len() > self.made_for * 2 {
            self.make_root();
        }
    }

    /// The slot that holds an own address: below and above all cuts there is one each.
    fn slot(&self, own: u128) -> usize {
        if own < self.base {
            return self.slots;
        }
        let place = (own - self.base).checked_shr(self.shift).unwrap_or(0);
        if place >= self.slots as u128 { self.slots + 1 } else { place as usize }
    }

    fn forget(&mut self, entry: &Entry) {
        let (low, high) = (self.slot(entry.own.0), self.slot(entry.own.1));
        let below = low == self.slots;
        let above = high == self.slots + 1;
        let first = if below { 0 } else { low };
        let beyond = if above { self.slots } else if high == self.slots { 0 } else { high + 1 };
        if below {
            self.root[self.slots] = None;
        }
        if above {
            self.root[self.slots + 1] = None;
        }
        for slot in first..beyond {
            self.root[slot] = None;
        }
    }

    /// The first entry in order that holds the point.
    fn find(&mut self, own: u128, point: &Point) -> Option<Arc<Entry>> {
        if self.stale {
            self.settle();
        }
        if self.grown > MAX_GROWN {
            self.drop_trees();
        }
        let place = self.slot(own);
        if self.root[place].is_none() {
            let first = if place < self.slots { self.base + ((place as u128) << self.shift) } else if place == self.slots { 0 } else {
                self.base + ((self.slots as u128) << self.shift)
            };
            let last = if place < self.slots {
                first.saturating_add((1 << self.shift) - 1).min(self.last())
            } else if place == self.slots {
                self.base - 1
            } else {
                self.last()
            };
            let node = self.grow_between(first, last);
            self.root[place] = Some(node);
        }
        let mut root = self.root[place].take()?;
        let found = self.descend(&mut root, own, point);
        self.root[place] = Some(root);
        found
    }

    fn descend(&mut self, root: &mut Node, own: u128, point: &Point) -> Option<Arc<Entry>> {
        let mut node = root;
        loop {
            match node {
                Node::Chain(chain) => {
                    let holds = |entry: &&Arc<Entry>| {
                        entry.bounds.iter().zip(point).all(|((first, last), value)| first <= value && value <= last)
                    };
                    return chain.iter().find(holds).cloned();
                }
                Node::Branch(branch) => {
                    let value = if branch.dimension == OWN { key(own) } else { point[branch.dimension] };
                    let child = branch.cuts.partition_point(|cut| *cut <= value);
                    if branch.children[child].is_none() {
                        let grown = self.grow_child(branch, child);
                        branch.children[child] = Some(grown);
                    }
                    match &mut branch.children[child] {
                        Some(next) => node = next,
                        None => return None,
                    }
                }
            }
        }
    }

    fn grow_between(&mut self, first: u128, last: u128) -> Node {
        let low = self.cuts.partition_point(|cut| *cut <= first);
        let high = self.cuts.partition_point(|cut| *cut <= last);
        let whole = [(key(0), key(self.last())), (0, 255), (-1, 65535), (-1, 65535)];
        if low < high {
            let cuts = self.cuts[low..high].iter().map(|cut| key(*cut)).collect();
            return self.branch(OWN, cuts, Vec::new(), whole, (first, last));
        }
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        for (length, table) in &self.by_prefix {
            if let Some(filed) = table.get(&self.prefix_key(first, *length)) {
                entries.extend(filed.iter().cloned());
            }
        }
        entries.sort_by_key(|entry| entry.order);
        self.grow(entries, whole)
    }

    fn grow_child(&mut self, branch: &Branch, child: usize) -> Node {
        let own = branch.dimension == OWN;
        let edge = if own { (key(branch.own.0), key(branch.own.1)) } else { branch.region[branch.dimension] };
        let first = if child > 0 { branch.cuts[child - 1] } else { edge.0 };
        let last = if child < branch.cuts.len() { branch.cuts[child] - 1 } else { edge.1 };
        if own {
            return self.grow_between(unkey(first), unkey(last));
        }
        let at = branch.dimension;
        let inside = branch.entries.iter().filter(|entry| entry.bounds[at].0 <= last && entry.bounds[at].1 >= first);
        let mut region = branch.region;
        region[at] = (first, last);
        self.grow(inside.cloned().collect(), region)
    }

    /// The chain or branch for entries, in order, that all meet the region.
    fn grow(&mut self, mut entries: Vec<Arc<Entry>>, region: Region) -> Node {
        let mut cuts: [Vec<i128>; 4] = Default::default();
        for count in 0..entries.len() {
            let mut whole = true;
            for (dimension, (first, last)) in region.iter().enumerate() {
                let bounds = entries[count].bounds[dimension];
                if bounds.0 > *first {
                    cuts[dimension].push(bounds.0);
                    whole = false;
                }
                if bounds.1 < *last {
                    cuts[dimension].push(bounds.1 + 1);
                    whole = false;
                }
            }
            if whole {
                // It takes all that is left: nothing after it is ever reached here.
                entries.truncate(count + 1);
                break;
            }
        }
        if entries.len() <= MAX_CHAIN {
            return Node::Chain(entries);
        }
        for one in &mut cuts {
            one.sort_unstable();
            one.dedup();
        }
        let mut dimension = OTHER;
        for candidate in 1..4 {
            if cuts[candidate].len() > cuts[dimension].len() {
                dimension = candidate;
            }
        }
        let chosen = std::mem::take(&mut cuts[dimension]);
        self.branch(dimension, chosen, entries, region, (0, 0))
    }

    fn branch(&mut self, dimension: usize, mut cuts: Vec<i128>, entries: Vec<Arc<Entry>>, region: Region, own: (u128, u128)) -> Node {
        if cuts.len() > MAX_CUTS {
            let step = cuts.len() / MAX_CUTS + 1;
            cuts = cuts.into_iter().step_by(step).collect();
        }
        self.grown += cuts.len() + 1;
        let mut children = Vec::new();
        children.resize_with(cuts.len() + 1, || None);
        Node::Branch(Box::new(Branch { dimension, cuts, entries, region, own, children }))
    }
}

/// What a policy filed: the family, whether under the remote side, the entry, the prefixes of its own range.
pub struct Filed {
    pub family: u8,
    pub by_remote: bool,
    pub entry: Arc<Entry>,
    pub prefixes: Vec<(u128, u32)>,
}

struct Policy {
    filed: Vec<Filed>,
    flows: Vec<u64>,
}

pub struct Spd {
    default: u8,
    policies: HashMap<u64, Policy>,
    /// Of each flow: its connection, and whether traffic without an SA asks for one.
    flows: HashMap<u64, (Arc<str>, bool)>,
    /// [family is 6][by remote].
    indexes: [[Index; 2]; 2],
}

impl Spd {
    pub fn new(default: u8) -> Self {
        let both = |bits| [Index::new(bits), Index::new(bits)];
        Self { default, policies: HashMap::new(), flows: HashMap::new(), indexes: [both(32), both(128)] }
    }

    /// Into force, in place of what had the same number.
    pub fn put(&mut self, policy: u64, connection: &str, trap: bool, flows: Vec<u64>, filed: Vec<Filed>) {
        self.remove(policy);
        let connection: Arc<str> = connection.into();
        for flow in &flows {
            self.flows.insert(*flow, (connection.clone(), trap));
        }
        for one in &filed {
            self.indexes[usize::from(one.family == 6)][usize::from(one.by_remote)].add(&one.entry, &one.prefixes);
        }
        self.policies.insert(policy, Policy { filed, flows });
    }

    pub fn remove(&mut self, policy: u64) {
        let Some(former) = self.policies.remove(&policy) else { return };
        for flow in former.flows {
            self.flows.remove(&flow);
        }
        for one in former.filed {
            self.indexes[usize::from(one.family == 6)][usize::from(one.by_remote)].discard(&one.entry, &one.prefixes);
        }
    }

    pub fn trap(&self, flow: u64) -> bool {
        self.flows.get(&flow).is_some_and(|known| known.1)
    }

    fn lookup(&mut self, packet: &Inner, outbound: bool) -> (u8, u64) {
        let source = (packet.source, i128::from(packet.source_port));
        let destination = (packet.destination, i128::from(packet.destination_port));
        let (local, remote) = if outbound { (source, destination) } else { (destination, source) };
        let protocol = i128::from(packet.protocol);
        let [by_local, by_remote] = &mut self.indexes[usize::from(packet.family == 6)];
        let mut found = by_remote.find(remote.0, &[key(local.0), protocol, remote.1, local.1]);
        if by_local.count > 0 {
            let other = by_local.find(local.0, &[key(remote.0), protocol, local.1, remote.1]);
            found = match (found, other) {
                (Some(one), Some(two)) => Some(if two.order < one.order { two } else { one }),
                (one, two) => one.or(two),
            };
        }
        found.map_or((self.default, 0), |entry| (entry.action, entry.flow))
    }

    /// The action and, with PROTECT, the flow.
    pub fn lookup_outbound(&mut self, packet: &Inner) -> (u8, u64) {
        self.lookup(packet, true)
    }

    /// May a packet with this header come out of an SA of that flow? It may not if an earlier rule takes it and
    /// denies it, or protects it with another connection (RFC 4301, section 5.2).
    pub fn permits_inbound(&mut self, flow: u64, packet: &Inner) -> bool {
        let (action, owner) = self.lookup(packet, false);
        if action != PROTECT {
            return false;
        }
        let name = |flow: u64| self.flows.get(&flow).map(|known| known.0.as_ref());
        owner == flow || name(owner) == Some(name(flow).unwrap_or(""))
    }
}

/// An entry from its bounds as numbers: ports run from -1, the port that cannot be seen.
pub fn entry(order: Order, action: u8, flow: u64, own: (u128, u128), other: (u128, u128), protocol: (u8, u8), ports: [(i32, i32); 2]) -> Entry {
    let wide = |(first, last): (i32, i32)| (i128::from(first), i128::from(last));
    Entry {
        order,
        action,
        flow,
        bounds: [(key(other.0), key(other.1)), (protocol.0.into(), protocol.1.into()), wide(ports[0]), wide(ports[1])],
        own,
    }
}
