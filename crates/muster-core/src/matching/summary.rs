//! What is known of many Containers at once: the best of each property.

use crate::demand::ComplianceTier;

use super::geo::Around;

/// The best value of each property over a set of Containers, for one class of demand. A demand that the summary
/// cannot meet, none of them can; the price of the summary is at most the price of each of them. In trees of the order
/// [`super::record::Order::Balanced`], prices are what they count as for that objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// How many Containers.
    pub(super) count: u32,
    /// Most thousandths of a core.
    pub(super) cpu: u32,
    /// Most bytes of memory.
    pub(super) memory: u64,
    /// Most bytes of disk.
    pub(super) disk: u64,
    /// Most VRAM of a card of the class.
    pub(super) vram: u64,
    /// Highest OB of a card of the class.
    pub(super) ob: u32,
    /// Most bandwidth.
    pub(super) bandwidth_mbps: u32,
    /// Longest time limit.
    pub(super) time_limit_s: u32,
    /// Least ask for an OBh.
    pub(super) obh: u32,
    /// Least ask for a core.
    pub(super) core_hour: u32,
    /// Least ask for a GiB of memory.
    pub(super) memory_gib_hour: u32,
    /// Least ask for a GiB of disk.
    pub(super) disk_gib_hour: u32,
    /// Least ask for tokens of those that run models, as [`crate::inference::TokenAsk::typical`] has it.
    pub(super) tokens: u64,
    /// Least price of a card of the class.
    pub(super) card_hour: u64,
    /// Least demerit, see [`super::record::demerit`].
    pub(super) demerit: u64,
    /// Kinds of work that any of them runs, a bit each.
    pub(super) kinds: u16,
    /// Least share for a reserved term; `u16::MAX` when none offers it.
    pub(super) reserved_bps: u16,
    /// Most cards of one model of the class.
    pub(super) cards: u8,
    /// Highest tier.
    pub(super) compliance: ComplianceTier,
    /// Whether any of them lets work reach the internet.
    pub(super) egress: bool,
    /// Whether the place of any of them is unknown.
    pub(super) unplaced: bool,
    /// A box around the places of the others.
    pub(super) around: Around,
}

impl Summary {
    /// Of no Container.
    pub(super) const EMPTY: Self = Self {
        count: 0,
        cpu: 0,
        memory: 0,
        disk: 0,
        vram: 0,
        ob: 0,
        bandwidth_mbps: 0,
        time_limit_s: 0,
        obh: u32::MAX,
        core_hour: u32::MAX,
        memory_gib_hour: u32::MAX,
        disk_gib_hour: u32::MAX,
        tokens: u64::MAX,
        card_hour: u64::MAX,
        demerit: u64::MAX,
        kinds: 0,
        reserved_bps: u16::MAX,
        cards: 0,
        compliance: ComplianceTier::Open,
        egress: false,
        unplaced: false,
        around: Around::NOTHING,
    };

    /// Takes more Containers in.
    pub(super) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.disk = self.disk.max(other.disk);
        self.vram = self.vram.max(other.vram);
        self.ob = self.ob.max(other.ob);
        self.bandwidth_mbps = self.bandwidth_mbps.max(other.bandwidth_mbps);
        self.time_limit_s = self.time_limit_s.max(other.time_limit_s);
        self.obh = self.obh.min(other.obh);
        self.core_hour = self.core_hour.min(other.core_hour);
        self.memory_gib_hour = self.memory_gib_hour.min(other.memory_gib_hour);
        self.disk_gib_hour = self.disk_gib_hour.min(other.disk_gib_hour);
        self.tokens = self.tokens.min(other.tokens);
        self.card_hour = self.card_hour.min(other.card_hour);
        self.kinds |= other.kinds;
        self.demerit = self.demerit.min(other.demerit);
        self.reserved_bps = self.reserved_bps.min(other.reserved_bps);
        self.cards = self.cards.max(other.cards);
        self.compliance = self.compliance.max(other.compliance);
        self.egress |= other.egress;
        self.unplaced |= other.unplaced;
        self.around.extend(&other.around);
    }
}

/// How one Container's summary has changed by what is free of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) before: Summary,
    pub(super) after: Summary,
}

impl Change {
    /// Whether a summary of this Container and others, made before the change, is the same after it: others are better than
    /// both in everything that changed.
    pub(super) fn is_hidden_by(&self, all: &Summary) -> bool {
        let (a, b) = (&self.before, &self.after);
        let high = |before: u64, after: u64, all: u64| before == after || (before < all && after <= all);
        let low = |before: u64, after: u64, all: u64| before == after || (before > all && after >= all);
        // What is free decides these and nothing else; the rest of the two is the same.
        high(a.cpu.into(), b.cpu.into(), all.cpu.into())
            && high(a.memory, b.memory, all.memory)
            && high(a.disk, b.disk, all.disk)
            && high(a.vram, b.vram, all.vram)
            && high(a.ob.into(), b.ob.into(), all.ob.into())
            && high(a.cards.into(), b.cards.into(), all.cards.into())
            && low(a.card_hour, b.card_hour, all.card_hour)
            && low(a.demerit, b.demerit, all.demerit)
            && Summary {
                cpu: b.cpu,
                memory: b.memory,
                disk: b.disk,
                vram: b.vram,
                ob: b.ob,
                cards: b.cards,
                card_hour: b.card_hour,
                demerit: b.demerit,
                ..*a
            } == *b
    }
}
