//! `network.toml`: what a machine must know to take part in a network.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use muster_core::beacon::BeaconSchedule;
use muster_core::ids::{Address, NodeId};
use muster_core::params::Params;
use muster_core::protocol::NodeAddr;
use muster_core::units::UsdMicro;
use serde::{Deserialize, Serialize};

use crate::durable;

/// The version of the file that this build reads and writes.
pub const NETWORK_FILE_VERSION: u32 = 1;
/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The most Checkers of a first committee: as many seats as the largest committee has.
const FIRST_COMMITTEE_MAX: usize = 21;
/// The most Indexers that a file names.
const INDEXERS_MAX: usize = 1024;

/// Why a network file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is none.
    #[error(
        "there is no network file at {path}; `muster up` writes one, and --network FILE names one that you were given"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("the network file {path} cannot be used: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It is not what a network file looks like.
    #[error("the network file {path} is not valid: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what, over several lines.
        what: String,
    },
    /// It was written by a later version of Muster.
    #[error(
        "the network file {path} has version {found}, this program reads version {NETWORK_FILE_VERSION}: update this program"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It names no contracts of epochs, or no beacon.
    #[error(
        "the network {network} has no Checkers: its file names no [epochs] and [beacon], as files written before there were any; a new `muster up` in a new folder (--dir) makes a network that has them"
    )]
    NoEpochs {
        /// What the network is called.
        network: String,
    },
    /// A field holds what it may not hold.
    #[error("the network file {path} is not valid: {field} {what}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        what: String,
    },
}

/// A network: its chain, its contracts, its rules, and the way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// [`NETWORK_FILE_VERSION`].
    pub version: u32,
    /// What people call it.
    pub name: String,
    /// A relay of the network's own, for nodes that cannot reach one another directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// The chain.
    pub chain: Chain,
    /// The contracts on it.
    pub contracts: Contracts,
    /// What all nodes agree on.
    #[serde(default)]
    pub params: Params,
    /// Who draws the lots of audits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<Beacon>,
    /// The contracts of licences, epochs and the beacon; absent in networks without Checkers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<EpochContracts>,
    /// The Checkers that settle the network's first epoch, in the order in which they propose; later committees are drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_committee: Vec<FirstMember>,
    /// Who can be asked for a Container.
    #[serde(default)]
    pub indexers: Vec<IndexerEntry>,
}

/// A Checker of the first committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstMember {
    /// Its key.
    pub id: NodeId,
    /// The account that signs for it.
    pub signer: Address,
}

/// The chain of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// Its id; a node that answers with another is refused.
    pub id: u64,
    /// Where its JSON-RPC answers.
    pub rpc: String,
}

/// The contracts of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contracts {
    /// The token that is paid with.
    pub token: Address,
    /// Where nodes register.
    pub registry: Address,
    /// Where the money of leases lies.
    pub escrow: Address,
}

/// The contracts of licences, epochs and the beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochContracts {
    /// Licences of Checkers.
    pub licences: Address,
    /// Outcomes of epochs, rewards and slashes.
    pub rewards: Address,
    /// Rounds of the beacon.
    pub beacon: Address,
    /// A block at or before the network's first: readers of the chain's logs begin here.
    #[serde(default)]
    pub from_block: u64,
}

impl EpochContracts {
    /// Their addresses, as the settlement client takes them.
    #[must_use]
    pub const fn addresses(&self) -> muster_chain::epochs::EpochContracts {
        muster_chain::epochs::EpochContracts { licences: self.licences, rewards: self.rewards, beacon: self.beacon }
    }
}

/// Where public randomness comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beacon {
    /// Its kind: `drand-quicknet`, or `development` with a key of the network's own.
    pub kind: BeaconKind,
    /// The key that its rounds are signed with, in hex.
    pub public_key: String,
    /// When round 1 came, in Unix seconds.
    pub genesis_s: u64,
    /// Seconds between rounds.
    pub period_s: u64,
    /// Servers of drand's API that have its rounds, asked in this order.
    pub urls: Vec<String>,
}

