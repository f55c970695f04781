//! What an owner says about a Container: part of `container.toml`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_core::demand::{Place, Region};
use muster_core::hardware::{Capacity, Gpu};
use muster_core::inference::{
    CONTEXT_MAX, ModelKind, PARALLEL_MAX, PUBLIC_HUB, TokenAsk, WEIGHTS_MAX, WeightsId, check_model_name,
};
use muster_core::pricing::Ask;
use muster_core::protocol::{ENDPOINTS_MAX, EndpointOffer};
use muster_core::units::{Bytes, UsdMicro};
use muster_engine::Abilities;
use muster_engine::hub::Hub;
use muster_engine::upstream::{Upstream, UpstreamConfig};
use serde::{Deserialize, Serialize};

/// Characters that a Container's name may have.
const NAME_LEN_MAX: usize = 64;
/// Bytes of a model's name at its server.
const MODEL_LEN_MAX: usize = 256;
/// Requests that wait at an endpoint, for each that it answers.
const QUEUE_FOR_EACH: u32 = 2;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsOffer {
    /// What of the disk weights may take: bytes, or text such as `"40G"`; 0: no models are served.
    #[serde(with = "size")]
    pub disk: Bytes,
    /// What is asked for a million tokens, in micro-dollars, for each GiB of a model's weights.
    pub ask: TokenAsk,
    /// Minutes after which a model that nobody asks anything gives its place back.
    pub idle_minutes: u64,
    /// The hub that weights are fetched from; empty: from none, and consumers bring them.
    pub hub: String,
    /// A hub that sends nothing for so many seconds is given up, and asked anew a few times.
    pub hub_silence_s: u64,
    /// Engines that the owner runs already: servers that speak the OpenAI API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoint: Vec<EndpointConfig>,
}

/// An engine that the owner runs already, and the model behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Up to and with `/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The name under which consumers ask for it; the same if not said.
    #[serde(default)]
    pub name: Option<String>,
    /// A file with the server's key, where it wants one.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// How large its weights are, for prices go by it: bytes, or text such as `"16G"`.
    #[serde(with = "size")]
    pub weights: Bytes,
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Requests that it answers side by side, of all leases together.
    pub parallel: u16,
    /// What it does.
    #[serde(default = "chats")]
    pub kinds: Vec<ModelKind>,
    /// Whether it can call tools.
    #[serde(default)]
    pub tools: bool,
    /// Numbers of an embedding, where it gives embeddings.
    #[serde(default)]
    pub dimensions: u32,
}

fn chats() -> Vec<ModelKind> {
    vec![ModelKind::Chat]
}

impl EndpointConfig {
    /// The name under which consumers ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.model)
    }

    fn check(&self) -> Result<(), String> {
        check_model_name(self.name()).map_err(|why| format!("{why}; set `name` to what consumers shall write"))?;
        if self.model.is_empty() || self.model.len() > MODEL_LEN_MAX {
            return Err(format!("model: give the name that the server knows, of at most {MODEL_LEN_MAX} bytes"));
        }
        if self.weights == Bytes(0) || self.weights > WEIGHTS_MAX {
            return Err("weights: say how large the model is, for example \"16G\": prices go by it".to_owned());
        }
        if !(64..=CONTEXT_MAX).contains(&self.context) || !(1..=PARALLEL_MAX).contains(&self.parallel) {
            return Err(format!("context must be from 64 to {CONTEXT_MAX}, and parallel from 1 to {PARALLEL_MAX}"));
        }
        if self.kinds.is_empty() {
            return Err("kinds: name at least one of chat, completion, embedding".to_owned());
        }
        Upstream::new(self.upstream(None)).map(drop).map_err(|why| format!("url: {why}"))
    }

    pub(crate) fn upstream(&self, key: Option<String>) -> UpstreamConfig {
        let does = |kind| self.kinds.contains(&kind);
        UpstreamConfig {
            base_url: self.url.clone(),
            key,
            model: self.model.clone(),
            context: self.context,
            parallel: u32::from(self.parallel),
            queue: u32::from(self.parallel).saturating_mul(QUEUE_FOR_EACH),
            abilities: Abilities {
                chat: does(ModelKind::Chat),
                completion: does(ModelKind::Completion) || does(ModelKind::Chat),
                embedding: does(ModelKind::Embedding),
                tools: self.tools,
                vision: false,
            },
            dimensions: self.dimensions,
        }
    }
}

