//! A Checker's configuration, and `muster checker init`.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_checker::{AskedThrough, AuditedFile, EvidenceLimits};
use muster_core::ids::{Address, NodeId};
use muster_core::units::{Bytes, TokenAmount};
use muster_engine::upstream::Through;
use muster_net::NodeSecret;
use serde::{Deserialize, Serialize};

use crate::cli::CheckerInitArgs;
use crate::commands::Context;
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::output::tokens;
use crate::wallets;

/// The configuration's file in a Checker's folder.
pub(crate) const FILE: &str = "checker.toml";
/// The folder of the wallet that it plays from.
pub(crate) const PLAYER: &str = "player";
/// What it begins with.
const HEAD: &str = "# A Checker of Muster; every key is explained in docs/checkers.md.\n";
/// Less disk than this holds no epoch of a larger network.
const EVIDENCE_MIN: u64 = 64 * Bytes::MIB;
/// A Checker's name has at most so many characters.
const NAME_LEN_MAX: usize = 64;

/// What an operator says about a Checker: `checker.toml`. Keys that are not listed here are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckerFile {
    /// How its operator calls it: for pages and logs only.
    pub(crate) name: String,
    /// Where it listens. The registry tells others, so the port stays the same.
    pub(crate) listen: SocketAddr,
    /// Addresses told to others instead: those of a port that a router forwards.
    #[serde(default)]
    pub(crate) announce: Vec<SocketAddr>,
    /// The most disk for transcripts, in bytes; the oldest go first.
    #[serde(default = "evidence_bytes")]
    pub(crate) evidence_bytes: u64,
    /// How long transcripts are kept, in days.
    #[serde(default = "evidence_days")]
    pub(crate) evidence_days: u32,
    /// One in so many looks at a Container's work is played as a live session, paid from `player/wallet.json`; 0: none.
    #[serde(default = "play_every")]
    pub(crate) play_every: u32,
    /// The most that an hour of playing may cost, in millionths of a dollar.
    #[serde(default = "play_usd_micro_per_hour")]
    pub(crate) play_usd_micro_per_hour: u64,
    /// One in so many looks at a Container's work asks a model that it is to serve, from the same wallet; 0: none.
    #[serde(default = "play_every")]
    pub(crate) answers_every: u32,
    /// The most that a million tokens of any kind may cost, in millionths of a dollar.
    #[serde(default = "answers_usd_micro_per_million")]
    pub(crate) answers_usd_micro_per_million: u64,
    /// Models whose answers are audited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) answers: Vec<AuditedFile>,
    /// Gateways through which they are asked, where one has them at the Container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) answers_through: Vec<GatewayFile>,
}

/// A Gateway that a Checker asks through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayFile {
    /// `https://host`, or `http://127.0.0.1:port` on this machine.
    pub(crate) url: String,
    /// A file that holds an API key for it, with the scope of models.
    pub(crate) key_file: PathBuf,
    /// Whether it is the operator's own, so that what does not come through it counts against the Container.
    #[serde(default)]
    pub(crate) own: bool,
}

impl GatewayFile {
    /// The Gateway, with its key; `dir` is where relative paths begin.
    pub(crate) fn open(&self, dir: &Path) -> Result<AskedThrough, Failure> {
        let path = dir.join(&self.key_file);
        let key = std::fs::read_to_string(&path)
            .because(Code::Config, format!("answers_through: the API key in {}", path.display()))?;
        let gateway = Through::new(&self.url, key.trim()).because(Code::Config, "answers_through")?;
        Ok(AskedThrough { gateway, own: self.own })
    }
}

const fn answers_usd_micro_per_million() -> u64 {
    20_000_000
}

const fn play_every() -> u32 {
    4
}

const fn play_usd_micro_per_hour() -> u64 {
    2_000_000
}

fn evidence_bytes() -> u64 {
    EvidenceLimits::default().bytes_max
}

fn evidence_days() -> u32 {
    u32::try_from(EvidenceLimits::default().keep.as_secs() / 86_400).unwrap_or(7)
}

impl CheckerFile {
    /// A configuration with everything else as usual.
    pub(crate) fn new(name: &str, listen: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            announce: Vec::new(),
            evidence_bytes: evidence_bytes(),
            evidence_days: evidence_days(),
            play_every: play_every(),
            play_usd_micro_per_hour: play_usd_micro_per_hour(),
            answers_every: play_every(),
            answers_usd_micro_per_million: answers_usd_micro_per_million(),
            answers: Vec::new(),
            answers_through: Vec::new(),
        }
    }

    /// Reads and checks one.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let hint = if missing { "; `muster checker init` writes one" } else { "" };
            Failure::new(Code::Config, format!("{}: {e}{hint}", path.display()))
        })?;
        let file: Self = toml::from_str(&text).because(Code::Config, path.display())?;
        file.check().map_err(|why| Failure::new(Code::Config, format!("{}: {why}", path.display())))?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > NAME_LEN_MAX || self.name.chars().any(char::is_control) {
            return Err(format!("name: must have 1 to {NAME_LEN_MAX} characters"));
        }
        if self.listen.port() == 0 {
            return Err("listen: needs a port of its own, since the registry tells others where it is".to_owned());
        }
        if self.evidence_bytes < EVIDENCE_MIN {
            return Err(format!("evidence_bytes: at least {EVIDENCE_MIN} (64 MiB) are needed"));
        }
        if self.evidence_days == 0 {
            return Err("evidence_days: at least 1 is needed, or nobody could run a disputed test again".to_owned());
        }
        Ok(())
    }

    /// Writes it; last of all that makes a Checker's folder.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).because(Code::Internal, "the configuration cannot be written")?;
        write_private(path, format!("{HEAD}{text}").as_bytes())
    }

    /// How much evidence is kept.
    pub(crate) fn limits(&self) -> EvidenceLimits {
        let keep = Duration::from_secs(u64::from(self.evidence_days).saturating_mul(86_400));
        EvidenceLimits { bytes_max: self.evidence_bytes, keep }
    }
}