impl Beacon {
    /// The beacon with its key checked; else what is wrong with it.
    fn verified(&self) -> Result<muster_wire::beacon::Beacon, String> {
        let mut key = [0; 96];
        hex::decode_to_slice(&self.public_key, &mut key)
            .map_err(|_| "has a public_key that is not 96 bytes of hex".to_owned())?;
        let schedule = BeaconSchedule { genesis_s: self.genesis_s, period_s: self.period_s };
        match self.kind {
            BeaconKind::Development => {
                muster_wire::beacon::Beacon::new(&key, schedule).map_err(|error| format!("cannot be used: {error}"))
            }
            BeaconKind::DrandQuicknet => {
                let quicknet = muster_wire::beacon::Beacon::quicknet();
                let same = quicknet.public_key() == key && quicknet.schedule() == schedule;
                if same { Ok(quicknet) } else { Err("is not drand's quicknet: its key or times are others".to_owned()) }
            }
        }
    }
}

/// Kinds of beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BeaconKind {
    /// drand's quicknet.
    DrandQuicknet,
    /// A key of a development network.
    Development,
}

/// An Indexer and the ways to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexerEntry {
    /// Its key.
    pub id: NodeId,
    /// Addresses where it listens.
    #[serde(default)]
    pub direct: Vec<SocketAddr>,
    /// The relay that reaches it; the network's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

impl Network {
    /// A network with these contracts, without Indexers yet.
    #[must_use]
    pub fn new(name: &str, chain: Chain, contracts: Contracts, params: Params) -> Self {
        Self {
            version: NETWORK_FILE_VERSION,
            name: name.to_owned(),
            relay: None,
            chain,
            contracts,
            params,
            beacon: None,
            epochs: None,
            first_committee: Vec::new(),
            indexers: Vec::new(),
        }
    }

    /// Reads and checks a network file.
    ///
    /// # Errors
    /// Names the file, the field and what to do.
    pub fn load(path: &Path) -> Result<Self, NetworkError> {
        let bytes = durable::read_bounded(path, FILE_BYTES_MAX).map_err(|reason| match reason.kind() {
            io::ErrorKind::NotFound => NetworkError::Missing { path: path.to_owned() },
            _ => NetworkError::Io { path: path.to_owned(), reason },
        })?;
        let malformed = |what: String| NetworkError::Malformed { path: path.to_owned(), what };
        let text = String::from_utf8(bytes).map_err(|_| malformed("it is not text".to_owned()))?;
        // A newer file may hold keys that this build does not know: its version is what matters then.
        let version: Versioned = toml::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        match version.version {
            None => return Err(malformed("it has no `version`".to_owned())),
            Some(found) if found > NETWORK_FILE_VERSION => {
                return Err(NetworkError::Newer { path: path.to_owned(), found });
            }
            Some(_) => {}
        }
        let network: Self = toml::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        network.check().map_err(|(field, what)| NetworkError::Field { path: path.to_owned(), field, what })?;
        Ok(network)
    }

