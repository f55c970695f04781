//! What an owner says about a Container: part of `container.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use muster_core::demand::{Place, Region};
use muster_core::hardware::{Capacity, Gpu};
use muster_core::inference::TokenAsk;
use muster_core::pricing::Ask;
use muster_core::units::{Bytes, UsdMicro};
use serde::{Deserialize, Serialize};

/// Characters that a Container's name may have.
const NAME_LEN_MAX: usize = 64;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("container configuration: {field}: {why}")]
pub struct ConfigError {
    /// The key, as a path.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub why: String,
}

/// A Container's configuration. Keys that are not listed here are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerConfig {
    /// How its owner calls it: for status and logs only.
    pub name: String,
    /// Where it listens for consumers; port 0 takes any free one.
    #[serde(default = "any_loopback_port")]
    pub listen: SocketAddr,
    /// Addresses told to others instead of the ones it listens on: those of a port that a router forwards.
    #[serde(default)]
    pub announce: Vec<SocketAddr>,
    /// Its folder: records, logs of jobs, the Sandbox's state, the admin socket.
    pub data_dir: PathBuf,
    /// Whether jobs that ask for the internet get it.
    #[serde(default)]
    pub egress: bool,
    /// Where it stands, as its owner names it: `ca-east`.
    #[serde(default)]
    pub region: Option<Region>,
    /// Where that is: thousandths of a degree north and east.
    #[serde(default)]
    pub place: Option<Place>,
    /// Development only: a job whose command is exactly `muster:empty` runs nothing and exits with 0, without a
    /// Sandbox, so that leases can be measured without workloads.
    #[serde(default)]
    pub allow_empty: bool,
    /// What it offers.
    pub offer: OfferConfig,
    /// What it asks, in micro-dollars.
    pub ask: Ask,
    /// Bounds of each job beside what it rents.
    #[serde(default)]
    pub job: JobBounds,
    /// How players reach live sessions.
    #[serde(default)]
    pub sessions: SessionsOffer,
    /// What of the disk apps may take.
    #[serde(default)]
    pub apps: AppsOffer,
    /// Whether models are served, and what is asked for their tokens.
    #[serde(default)]
    pub models: ModelsOffer,
}

/// Whether models are served, and what is asked for their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsOffer {
    /// What of the disk weights may take: bytes, or text such as `"40G"`; 0: no models are served.
    #[serde(with = "size")]
    pub disk: Bytes,
    /// What is asked for a million tokens, in micro-dollars, for each GiB of a model's weights.
    pub ask: TokenAsk,
    /// Minutes after which a model that nobody asks anything gives its place back.
    pub idle_minutes: u64,
}

impl Default for ModelsOffer {
    fn default() -> Self {
        let ask = TokenAsk { input: UsdMicro(20_000), cached: UsdMicro(5_000), output: UsdMicro(80_000) };
        Self { disk: Bytes(0), ask, idle_minutes: 30 }
    }
}

impl ModelsOffer {
    /// What is asked, where models are served at all.
    #[must_use]
    pub const fn asked(&self) -> Option<TokenAsk> {
        if self.disk.0 == 0 { None } else { Some(self.ask) }
    }
}

/// What of the disk the packages of apps may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppsOffer {
    /// Bytes, or text such as `"8G"`; 0: nothing is fetched, and apps find what is installed.
    #[serde(with = "size")]
    pub disk: Bytes,
    /// Whether packages that others ask for are fetched while nothing runs here, before anybody waits for them.
    pub ahead: bool,
}

impl Default for AppsOffer {
    fn default() -> Self {
        Self { disk: Bytes(8 * Bytes::GIB), ahead: true }
    }
}

/// How players reach live sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsOffer {
    /// Where sessions listen for players, each on a port of its own when the port is 0; the address that consumers reach
    /// and any port if not said.
    pub bind: Option<SocketAddr>,
    /// The address that players are told, where it is not the one that sessions listen on.
    pub public: Option<IpAddr>,
}

/// The share of the machine that is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferConfig {
    /// Processor time in thousandths of a core.
    pub cpu_millis: u32,
    /// Memory: bytes, or text such as `"4G"`.
    #[serde(with = "size")]
    pub memory: Bytes,
    /// Disk for work folders: bytes, or text such as `"20G"`.
    #[serde(with = "size")]
    pub disk: Bytes,
    /// The cards, in a lasting order.
    #[serde(default)]
    pub gpus: Vec<GpuOffer>,
}

/// One card that is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuOffer {
    /// What it is.
    pub card: Gpu,
    /// Device files that a job which holds the card may open (`/dev/nvidia0`, `/dev/dri/renderD128`).
    pub devices: Vec<PathBuf>,
}

/// Bounds of each job beside what it rents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JobBounds {
    /// Processes and threads at one time.
    pub processes_max: u32,
    /// Open files of one process.
    pub open_files_max: u32,
}

impl Default for JobBounds {
    fn default() -> Self {
        Self { processes_max: 1_024, open_files_max: 4_096 }
    }
}

