//! The Gateway that is measured, in a process of its own, so that what it holds is its alone.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use muster_core::inference::TokenAsk;
use muster_core::units::UsdMicro;
use muster_engine::upstream::{Upstream, UpstreamConfig};
use muster_engine::{Engine, EngineInfo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::BenchError;
use super::upstream::{MODEL, Played, info};
use crate::{
    Access, Deployment, KeyStore, KeyTerms, ModelApi, ModelApiConfig, Models, ReplicaId, TAKES_WITHIN, Whence, patient,
    read_snapshot,
};

/// Keys that requests come under.
const KEYS: usize = 8;
/// It must be ready within this, and end within this.
const WITHIN: Duration = Duration::from_secs(20);

/// What the process says once it serves.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    at: SocketAddr,
    keys: Vec<String>,
}

/// What [`super::run`] starts as a process of its own: a Gateway in `dir`, over the server at `upstream` (up to `/v1`), or
/// over a played engine where none is named. It says on its standard output where it serves, and ends with its standard
/// input.
///
/// # Errors
/// It cannot serve.
pub async fn serve(dir: &Path, upstream: Option<&str>) -> Result<(), BenchError> {
    crate::allow_many_connections();
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| BenchError::Io { what, source }
    };
    let part = |error: &dyn std::fmt::Display| BenchError::Gateway(error.to_string());
    let keys = Arc::new(KeyStore::open(&dir.join("api-keys.json")).map_err(|e| part(&e))?);
    // Every limit is looked at, and none is reached.
    let terms = KeyTerms {
        budget_usd_micro: Some(UsdMicro(u64::MAX / 2)),
        budget_month_usd_micro: Some(UsdMicro(u64::MAX / 2)),
        requests_per_minute: Some(u32::MAX),
        tokens_per_minute: Some(1 << 50),
        requests_at_once: Some(u32::MAX),
        models: vec![MODEL.to_owned()],
        ..KeyTerms::default()
    };
    let made: Result<Vec<String>, _> =
        (0..KEYS).map(|nth| keys.create_with(&format!("key-{nth}"), terms.clone())).collect();
    let made = made.map_err(|e| part(&e))?;
    let models = Models::default();
    let (engine, info) = engine(upstream)?;
    let deployment = Deployment {
        name: MODEL.to_owned(),
        owner: "bench".to_owned(),
        abilities: info.abilities,
        price: TokenAsk { input: UsdMicro(50_000), cached: UsdMicro(25_000), output: UsdMicro(200_000) },
        access: Access::Keys,
        created_s: 1_700_000_000,
        context: info.context,
        hedge_after_ms: None,
    };
    models.deploy(deployment).map_err(|e| part(&e))?;
    models.add(MODEL, ReplicaId("0".to_owned()), engine, &info, Whence::default()).map_err(|e| part(&e))?;
    let config = ModelApiConfig { loopback_only: true, ..ModelApiConfig::default() };
    let api = ModelApi::new(dir, config, keys, models).map_err(|e| part(&e))?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed("cannot listen on this machine"))?;
    let at = listener.local_addr().map_err(failed("the listener has no address"))?;
    let service = api.router().into_make_service_with_connect_info::<SocketAddr>();
    let serving = tokio::spawn(async move { axum::serve(patient(listener, TAKES_WITHIN), service).await });
    let mut line = serde_json::to_vec(&Served { at, keys: made }).map_err(|e| part(&e))?;
    line.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&line).and_then(|()| out.flush()).map_err(failed("cannot say where it serves"))?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()).map(drop)).await;
    serving.abort();
    api.close(WITHIN / 2).await;
    ended.map_err(|e| part(&e))?.map_err(failed("cannot read its standard input"))
}

fn engine(upstream: Option<&str>) -> Result<(Arc<dyn Engine>, EngineInfo), BenchError> {
    let info = info();
    let Some(base_url) = upstream else { return Ok((Arc::new(Played), info)) };
    let config = UpstreamConfig {
        base_url: base_url.to_owned(),
        key: None,
        model: MODEL.to_owned(),
        context: info.context,
        parallel: info.parallel,
        queue: info.queue,
        abilities: info.abilities,
        dimensions: 0,
    };
    let engine = Upstream::new(config).map_err(|e| BenchError::Gateway(e.to_string()))?;
    Ok((Arc::new(engine), info))
}

/// The process, killed where the measurement fails.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) at: SocketAddr,
    pub(super) keys: Vec<String>,
}

impl Server {
    /// Starts it by a command that comes to [`serve`].
    pub(super) async fn start(mut command: Command) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Io { what: "cannot start the Gateway's process".to_owned(), source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let mut out = BufReader::new(out);
            let read = tokio::time::timeout(WITHIN, out.read_line(&mut line)).await;
            read.map_err(|_| BenchError::Gateway(format!("it was not ready within {} s", WITHIN.as_secs())))?
                .map_err(failed)?;
        }
        match serde_json::from_str::<Served>(&line) {
            Ok(Served { at, keys }) => Ok(Self { child, at, keys }),
            Err(_) => Err(BenchError::Gateway(said(&mut child).await)),
        }
    }

    /// The most memory that it has held so far, in bytes.
    pub(super) fn peak_rss(&self) -> Result<u64, BenchError> {
        peak_rss(self.child.id().unwrap_or_default())
    }

    /// What it has spent on a core so far.
    pub(super) fn cpu(&self) -> Result<Duration, BenchError> {
        cpu(self.child.id().unwrap_or_default())
    }

    /// Ends it; it writes what it has counted.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(WITHIN, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(BenchError::Gateway(said(&mut self.child).await)),
            Ok(Err(source)) => Err(BenchError::Io { what: "the Gateway's process is lost".to_owned(), source }),
            Err(_) => Err(BenchError::Gateway(format!("it did not end within {} s", WITHIN.as_secs()))),
        }
    }
}

/// What a process that failed had to say.
async fn said(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(err) = child.stderr.take() {
        // A process that closes neither is not waited for.
        let read = err.take(16 * 1024);
        tokio::pin!(read);
        let _ = tokio::time::timeout(Duration::from_secs(2), read.read_to_end(&mut text)).await;
    }
    let text = String::from_utf8_lossy(&text);
    let last = text.trim().lines().last().unwrap_or("it ended without a word");
    last.to_owned()
}

/// Time on a core, of a process and in the kernel for it.
pub(super) fn cpu(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| BenchError::Io { what: format!("cannot read {path}"), source })?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let fields = text.rsplit_once(')').map(|(_, after)| after.split_ascii_whitespace().skip(11));
    let ticks: Option<u64> = fields.and_then(|fields| fields.take(2).map(|ticks| ticks.parse::<u64>().ok()).sum());
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let spent = ticks.map(|ticks| Duration::from_millis(ticks.saturating_mul(1_000) / per_second));
    spent.ok_or_else(|| BenchError::Gateway(format!("{path} does not tell what it has spent")))
}

/// `VmHWM` of a process.
pub(super) fn peak_rss(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| BenchError::Io { what: format!("cannot read {path}"), source })?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1_024)
        .ok_or_else(|| BenchError::Gateway(format!("{path} does not tell the peak of its memory")))
}

/// Requests and tokens of answers that a Gateway has written down in its folder.
pub(super) fn metered(dir: &Path) -> Result<(u64, u64), BenchError> {
    let rows = read_snapshot(dir).map_err(|e| BenchError::Gateway(e.to_string()))?;
    Ok(rows.iter().fold((0, 0), |(requests, tokens), row| (requests + row.used.requests, tokens + row.used.output)))
}