    /// Writes the file whole and durably, readable by everybody: it holds no secrets.
    ///
    /// # Errors
    /// A field holds what [`Network::load`] would refuse, or the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), NetworkError> {
        self.check().map_err(|(field, what)| NetworkError::Field { path: path.to_owned(), field, what })?;
        let text = self.to_toml();
        durable::replace(path, text.as_bytes(), 0o644)
            .map_err(|reason| NetworkError::Io { path: path.to_owned(), reason })
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("every field of a network has a form in TOML");
        format!("# A network of Muster: give this file to whoever shall join it. It holds no secrets.\n{body}")
    }

    /// Sixteen hex digits that name this network's chain and contracts, whatever its parameters and Indexers.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let c = &self.contracts;
        let named = format!("{} {} {} {}", self.chain.id, c.token, c.registry, c.escrow);
        blake3::hash(named.as_bytes()).to_hex().chars().take(16).collect()
    }

    /// The contracts of licences, epochs and the beacon.
    ///
    /// # Errors
    /// The network has none: what to do about it.
    pub fn epoch_contracts(&self) -> Result<EpochContracts, NetworkError> {
        self.epochs.ok_or_else(|| NetworkError::NoEpochs { network: self.name.clone() })
    }

    /// The beacon, with its key checked.
    ///
    /// # Errors
    /// The network has none, or its key or period is none.
    pub fn verified_beacon(&self) -> Result<muster_wire::beacon::Beacon, NetworkError> {
        let Some(beacon) = &self.beacon else { return Err(NetworkError::NoEpochs { network: self.name.clone() }) };
        beacon.verified().map_err(|what| NetworkError::Field {
            path: PathBuf::from("network.toml"),
            field: "beacon".to_owned(),
            what,
        })
    }

    /// The Indexers with all ways to them: who names no relay is reached through the network's.
    #[must_use]
    pub fn indexer_addrs(&self) -> Vec<NodeAddr> {
        self.indexers
            .iter()
            .map(|i| NodeAddr {
                id: i.id,
                direct: i.direct.clone(),
                relay: i.relay.clone().or_else(|| self.relay.clone()),
            })
            .collect()
    }

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, what: &str| Err((field.to_owned(), what.to_owned()));
        if self.version != NETWORK_FILE_VERSION {
            return wrong("version", "is not one that this program reads");
        }
        if self.chain.id == 0 {
            return wrong("chain.id", "is zero");
        }
        if !is_http(&self.chain.rpc) {
            return wrong("chain.rpc", "must begin with http:// or https://");
        }
        let c = &self.contracts;
        for (field, address) in
            [("contracts.token", c.token), ("contracts.registry", c.registry), ("contracts.escrow", c.escrow)]
        {
            if address == Address::ZERO {
                return wrong(field, "is zero");
            }
        }
        if let Some(e) = &self.epochs {
            for (field, address) in
                [("epochs.licences", e.licences), ("epochs.rewards", e.rewards), ("epochs.beacon", e.beacon)]
            {
                if address == Address::ZERO {
                    return wrong(field, "is zero");
                }
            }
        }
        if let Some(beacon) = &self.beacon {
            beacon.verified().map_err(|what| ("beacon".to_owned(), what))?;
            let urls = &beacon.urls;
            if urls.is_empty() || urls.len() > muster_chain::beacon::URLS_MAX || !urls.iter().all(|url| is_http(url)) {
                return wrong("beacon.urls", "must be 1 to 16 addresses that begin with http:// or https://");
            }
        }
        check_params(&self.params)?;
        if self.relay.as_deref().is_some_and(|url| !is_http(url)) {
            return wrong("relay", "must begin with http:// or https://");
        }
        if self.first_committee.len() > FIRST_COMMITTEE_MAX {
            return wrong("first_committee", "has more than 21 members");
        }
        if self.indexers.len() > INDEXERS_MAX {
            return wrong("indexers", "are more than 1024");
        }
        self.indexer_addrs().iter().enumerate().try_for_each(|(at, addr)| {
            muster_wire::NodeAddr::try_from(addr.clone())
                .map(drop)
                .map_err(|why| (format!("indexers[{at}]"), format!("cannot be dialled: {why}")))?;
            if addr.direct.is_empty() && addr.relay.is_none() {
                return Err((format!("indexers[{at}]"), "has neither a direct address nor a relay".to_owned()));
            }
            Ok(())
        })
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: Option<u32>,
}

fn is_http(url: &str) -> bool {
    url.len() <= 256 && (url.starts_with("http://") || url.starts_with("https://"))
}