impl ContainerConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the key, what is wrong and what to do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |field, why: &str| Err(ConfigError { field, why: why.to_owned() });
        if self.name.is_empty() || self.name.len() > NAME_LEN_MAX || self.name.chars().any(char::is_control) {
            return bad("name", "give 1 to 64 printable characters");
        }
        if self.offer.cpu_millis == 0 || self.offer.memory == Bytes(0) || self.offer.disk == Bytes(0) {
            return bad("offer", "cpu_millis, memory and disk must be above zero: a job needs some of each");
        }
        if self.job.processes_max == 0 || self.job.open_files_max < 16 {
            return bad("job", "processes_max must be above zero and open_files_max at least 16");
        }
        if self.announce.iter().any(|addr| addr.port() == 0 || addr.ip().is_unspecified()) {
            return bad("announce", "an address that others shall dial needs a port and cannot be 0.0.0.0");
        }
        if self.sessions.public.is_some_and(|ip| ip.is_unspecified()) {
            return bad("sessions.public", "players cannot reach 0.0.0.0: name the address that your router forwards");
        }
        if self.data_dir.as_os_str().is_empty() {
            return bad("data_dir", "name a folder");
        }
        self.capacity().check().map_err(|why| ConfigError { field: "offer", why: why.to_string() })?;
        if self.models.idle_minutes == 0 {
            return bad("models.idle_minutes", "give one minute at least: a model must have time to be asked");
        }
        self.models.ask.check().map_err(|why| ConfigError { field: "models.ask", why: why.to_string() })?;
        self.ask.check().map_err(|why| ConfigError { field: "ask", why: why.to_string() })
    }

    /// All that is offered.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity {
            cpu_millis: self.offer.cpu_millis,
            memory: self.offer.memory,
            disk: self.offer.disk,
            gpus: self.offer.gpus.iter().map(|gpu| gpu.card.clone()).collect(),
        }
    }

    /// How sessions listen, and the address that players are told; `found` are addresses of this machine.
    #[must_use]
    pub fn sessions(&self, found: impl IntoIterator<Item = IpAddr>) -> (SocketAddr, Option<IpAddr>) {
        let bind = self.sessions.bind.unwrap_or(SocketAddr::new(self.listen.ip(), 0));
        let announced = self.announce.iter().map(SocketAddr::ip).next();
        let reachable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback() && ip.is_ipv4() == bind.is_ipv4();
        // Somebody who listens on every address must still be told one.
        let own = || found.into_iter().find(reachable).filter(|_| bind.ip().is_unspecified());
        (bind, self.sessions.public.or(announced).or_else(own))
    }

    /// The file of records.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("container.redb")
    }

    /// The admin socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        socket_path(&self.data_dir)
    }

    /// The Sandbox's state folder.
    #[must_use]
    pub fn sandbox_dir(&self) -> PathBuf {
        self.data_dir.join("sandbox")
    }

    /// Where packages of apps are kept.
    #[must_use]
    pub fn apps_dir(&self) -> PathBuf {
        self.data_dir.join("apps")
    }

    /// Where weights of models are kept.
    #[must_use]
    pub fn models_dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }

    /// Where logs of jobs are kept, a folder a lease.
    #[must_use]
    pub fn leases_dir(&self) -> PathBuf {
        self.data_dir.join("leases")
    }
}

/// The admin socket of the Container with this data folder.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

fn any_loopback_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sizes as people write them: a number of bytes or text with a unit.
mod size {
    use muster_core::units::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(bytes.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Bytes(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{
        "name": "attic", "data_dir": "/tmp/x", "offer": {"cpu_millis": 2000, "memory": "4G", "disk": 1048576},
        "ask": {"obh": 1, "gpu_hour_min": 0, "core_hour": 10000, "memory_gib_hour": 1000, "disk_gib_hour": 10,
                "reserved_bps": null}
    }"#;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let config: ContainerConfig = serde_json::from_str(FULL).unwrap();
        assert_eq!((config.offer.memory, config.offer.disk), (Bytes(4 << 30), Bytes(1 << 20)));
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.listen, any_loopback_port());
        assert!(!config.egress && !config.allow_empty);
        assert_eq!(config.apps.disk, Bytes(8 << 30));
        let again: ContainerConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn players_are_told_an_address_that_they_can_reach() {
        let mut config: ContainerConfig = serde_json::from_str(FULL).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = [ip("127.0.0.1"), ip("::1"), ip("192.0.2.7")];
        assert_eq!(config.sessions(found), (any_loopback_port(), None));
        config.listen = "0.0.0.0:4400".parse().unwrap();
        assert_eq!(config.sessions(found), ("0.0.0.0:0".parse().unwrap(), Some(ip("192.0.2.7"))));
        config.announce.push("198.51.100.1:4400".parse().unwrap());
        assert_eq!(config.sessions(found).1, Some(ip("198.51.100.1")));
        config.sessions.public = Some(ip("203.0.113.5"));
        config.sessions.bind = Some("192.0.2.7:9000".parse().unwrap());
        assert_eq!(config.sessions(found), ("192.0.2.7:9000".parse().unwrap(), Some(ip("203.0.113.5"))));
        config.sessions.public = Some(ip("0.0.0.0"));
        assert_eq!(config.check().unwrap_err().field, "sessions.public");
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let unknown = FULL.replace("\"name\"", "\"colour\": 1, \"name\"");
        assert!(serde_json::from_str::<ContainerConfig>(&unknown).unwrap_err().to_string().contains("colour"));
        let config: ContainerConfig = serde_json::from_str(FULL).unwrap();
        let field = |change: fn(&mut ContainerConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.check().unwrap_err().field
        };
        assert_eq!(field(|c| c.name.clear()), "name");
        assert_eq!(field(|c| c.offer.memory = Bytes(0)), "offer");
        assert_eq!(field(|c| c.offer.cpu_millis = u32::MAX), "offer");
        assert_eq!(field(|c| c.job.open_files_max = 1), "job");
        assert_eq!(field(|c| c.announce.push(any_loopback_port())), "announce");
        assert_eq!(field(|c| c.data_dir = PathBuf::new()), "data_dir");
    }
}
