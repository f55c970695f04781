//! What came of a measurement.

use serde_json::{Map, Value, json};

/// The Gateway that has the model in its process.
pub(super) const PLAYED: &str = "gateway_played";

/// One round of one way.
#[derive(Clone, Debug)]
pub struct Round {
    /// What a single request takes straight to the played model, p50 and p99, in milliseconds.
    pub straight_ms: (f64, f64),
    /// The same by this way.
    pub through_ms: (f64, f64),
    /// Whole answers.
    pub requests_per_second: f64,
    /// What the Gateway's process spent on a core for each of them, where it is one of ours.
    pub cpu_us_per_request: Option<f64>,
    /// `None` for a way that is too slow to be asked.
    pub streamed_tokens_per_second: Option<f64>,
}

/// A way to the played model.
#[derive(Clone, Debug)]
pub struct Way {
    /// `upstream` for the played model itself, `gateway`, `gateway_played`, or a peer's.
    pub name: String,
    /// In their order.
    pub rounds: Vec<Round>,
    /// The most memory that its process held, where that is one of ours.
    pub peak_rss_bytes: Option<u64>,
}

/// All ways.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The played model itself, both Gateways, the peers.
    pub ways: Vec<Way>,
}

type Of = fn(&Round) -> Option<f64>;

/// Figures of a round, and to how many places they are told.
const FIGURES: [(&str, Of, i32); 7] = [
    ("requests_per_second", |round| Some(round.requests_per_second), 0),
    ("streamed_tokens_per_second", |round| round.streamed_tokens_per_second, 0),
    ("added_ms_p50", |round| Some(round.through_ms.0 - round.straight_ms.0), 3),
    ("added_ms_p99", |round| Some(round.through_ms.1 - round.straight_ms.1), 3),
    ("cpu_us_per_request", |round| round.cpu_us_per_request, 1),
    ("request_ms_p50", |round| Some(round.through_ms.0), 3),
    ("request_ms_p99", |round| Some(round.through_ms.1), 3),
];

impl Way {
    /// Least, median and greatest of the rounds.
    fn spread(&self, of: Of) -> Option<[f64; 3]> {
        let mut all: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        all.sort_by(f64::total_cmp);
        let median = all.get(all.len().saturating_sub(1) / 2)?;
        Some([*all.first()?, *median, *all.last()?])
    }

    fn median(&self, name: &str) -> Option<f64> {
        let (_, of, _) = FIGURES.iter().find(|(known, _, _)| *known == name)?;
        self.spread(*of).map(|[_, median, _]| median)
    }

    fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("way".to_owned(), json!(self.name));
        for (name, of, places) in FIGURES {
            // The model is in its process: there is nothing that it adds to.
            if self.name == PLAYED && name.starts_with("added_") {
                continue;
            }
            let spread = self.spread(of);
            row.extend(spread.map(|spread| (name.to_owned(), json!(spread.map(|figure| rounded(figure, places))))));
        }
        row.extend(self.peak_rss_bytes.map(|peak| ("peak_rss_bytes".to_owned(), json!(peak))));
        Value::Object(row)
    }
}

fn rounded(figure: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (figure * scale).round() / scale
}

impl Figures {
    /// As `muster bench gateway` prints them: medians of the Gateway over HTTP by their names, those of the played engine and
    /// the comparisons beside, and a row with least, median and greatest of the rounds for each way.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        let way = |name: &str| self.ways.iter().find(|way| way.name == name);
        let added = ["added_ms_p50", "added_ms_p99", "requests_per_second", "streamed_tokens_per_second"];
        let whole = ["request_ms_p50", "request_ms_p99", "requests_per_second", "streamed_tokens_per_second"];
        for (of, prefix, told) in [("gateway", "", added), (PLAYED, "played_", whole)] {
            let Some(way) = way(of) else { continue };
            for name in told {
                let places = FIGURES.iter().find(|(known, _, _)| *known == name).map_or(0, |(_, _, places)| *places);
                all.extend(way.median(name).map(|figure| (format!("{prefix}{name}"), json!(rounded(figure, places)))));
            }
            all.extend(way.peak_rss_bytes.map(|peak| (format!("{prefix}peak_rss_bytes"), json!(peak))));
        }
        if let Some(gateway) = way("gateway") {
            for peer in self.ways.iter().filter(|way| !["upstream", "gateway", PLAYED].contains(&way.name.as_str())) {
                for name in ["requests_per_second", "added_ms_p50", "added_ms_p99", "streamed_tokens_per_second"] {
                    let (Some(own), Some(other)) = (gateway.median(name), peer.median(name)) else { continue };
                    all.insert(format!("{name}_over_{}", peer.name), json!(rounded(own / other, 3)));
                }
            }
        }
        all.insert("ways".to_owned(), self.ways.iter().map(Way::json).collect());
        Value::Object(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_comparisons_are_told() {
        let round = |rate: f64, through: f64| Round {
            straight_ms: (0.1, 0.2),
            through_ms: (through, through + 1.0),
            requests_per_second: rate,
            cpu_us_per_request: None,
            streamed_tokens_per_second: None,
        };
        let way = |name: &str, rates: [f64; 3], through| Way {
            name: name.to_owned(),
            rounds: rates.map(|rate| round(rate, through)).to_vec(),
            peak_rss_bytes: (name == "gateway").then_some(7),
        };
        let ways = vec![way("gateway", [30.0, 10.0, 20.0], 0.3), way("slow", [1.0, 3.0, 2.0], 4.1)];
        let told = Figures { ways }.json();
        assert_eq!(told["requests_per_second"], 20.0);
        assert_eq!(told["added_ms_p50"], 0.2);
        assert_eq!(told["requests_per_second_over_slow"], 10.0);
        assert_eq!(told["added_ms_p50_over_slow"], 0.05);
        assert_eq!(told["peak_rss_bytes"], 7);
        assert_eq!(told["ways"][0]["requests_per_second"], json!([10.0, 20.0, 30.0]));
        assert_eq!(told.get("streamed_tokens_per_second"), None);
    }
}