/// The folder of a Checker: the one that is given, if a configuration is in it, else `checker` below it.
pub(crate) fn dir(root: &Path) -> PathBuf {
    if root.join(FILE).exists() { root.to_owned() } else { root.join("checker") }
}

/// A UDP port that is free now.
pub(crate) fn free_port(listen: SocketAddr) -> Result<SocketAddr, Failure> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    let socket = UdpSocket::bind(listen)
        .because(Code::Config, format!("{} is no address of this machine; name one with --listen", listen.ip()))?;
    let bound = socket.local_addr().because(Code::Internal, "a socket has no address")?;
    Ok(SocketAddr::new(listen.ip(), bound.port()))
}

#[derive(Serialize)]
struct Made {
    id: NodeId,
    config: PathBuf,
    wallet: Address,
    player: Address,
    stake: TokenAmount,
    listen: SocketAddr,
}

/// `muster checker init`. Everything that can be wrong is looked at before the first file is written.
pub(super) fn init(cx: &Context, args: &CheckerInitArgs) -> Result<u8, Failure> {
    if cx.dirs.root().exists() {
        cx.dirs.prepare()?;
    }
    let dir = cx.dirs.at("checker");
    let path = dir.join(FILE);
    if path.exists() {
        let why = format!(
            "there is a Checker in {} already: change its {}, or name another folder with --dir. Nothing was changed",
            dir.display(),
            path.display()
        );
        return Err(Failure::new(Code::InUse, why));
    }
    let network = cx.network()?;
    network.epoch_contracts().code(Code::Config)?;
    let file = CheckerFile {
        announce: args.announce.clone(),
        evidence_bytes: args.evidence.0,
        ..CheckerFile::new("checker", free_port(args.listen)?)
    };
    file.check().map_err(|why| Failure::new(Code::Config, why))?;
    let wallet_path = dir.join("wallet.json");
    let known = wallet_path.exists();
    let passphrase = wallets::passphrase(&cx.dirs, &cx.global, &wallet_path, !known)?;
    let owner = match known {
        // A former try came this far; its key may have been funded since.
        true => wallets::open(&cx.dirs, &cx.global, &wallet_path)?,
        false => muster_chain::keys::Wallet::random(),
    };
    cx.dirs.prepare()?;
    make_private(&dir)?;
    if !known {
        owner.save_keystore(&wallet_path, &passphrase).code(Code::Wallet)?;
    }
    let player_dir = dir.join(PLAYER);
    make_private(&player_dir)?;
    let player = wallets::open_or_make(&player_dir.join("wallet.json"), &passphrase)?;
    let secret = NodeSecret::load_or_create(&dir.join("node.key")).code(Code::Wallet)?;
    network.save(&dir.join("network.toml")).code(Code::Io)?;
    file.save(&path)?;
    let made = Made {
        id: secret.id(),
        config: path,
        wallet: owner.address(),
        player: player.address(),
        stake: network.params.epoch.checker_stake,
        listen: file.listen,
    };
    cx.output.result(&made, || {
        format!(
            "Checker {}\n  configuration  {}\n  wallet         {}\n  plays from     {} (a few tokens and some ether there, from a wallet that nobody knows as yours, let it test live sessions)\n\nIt needs {} for its stake and some ether for fees in that wallet, and at least one licence:\n  muster licence delegate LICENCE --to {}\nThen: muster checker run",
            made.id,
            made.config.display(),
            made.wallet,
            made.player,
            tokens(made.stake),
            made.id
        )
    });
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        let good = CheckerFile::new("c", "127.0.0.1:7000".parse().unwrap());
        good.check().unwrap();
        let wrong = |change: fn(&mut CheckerFile)| {
            let mut file = good.clone();
            change(&mut file);
            file.check().unwrap_err()
        };
        assert!(wrong(|f| f.listen.set_port(0)).starts_with("listen:"));
        assert!(wrong(|f| f.name.clear()).starts_with("name:"));
        assert!(wrong(|f| f.evidence_bytes = 1).starts_with("evidence_bytes:"));
        assert!(wrong(|f| f.evidence_days = 0).starts_with("evidence_days:"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(CheckerFile::load(&path).unwrap_err().why.contains("muster checker init"));
        good.save(&path).unwrap();
        assert_eq!(CheckerFile::load(&path).unwrap(), good);
        std::fs::write(&path, "name = \"c\"\nlisten = \"127.0.0.1:1\"\nlasers = 1\n").unwrap();
        assert!(CheckerFile::load(&path).unwrap_err().why.contains("lasers"));
    }
}