impl Default for ModelsOffer {
    fn default() -> Self {
        let ask = TokenAsk { input: UsdMicro(20_000), cached: UsdMicro(5_000), output: UsdMicro(80_000) };
        Self {
            disk: Bytes(0),
            ask,
            idle_minutes: 30,
            hub: PUBLIC_HUB.to_owned(),
            hub_silence_s: 30,
            endpoint: Vec::new(),
        }
    }
}

impl ModelsOffer {
    /// The hub, where there is one.
    ///
    /// # Errors
    /// Its address is none.
    pub(crate) fn hub(&self) -> Result<Option<Hub>, ConfigError> {
        if self.hub.is_empty() {
            return Ok(None);
        }
        let hub = Hub::new(&self.hub, Duration::from_secs(self.hub_silence_s));
        hub.map(Some).map_err(|why| ConfigError { field: "models.hub", why: why.to_string() })
    }

    /// What is asked for tokens, where any model is served, be it by an engine of the owner's.
    #[must_use]
    pub const fn asked_for_any(&self) -> Option<TokenAsk> {
        if self.disk.0 == 0 && self.endpoint.is_empty() { None } else { Some(self.ask) }
    }

    /// What the owner's own engines serve, as it is told.
    #[must_use]
    pub fn offers(&self) -> Vec<EndpointOffer> {
        let offer = |one: &EndpointConfig| {
            let id = WeightsId::of_endpoint(one.name()).warm_id();
            EndpointOffer { id, bytes: one.weights, ask: self.ask }
        };
        self.endpoint.iter().map(offer).collect()
    }

    /// What is asked, where weights are kept and served.
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
        if !(1..=3_600).contains(&self.models.hub_silence_s) {
            return bad("models.hub_silence_s", "give from 1 to 3600 seconds");
        }
        self.models.hub()?;
        let endpoints = &self.models.endpoint;
        let mut names: Vec<&str> = endpoints.iter().map(EndpointConfig::name).collect();
        names.sort_unstable();
        if endpoints.len() > ENDPOINTS_MAX || names.windows(2).any(|pair| pair.first() == pair.last()) {
            return bad("models.endpoint", "name at most 16 endpoints, each under a name of its own");
        }
        if let Some(why) = endpoints.iter().find_map(|endpoint| endpoint.check().err()) {
            return bad("models.endpoint", &why);
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
        assert_eq!(field(|c| c.models.hub = "http://10.0.0.1".into()), "models.hub");
        assert_eq!(field(|c| c.models.hub_silence_s = 0), "models.hub_silence_s");
        let endpoint =
            r#"{"url": "http://127.0.0.1:8000/v1", "model": "big", "weights": "16G", "context": 8192, "parallel": 8}"#;
        let endpoint: EndpointConfig = serde_json::from_str(endpoint).unwrap();
        let with = |change: fn(&mut EndpointConfig), count: usize| {
            let mut config = config.clone();
            config.models.endpoint = vec![endpoint.clone(); count];
            config.models.endpoint.iter_mut().for_each(change);
            config.check()
        };
        assert_eq!(with(|_| {}, 1), Ok(()));
        assert!(with(|_| {}, 2).unwrap_err().why.contains("a name of its own"));
        assert!(with(|e| e.model = "a b".into(), 1).unwrap_err().why.contains("set `name`"));
        assert!(with(|e| e.url = "nowhere".into(), 1).unwrap_err().why.contains("http://host:port/v1"));
        assert!(with(|e| e.weights = Bytes(0), 1).unwrap_err().why.contains("prices go by it"));
        assert!(with(|e| e.kinds.clear(), 1).unwrap_err().why.contains("kinds"));
    }
}
