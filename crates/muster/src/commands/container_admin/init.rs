//! `muster container init`: a configuration for this machine, with a node key and a wallet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_client::Network;
use muster_container::sandbox::{Sandbox, SandboxConfig};
use muster_container::{
    AppsOffer, ContainerConfig, EndpointConfig, GpuOffer, JobBounds, ModelsOffer, OfferConfig, SessionsOffer,
};
use muster_core::calibration::Table;
use muster_core::hardware::{Cores, Gpu, GpuModel};
use muster_core::ids::{Address, NodeId};
use muster_core::units::{Bytes, Ob, TokenAmount};
use muster_gpu::{GpuDevice, GpuReport, HostReport};
use muster_net::NodeSecret;
use serde::Serialize;

use crate::calibration;
use crate::cli::ContainerInitArgs;
use crate::cli::model::EndpointArgs;
use crate::commands::Context;
use crate::commands::setup::default_ask;
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::output::tokens;
use crate::wallets;

/// How long the graphics drivers may take to answer.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_secs(20);

/// What was written, for programs.
#[derive(Serialize)]
struct Made {
    id: NodeId,
    config: PathBuf,
    wallet: Address,
    stake: TokenAmount,
    cpu_millis: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    gpus: Vec<String>,
    /// What the Sandbox still lacks on this machine, sentences.
    missing: Vec<String>,
    /// What could not be found out, sentences.
    notes: Vec<String>,
}

/// Writes the folder. Everything that can be wrong is looked at before the first file is written.
pub(super) async fn init(cx: &Context, args: ContainerInitArgs) -> Result<(), Failure> {
    if cx.dirs.root().exists() {
        cx.dirs.prepare()?;
    }
    let dir = cx.dirs.at("container");
    let path = dir.join("container.toml");
    if path.exists() {
        let why = format!(
            "there is a Container in {} already: change its {}, or name another folder with --dir. Nothing was changed",
            dir.display(),
            path.display()
        );
        return Err(Failure::new(Code::InUse, why));
    }
    let network = cx.network()?;
    let host = HostReport::read(existing(cx.dirs.root())).code(Code::Internal)?;
    let gpus = probe_gpus().await;
    let mut notes = gpus.notes.clone();
    let known = calibration::table(&cx.dirs)?;
    let config = configure(&args, &host, (&gpus, &known), &mut notes)?;
    let wallet_path = dir.join("wallet.json");
    let passphrase = wallets::passphrase(&cx.dirs, &cx.global, &wallet_path, !wallet_path.exists())?;
    let owner = match wallet_path.exists() {
        // A former try came this far; its key may have been funded since.
        true => wallets::open(&cx.dirs, &cx.global, &wallet_path)?,
        false => muster_chain::keys::Wallet::random(),
    };
    cx.dirs.prepare()?;
    make_private(&dir)?;
    if !wallet_path.exists() {
        owner.save_keystore(&wallet_path, &passphrase).code(Code::Wallet)?;
    }
    let secret = NodeSecret::load_or_create(&dir.join("node.key")).code(Code::Wallet)?;
    network.save(&dir.join("network.toml")).code(Code::Io)?;
    let text = toml::to_string(&config).because(Code::Internal, "the configuration cannot be written")?;
    let head = "# What this Container offers and asks; every key is explained in docs/providers.md.\n";
    // Last: with it the Container is there.
    write_private(&path, format!("{head}{text}").as_bytes())?;
    let made = Made {
        id: secret.id(),
        config: path,
        wallet: owner.address(),
        stake: network.params.container_stake,
        cpu_millis: config.offer.cpu_millis,
        memory_bytes: config.offer.memory.0,
        disk_bytes: config.offer.disk.0,
        gpus: config.offer.gpus.iter().map(|g| g.card.model.to_string()).collect(),
        missing: missing(&dir),
        notes,
    };
    cx.output.result(&made, || text_of(cx, &made, &network));
    Ok(())
}

/// The nearest folder that exists: its disk is the one that a folder below it will be on.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"))
}

/// Asks the drivers in a child process; a driver that fails costs a note and no card.
pub(crate) async fn probe_gpus() -> GpuReport {
    let asked = tokio::task::spawn_blocking(|| {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        muster_gpu::probe_in_child(&exe, PROBE_WITHIN).map_err(|e| e.to_string())
    })
    .await;
    let failed = |why: String| GpuReport { notes: vec![why], ..GpuReport::default() };
    match asked {
        Ok(Ok(report)) => report,
        Ok(Err(why)) => failed(why),
        Err(e) => failed(e.to_string()),
    }
}

