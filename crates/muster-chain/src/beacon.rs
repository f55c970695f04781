//! Fetching rounds of a beacon over drand's public HTTP API, from several servers, each answer verified.
//!
//! A server can delay a round, never change one: what it says counts only with the beacon's signature.

use std::time::Duration;

use muster_wire::beacon::{Beacon, BeaconError, Randomness, RoundSignature};
use serde::{Deserialize, Serialize};

/// Most servers that are asked.
pub const URLS_MAX: usize = 16;
/// Longest answer that is read, in bytes; one of drand's is under 500.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long one server is given.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A round as drand's API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundAnswer {
    /// Its number.
    pub round: u64,
    /// SHA-256 of the signature, in hex.
    pub randomness: String,
    /// The signature, in hex.
    pub signature: String,
}

impl RoundAnswer {
    /// A round with its signature.
    #[must_use]
    pub fn new(round: u64, signature: &RoundSignature, randomness: &Randomness) -> Self {
        Self { round, randomness: hex::encode(randomness), signature: hex::encode(signature) }
    }
}

/// A beacon as drand's API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoAnswer {
    /// The key, in hex.
    pub public_key: String,
    /// Seconds between rounds.
    pub period: u64,
    /// When round 1 came, in Unix seconds.
    pub genesis_time: u64,
    /// The chain's hash, in hex.
    pub hash: String,
    /// What seeded the key's making, in hex.
    #[serde(rename = "groupHash")]
    pub group_hash: String,
    /// The name of the scheme.
    #[serde(rename = "schemeID")]
    pub scheme_id: String,
    /// Further words about the beacon.
    #[serde(default)]
    pub metadata: InfoMetadata,
}

/// Further words about a beacon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoMetadata {
    /// Its short name.
    #[serde(rename = "beaconID", default)]
    pub beacon_id: String,
}

impl InfoAnswer {
    /// What a server says about its beacon.
    #[must_use]
    pub fn new(beacon: &Beacon) -> Self {
        let schedule = beacon.schedule();
        Self {
            public_key: hex::encode(beacon.public_key()),
            period: schedule.period_s,
            genesis_time: schedule.genesis_s,
            hash: hex::encode(beacon.chain_hash()),
            group_hash: hex::encode(beacon.group_seed()),
            scheme_id: muster_wire::beacon::SCHEME.to_owned(),
            metadata: InfoMetadata { beacon_id: beacon.id().to_owned() },
        }
    }
}

/// A round, verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedRound {
    /// Its number.
    pub round: u64,
    /// Its signature.
    pub signature: RoundSignature,
    /// Its randomness.
    pub randomness: Randomness,
}

/// Why a round was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No server, or too many.
    #[error("a beacon needs 1 to {URLS_MAX} addresses (http:// or https://), not {0}")]
    Urls(usize),
    /// An address that is none.
    #[error("{0} is not the address of a beacon: it must begin with http:// or https://")]
    BadUrl(String),
    /// The round is not due yet.
    #[error("round {round} of the beacon comes only at {due_s} (Unix seconds)")]
    NotDue {
        /// The round.
        round: u64,
        /// When it comes.
        due_s: u64,
    },
    /// No server gave a good answer.
    #[error("no server of the beacon gave round {round}: {}", .reasons.join("; "))]
    Nobody {
        /// The round.
        round: u64,
        /// What was wrong with each.
        reasons: Vec<String>,
    },
    /// This program cannot speak HTTP.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

/// Fetches rounds of one beacon. Clones share the connections.
#[derive(Clone, Debug)]
pub struct BeaconClient {
    beacon: Beacon,
    urls: Vec<String>,
    http: reqwest::Client,
}