fn check_params(p: &Params) -> Result<(), (String, String)> {
    let times = [
        ("heartbeat_ms", p.heartbeat_ms),
        ("silent_after_ms", p.silent_after_ms),
        ("offer_timeout_ms", p.offer_timeout_ms),
        ("match_timeout_ms", p.match_timeout_ms),
        ("open_timeout_ms", p.open_timeout_ms),
        ("start_timeout_ms", p.start_timeout_ms),
        ("voucher_interval_ms", p.voucher_interval_ms),
        ("settle_grace_ms", p.settle_grace_ms),
        ("close_patience_ms", p.close_patience_ms),
        ("keep_outputs_ms", p.keep_outputs_ms),
    ];
    if let Some((field, _)) = times.into_iter().find(|(_, ms)| *ms == 0) {
        return Err((format!("params.{field}"), "is zero".to_owned()));
    }
    if p.silent_after_ms <= p.heartbeat_ms {
        return Err(("params.silent_after_ms".to_owned(), "must be more than heartbeat_ms".to_owned()));
    }
    if p.token_price == UsdMicro(0) {
        return Err(("params.token_price".to_owned(), "is zero".to_owned()));
    }
    if p.fee_bps > 10_000 {
        return Err(("params.fee_bps".to_owned(), "is more than 10000, the whole price".to_owned()));
    }
    p.epoch.check().map_err(|(field, why)| (format!("params.epoch.{field}"), why))?;
    p.reward.check().map_err(|(field, why)| (format!("params.reward.{field}"), why))?;
    p.proof.check().map_err(|why| ("params.proof".to_owned(), format!("cannot be used: {why}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn example() -> Network {
        let contracts = Contracts { token: Address([1; 20]), registry: Address([2; 20]), escrow: Address([3; 20]) };
        let chain = Chain { id: 31_337, rpc: "http://127.0.0.1:8545".to_owned() };
        let mut network = Network::new("development", chain, contracts, Params::development());
        network.indexers.push(IndexerEntry {
            id: NodeId([7; 32]),
            direct: vec!["127.0.0.1:7000".parse().unwrap()],
            relay: None,
        });
        network
    }

    fn refused(change: impl FnOnce(&str) -> String) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.toml");
        std::fs::write(&path, change(&example().to_toml())).unwrap();
        let said = Network::load(&path).unwrap_err().to_string();
        said.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.toml");
        for params in [Params::development(), Params::production()] {
            let epochs = EpochContracts {
                licences: Address([4; 20]),
                rewards: Address([5; 20]),
                beacon: Address([6; 20]),
                from_block: 3,
            };
            let (beacon, epochs) = (Some(development_beacon()), Some(epochs));
            let network =
                Network { params, beacon, epochs, relay: Some("http://192.0.2.1:80".to_owned()), ..example() };
            network.save(&path).unwrap();
            assert_eq!(Network::load(&path).unwrap(), network);
        }
    }

    fn development_beacon() -> Beacon {
        let secret = muster_wire::beacon::BeaconSecret::generate(&[1; 32]);
        Beacon {
            kind: BeaconKind::Development,
            public_key: hex::encode(secret.public_key()),
            genesis_s: 1,
            period_s: 3,
            urls: vec!["http://127.0.0.1:3350".to_owned()],
        }
    }

    #[test]
    fn a_file_of_before_there_were_checkers_is_read_and_says_so() {
        let network = example();
        assert!(!network.to_toml().contains("epochs"));
        let said = network.epoch_contracts().unwrap_err().to_string();
        assert!(said.contains("has no Checkers") && said.contains("muster up"), "{said}");
        assert!(network.verified_beacon().is_err());
    }

    #[test]
    fn a_beacon_must_be_one() {
        let with = |change: fn(&mut Beacon)| {
            let mut beacon = development_beacon();
            change(&mut beacon);
            Network { beacon: Some(beacon), ..example() }.check().unwrap_err()
        };
        assert!(with(|b| b.public_key = "ab".to_owned()).1.contains("96 bytes"));
        assert!(with(|b| b.public_key = "00".repeat(96)).1.contains("G2"));
        assert!(with(|b| b.period_s = 0).1.contains("period"));
        assert!(with(|b| b.kind = BeaconKind::DrandQuicknet).1.contains("quicknet"));
        assert_eq!(with(|b| b.urls.clear()).0, "beacon.urls");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(|t| t.replace("version = 1", "version = 2")).contains("has version 2"));
        assert!(refused(|t| t.replace("version = 1", "version = 2\nnew_key = 1")).contains("update this program"));
        assert!(refused(|t| t.replace("version = 1", "")).contains("no `version`"));
        assert!(refused(|t| t.replace("[chain]", "[chain]\ncolour = 1")).contains("unknown field `colour`"));
        assert!(refused(|t| t.replace("id = 31337", "id = 0")).ends_with("chain.id is zero"));
        assert!(refused(|t| t.replace("http://127", "ftp://127")).contains("chain.rpc must begin with"));
        assert!(refused(|t| t.replace("127.0.0.1:7000", "0.0.0.0:7000")).contains("indexers[0] cannot be dialled"));
        assert!(refused(|t| t.replace("\"127.0.0.1:7000\"", "")).contains("neither a direct address nor a relay"));
        assert!(
            refused(|t| t.replace("heartbeat_ms = 2000", "heartbeat_ms = 0")).contains("params.heartbeat_ms is zero")
        );
        assert!(refused(|t| t.replace(&"01".repeat(20), "01")).contains("expected 40 hex digits"));
        let missing = Network::load(Path::new("/nonexistent/network.toml")).unwrap_err().to_string();
        assert!(missing.contains("muster up"), "{missing}");
    }

    #[test]
    fn the_fingerprint_names_chain_and_contracts() {
        let one = example();
        let same = Network { params: Params::production(), indexers: Vec::new(), ..example() };
        let other = Network { chain: Chain { id: 1, ..example().chain }, ..example() };
        assert_eq!(one.fingerprint(), same.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.fingerprint().len(), 16);
    }
}
