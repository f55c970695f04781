//! The draw in sentences.

use super::committee::at;
use super::view::AccusedOf;
use super::{Draw, DrawnWhy, Phase, RegistryStatus, TaskKind};
use crate::ids::NodeId;

impl Draw {
    /// The epoch as a whole, in sentences.
    #[must_use]
    pub fn explain_epoch(&self) -> Vec<String> {
        let view = self.view();
        let containers = view.containers().len();
        let tested = (0u32..).take(containers).filter(|place| self.tested(*place).is_some()).count();
        let drawable = self.drawable().count();
        let mut lines = vec![
            format!(
                "epoch {}: {containers} Containers, {} Checkers of which {drawable} can be drawn, {} licences; view {}",
                self.epoch(),
                view.checkers().len(),
                view.licences().len(),
                self.view_hash()
            ),
            format!("the seed is {}", hex(&self.seed().0)),
            format!("{tested} Containers are tested in full; each Checker has {} rechecks", self.rechecks()),
        ];
        let names = |seats: super::Seats| self.names(seats.as_slice());
        lines.push(format!("the next outcome is proposed and signed by {}", names(self.next_committee())));
        lines.push(format!("a dispute over it is decided by {}", names(self.next_dispute_committee())));
        lines
    }

    /// Why a Container was drawn, or why it was not; a sentence a fact.
    #[must_use]
    pub fn explain(&self, container: &NodeId) -> Vec<String> {
        let Some(place) = self.view().container(container) else {
            return vec![format!("no Container {container} is in the registry as of epoch {}", self.epoch())];
        };
        let Some(entry) = self.view().containers().get(at(place)) else { return Vec::new() };
        match entry.status {
            RegistryStatus::Active => {}
            RegistryStatus::Jailed => {
                return vec!["it is jailed, and nobody is sent to it until its stake is whole again".to_owned()];
            }
            RegistryStatus::Left => return vec!["it left the network, and nobody is sent to it".to_owned()],
        }
        let mut lines = vec![self.why_tested(place, entry)];
        lines.extend(self.why_then(place));
        for kind in TaskKind::ALL {
            let seats = self.seats(kind, place);
            if !seats.is_empty() {
                lines.push(format!(
                    "{kind}: {} of {} drawable Checkers, by licences and stake, one per owner and none of the \
                     Container's own: {}",
                    seats.len(),
                    self.drawable().count(),
                    self.names(seats.as_slice())
                ));
            }
        }
        lines
    }

    fn why_tested(&self, place: u32, entry: &super::ContainerEntry) -> String {
        let params = self.params();
        let Some(why) = self.tested(place) else {
            let last = entry.tested.map_or(0, |last| self.epoch().since(last));
            return format!("it is not tested in full: no lot fell on it, and its last test was {last} epochs ago");
        };
        match why {
            DrawnWhy::Unproved => "it is tested in full because it has not been proved yet".to_owned(),
            DrawnWhy::Again => "it is tested in full because its last test came to no verdict".to_owned(),
            DrawnWhy::Disputed => {
                let accused = entry.accused.map_or_else(String::new, |a| {
                    let what = match a.of {
                        AccusedOf::Absence => "not answering the test".to_owned(),
                        AccusedOf::FarBelow => "being far slower than it claims".to_owned(),
                        AccusedOf::Interruption => "breaking work off".to_owned(),
                        AccusedOf::Substitution { weights } => {
                            format!("answering with another model in place of that with the weights {weights}")
                        }
                    };
                    format!(": in epoch {} it was accused of {what}", a.epoch)
                });
                format!("it is tested in full by a larger committee, which decides{accused}")
            }
            DrawnWhy::Overdue => format!(
                "it is tested in full because its last test was {} epochs ago, and {} is the most",
                entry.tested.map_or(0, |last| self.epoch().since(last)),
                params.epochs_in(params.full_test_within_ms)
            ),
            DrawnWhy::New => {
                format!("it is tested in full by lot: of new Containers {} are", percent(params.audit_watched_bps))
            }
            DrawnWhy::Suspect => format!(
                "it is tested in full by lot: of Containers that are suspect (until epoch {}) {} are",
                entry.suspect_until,
                percent(params.audit_watched_bps)
            ),
            DrawnWhy::Lot => {
                format!("it is tested in full by lot: of all Containers {} are", percent(params.audit_bps))
            }
        }
    }

    fn why_then(&self, place: u32) -> Vec<String> {
        if self.tested(place).is_none() {
            return Vec::new();
        }
        let tests = self.params().begin_of(self.epoch(), Phase::Tests);
        let offset = self.instant(place, 0, usize::from(self.params().committee_seats)).since(tests);
        let group = self.group(place);
        let tied = (0u32..).take(self.view().containers().len()).filter(|other| self.group(*other) == group).count();
        let mut lines = vec![format!("its test begins {offset} ms after the tests do")];
        if tied > 1 {
            lines.push(format!(
                "it shares that instant with {} other Containers, to which owner, address block or fingerprint tie it",
                tied.saturating_sub(1)
            ));
        }
        lines
    }

    fn names(&self, places: &[u32]) -> String {
        let of = |place: &u32| self.view().checkers().get(at(*place)).map_or_else(String::new, |c| c.node.short());
        if places.is_empty() { "nobody".to_owned() } else { places.iter().map(of).collect::<Vec<_>>().join(", ") }
    }
}

fn percent(bps: u16) -> String {
    match bps % 100 {
        0 => format!("{} %", bps / 100),
        rest => format!("{}.{rest:02} %", bps / 100),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
