//! How Containers are shown to their owner.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use muster_container::{CapacityStatus, ContainerStatus};
use muster_core::hardware::Cores;
use muster_core::units::TokenAmount;
use serde::Serialize;

use crate::commands::lease::tell::{aligned, size};
use crate::output::{length, table, tokens};

/// Finished leases that are shown to people; the JSON has all that the Container tells.
const HISTORY_SHOWN: usize = 10;

/// A Container of this folder, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ContainerObject {
    /// Its folder.
    pub(super) dir: PathBuf,
    /// Whether it answers.
    pub(super) running: bool,
    /// What it says.
    pub(super) status: Option<ContainerStatus>,
    /// Why it says nothing, or what it refused.
    pub(super) problem: Option<String>,
}

impl ContainerObject {
    fn name(&self) -> String {
        let folder = || self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.status.as_ref().map_or_else(folder, |s| s.name.clone())
    }
}

/// Several Containers, a line each; one in full.
pub(super) fn text(containers: &[ContainerObject]) -> String {
    match containers {
        [one] => match &one.status {
            Some(status) => full(status),
            None => one.problem.clone().unwrap_or_else(|| "not running".to_owned()),
        },
        many => overview(many),
    }
}

fn overview(containers: &[ContainerObject]) -> String {
    let row = |c: &ContainerObject| match &c.status {
        Some(s) => vec![
            c.name(),
            s.id.chars().take(8).collect(),
            state(s),
            of(&Cores(s.free.cpu_millis), &Cores(s.total.cpu_millis)),
            of(&size(s.free.memory_bytes), &size(s.total.memory_bytes)),
            s.leases.len().to_string(),
            s.earned.leases.to_string(),
            amount(&s.earned.redeemed),
            s.earned.claimable.as_deref().map_or_else(String::new, amount),
        ],
        None => vec![c.name(), String::new(), "not running".to_owned()],
    };
    let header = ["name", "id", "state", "cores free", "memory free", "leases", "settled", "earned", "claimable"];
    table(&header, containers.iter().map(row).collect())
}

fn state(s: &ContainerStatus) -> String {
    let word = format!("{:?}", s.intent).to_lowercase();
    if s.problem.is_some() { format!("{word} (!)") } else { word }
}

fn of(free: &impl ToString, total: &impl ToString) -> String {
    format!("{} of {}", free.to_string(), total.to_string())
}

/// An amount in smallest units, for people; what is no number is shown as it is.
fn amount(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |units| tokens(TokenAmount(units)))
}

fn capacity(c: &CapacityStatus) -> String {
    let cards = if c.gpus == 0 { String::new() } else { format!(", {} cards", c.gpus) };
    format!("{} cores, {} memory, {} disk{cards}", Cores(c.cpu_millis), size(c.memory_bytes), size(c.disk_bytes))
}

fn full(s: &ContainerStatus) -> String {
    let mut lines = vec![("container", format!("{} ({})", s.name, s.id)), ("state", state(s))];
    lines.extend(s.problem.clone().map(|p| ("problem", p)));
    let lines_up = s.indexers.iter().filter(|i| i.connected).count();
    lines.extend([
        ("registry", s.standing.clone()),
        ("owner", s.owner.clone()),
        ("listens on", s.listen.clone()),
        ("offers", capacity(&s.total)),
        ("free", capacity(&s.free)),
        ("indexers", format!("{lines_up} of {} connected", s.indexers.len())),
        ("settled", format!("{} leases, {} of them interrupted here", s.earned.leases, s.earned.interrupted)),
        ("earned", format!("{} in {}", amount(&s.earned.redeemed), length(s.earned.ran_ms))),
    ]);
    lines.extend(
        s.earned.claimable.as_deref().map(|c| ("claimable", format!("{} (muster container claim)", amount(c)))),
    );
    lines.extend(s.earned.pending.as_deref().map(|p| ("later", amount(p))));
    let mut text = aligned(&lines);
    if !s.leases.is_empty() {
        text.push_str("\n\nRunning:\n");
        text.push_str(&leases(s));
    }
    if !s.history.is_empty() {
        text.push_str("\n\nSettled, newest first:\n");
        text.push_str(&history(s));
    }
    text
}

fn leases(s: &ContainerStatus) -> String {
    let row = |l: &muster_container::LeaseStatus| {
        vec![
            short(&l.lease),
            l.phase.clone(),
            short(&l.consumer),
            length(l.ran_ms),
            amount(&l.paid),
            amount(&l.deposit),
            capacity(&l.rented),
            l.memory_peak_bytes.map_or_else(String::new, size),
        ]
    };
    let header = ["lease", "phase", "consumer", "ran", "paid", "deposit", "rented", "memory peak"];
    table(&header, s.leases.iter().map(row).collect())
}

fn history(s: &ContainerStatus) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let row = |h: &muster_container::HistoryStatus| {
        let ago = format!("{} ago", length(now_ms.saturating_sub(h.ended_at_ms)));
        vec![short(&h.lease), ago, length(h.ran_ms), amount(&h.redeemed), h.vouchers.to_string(), h.end.clone()]
    };
    let header = ["lease", "ended", "ran", "paid", "vouchers", "end"];
    table(&header, s.history.iter().take(HISTORY_SHOWN).map(row).collect())
}

/// The first eight digits of a name that may begin with `0x`.
fn short(id: &str) -> String {
    id.trim_start_matches("0x").chars().take(8).collect()
}