fn configure(
    args: &ContainerInitArgs,
    host: &HostReport,
    (gpus, known): (&GpuReport, &Table),
    notes: &mut Vec<String>,
) -> Result<ContainerConfig, Failure> {
    let cpus = args.cpus.unwrap_or(Cores(host.cpus.saturating_mul(1_000)));
    let memory = args.memory.unwrap_or(Bytes(host.memory_bytes / 4 * 3));
    let disk = args.disk.unwrap_or(Bytes(host.disk_free_bytes / 2));
    let too_much = |what: &str, asked: String, has: String| {
        let why = format!("--{what} {asked} is more than this machine has ({has}); offer less. Nothing was written");
        Err(Failure::new(Code::Config, why))
    };
    if u64::from(cpus.0) > u64::from(host.cpus) * 1_000 {
        return too_much("cpus", cpus.to_string(), host.cpus.to_string());
    }
    if memory.0 > host.memory_bytes {
        return too_much("memory", memory.to_string(), Bytes(host.memory_bytes).to_string());
    }
    if disk.0 > host.disk_free_bytes {
        return too_much("disk", disk.to_string(), format!("{} free", Bytes(host.disk_free_bytes)));
    }
    let config = ContainerConfig {
        name: machine_name(),
        listen: args.listen,
        announce: Vec::new(),
        data_dir: ".".into(),
        egress: args.egress,
        region: args.region.clone(),
        place: args.place,
        allow_empty: false,
        offer: OfferConfig {
            cpu_millis: cpus.0,
            memory,
            disk,
            gpus: gpus.gpus.iter().filter_map(|gpu| offer(gpu, known, notes)).collect(),
        },
        ask: default_ask(),
        job: JobBounds::default(),
        sessions: SessionsOffer::default(),
        apps: AppsOffer { disk: args.apps_disk, ..AppsOffer::default() },
        models: ModelsOffer {
            disk: args.models_disk,
            endpoint: endpoint(&args.endpoint).into_iter().collect(),
            ..ModelsOffer::default()
        },
    };
    config.check().code(Code::Config)?;
    Ok(config)
}

/// The engine that is offered, where one is named.
fn endpoint(args: &EndpointArgs) -> Option<EndpointConfig> {
    Some(EndpointConfig {
        url: args.endpoint.clone()?,
        model: args.endpoint_model.clone()?,
        name: args.endpoint_name.clone(),
        // Read again at every start, from wherever that is.
        key_file: args.endpoint_key_file.as_ref().and_then(|path| std::path::absolute(path).ok()),
        weights: args.endpoint_weights?,
        context: args.endpoint_context,
        parallel: args.endpoint_parallel,
        kinds: vec![args.endpoint_kind.into()],
        tools: false,
        dimensions: 0,
    })
}

/// The host's name, as far as it is a good name for status and logs.
fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|c| !c.is_control()).take(48).collect();
    if name.is_empty() { "container".to_owned() } else { name }
}

/// A card as it is offered: with the speed that the calibration table gives its model. A model that the table does not know
/// claims 0, so that it is priced by the hour until a proof says more.
fn offer(gpu: &GpuDevice, known: &Table, notes: &mut Vec<String>) -> Option<GpuOffer> {
    match GpuModel::new(&gpu.name) {
        Ok(model) => {
            let found = known.find(&model);
            let ob = if found.card.is_some() { found.rates.table_ob } else { Ob(0) };
            if ob == Ob(0) {
                notes.push(format!(
                    "the calibration table does not know {}: it claims no speed and is priced by the hour until it is \
                     measured; see `muster bench gpu`",
                    gpu.name
                ));
            }
            let card = Gpu { model, vendor: gpu.vendor, vram: Bytes(gpu.vram_bytes), ob };
            Some(GpuOffer { card, devices: gpu.device_files.clone() })
        }
        Err(why) => {
            notes.push(format!("the card {} is not offered: {why}", gpu.name));
            None
        }
    }
}

/// What the Sandbox lacks here.
fn missing(dir: &Path) -> Vec<String> {
    match SandboxConfig::new(dir) {
        Ok(config) => Sandbox::probe(&config).missing().iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    }
}

fn text_of(cx: &Context, made: &Made, network: &Network) -> String {
    let mut text = format!(
        "Container {} of network {:?} is ready to start:\n  offers {} cores, {} memory, {} disk{}\n  {}",
        made.id.short(),
        network.name,
        Cores(made.cpu_millis),
        Bytes(made.memory_bytes),
        Bytes(made.disk_bytes),
        if made.gpus.is_empty() { String::new() } else { format!(", cards: {}", made.gpus.join(", ")) },
        made.config.display(),
    );
    for note in &made.notes {
        text.push_str(&format!("\n  note: {note}"));
    }
    for missing in &made.missing {
        text.push_str(&format!("\n  missing: {missing}"));
    }
    text.push_str(&format!(
        "\nNext: its wallet {} needs {} for the stake, and ether for fees; on a development network, on the machine of \
         `muster up`:\n  muster wallet faucet {}\nThen, here:\n  muster --dir {} container run",
        made.wallet,
        tokens(made.stake),
        made.wallet,
        cx.dirs.root().display(),
    ));
    text
}

#[cfg(test)]
mod tests {
    use muster_core::hardware::GpuVendor;
    use muster_gpu::GpuKind;

    use super::*;

    #[test]
    fn cards_claim_what_the_table_says_and_unknown_ones_nothing() {
        let known = muster_wire::calibration::built_in().unwrap();
        let card = |name: &str| GpuDevice {
            name: name.into(),
            vendor: GpuVendor::Nvidia,
            uuid: String::new(),
            pci: None,
            vram_bytes: 24 << 30,
            driver: String::new(),
            kind: GpuKind::Discrete,
            nvml: true,
            vulkan: true,
            device_files: Vec::new(),
        };
        let mut notes = Vec::new();
        let mut ob = |name: &str| offer(&card(name), &known, &mut notes).unwrap().card.ob;
        assert_eq!(ob("NVIDIA GeForce RTX 4090"), Ob::points(1_270));
        assert_eq!(ob("NVIDIA GeForce RTX 4090 D"), Ob(0));
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}