impl BeaconClient {
    /// A client of a beacon that these servers serve; they are asked in this order.
    ///
    /// # Errors
    /// No address, too many, or one that is none.
    pub fn new(beacon: Beacon, urls: &[String]) -> Result<Self, FetchError> {
        if urls.is_empty() || urls.len() > URLS_MAX {
            return Err(FetchError::Urls(urls.len()));
        }
        if let Some(bad) = urls.iter().find(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err(FetchError::BadUrl(bad.clone()));
        }
        crate::settle::install_crypto_provider();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| FetchError::Client(error.to_string()))?;
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { beacon, urls, http })
    }

    /// The beacon.
    #[must_use]
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// A round that is due at `now_s`: asks one server after another until one gives it with the right signature.
    ///
    /// # Errors
    /// It is not due, or no server gives it.
    pub async fn round(&self, round: u64, now_s: u64) -> Result<VerifiedRound, FetchError> {
        match self.beacon.schedule().time_of(round) {
            Some(due_s) if due_s <= now_s => {}
            due => return Err(FetchError::NotDue { round, due_s: due.unwrap_or(u64::MAX) }),
        }
        let mut reasons = Vec::new();
        let chain = hex::encode(self.beacon.chain_hash());
        for url in &self.urls {
            match self.ask(&format!("{url}/{chain}/public/{round}"), round).await {
                Ok(found) => return Ok(found),
                Err(reason) => reasons.push(format!("{url}: {reason}")),
            }
        }
        Err(FetchError::Nobody { round, reasons })
    }

    async fn ask(&self, url: &str, round: u64) -> Result<VerifiedRound, String> {
        let mut answer = self.http.get(url).send().await.map_err(|error| deepest(&error))?;
        if !answer.status().is_success() {
            return Err(format!("HTTP {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| deepest(&error))? {
            if body.len().saturating_add(piece.len()) > ANSWER_BYTES_MAX {
                return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        let answer: RoundAnswer = serde_json::from_slice(&body).map_err(|error| format!("not a round: {error}"))?;
        verified(&self.beacon, round, &answer)
    }
}

/// Checks an answer: only the signature counts, the randomness follows from it.
fn verified(beacon: &Beacon, round: u64, answer: &RoundAnswer) -> Result<VerifiedRound, String> {
    if answer.round != round {
        return Err(format!("round {} instead", answer.round));
    }
    let mut signature: RoundSignature = [0; 48];
    hex::decode_to_slice(&answer.signature, &mut signature)
        .map_err(|_| "a signature that is not 48 bytes of hex".to_owned())?;
    let randomness = beacon.verify(round, &signature).map_err(|error: BeaconError| error.to_string())?;
    Ok(VerifiedRound { round, signature, randomness })
}

/// The words of the innermost error.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use muster_core::beacon::BeaconSchedule;
    use muster_wire::beacon::BeaconSecret;

    use super::*;

    fn beacon() -> (BeaconSecret, Beacon) {
        let secret = BeaconSecret::generate(&[3; 32]);
        let schedule = BeaconSchedule { genesis_s: 100, period_s: 2 };
        let beacon = Beacon::new(&secret.public_key(), schedule).unwrap();
        (secret, beacon)
    }

    #[test]
    fn only_the_signature_counts() {
        let (secret, beacon) = beacon();
        let signature = secret.sign(7);
        let randomness = beacon.verify(7, &signature).unwrap();
        let mut answer = RoundAnswer::new(7, &signature, &randomness);
        answer.randomness = "nonsense".to_owned();
        assert_eq!(verified(&beacon, 7, &answer), Ok(VerifiedRound { round: 7, signature, randomness }));
        assert!(verified(&beacon, 8, &answer).unwrap_err().contains("round 7 instead"));
        answer.round = 8;
        assert!(verified(&beacon, 8, &answer).unwrap_err().contains("is not the beacon's"));
        answer.signature.truncate(90);
        assert!(verified(&beacon, 8, &answer).unwrap_err().contains("48 bytes"));
    }

    #[tokio::test]
    async fn a_round_that_is_not_due_is_asked_of_nobody() {
        let (_, beacon) = beacon();
        let client = BeaconClient::new(beacon, &["http://127.0.0.1:1".to_owned()]).unwrap();
        assert_eq!(client.round(6, 109).await, Err(FetchError::NotDue { round: 6, due_s: 110 }));
        let nobody = client.round(5, 109).await.unwrap_err();
        assert!(matches!(nobody, FetchError::Nobody { round: 5, .. }), "{nobody}");
    }

    #[test]
    fn addresses_are_checked() {
        let (_, beacon) = beacon();
        assert_eq!(BeaconClient::new(beacon.clone(), &[]).unwrap_err(), FetchError::Urls(0));
        let many = vec!["http://a".to_owned(); URLS_MAX + 1];
        assert_eq!(BeaconClient::new(beacon.clone(), &many).unwrap_err(), FetchError::Urls(URLS_MAX + 1));
        assert!(matches!(BeaconClient::new(beacon, &["ftp://a".to_owned()]), Err(FetchError::BadUrl(_))));
    }

    #[test]
    fn the_answers_have_drands_shape() {
        let (_, beacon) = beacon();
        let info = serde_json::to_value(InfoAnswer::new(&beacon)).unwrap();
        for field in ["public_key", "period", "genesis_time", "hash", "groupHash", "schemeID", "metadata"] {
            assert!(info.get(field).is_some(), "{field}");
        }
        let quicknet = InfoAnswer::new(&Beacon::quicknet());
        assert_eq!(quicknet.hash, "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971");
    }
}
