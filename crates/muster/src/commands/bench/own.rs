//! A network for a measurement: in a folder of its own, with processes of its own, gone afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_client::Renter;
use tempfile::TempDir;

use crate::cli::Global;
use crate::commands::Context;
use crate::commands::setup::Plan;
use crate::commands::up::{self, Running};
use crate::dirs::Dirs;
use crate::failure::{Because, Code, Failure};
use crate::output::Output;
use crate::wallets;

/// A folder that is removed afterwards, on the disk where Muster's own folder is, so that durable writes cost here what
/// they cost there.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: TempDir,
    /// Muster's folder, where this measurement made it.
    made: Option<PathBuf>,
}

impl Scratch {
    pub(super) fn new(cx: &Context) -> Result<Self, Failure> {
        let root = cx.dirs.root();
        let made = (!root.exists()).then(|| root.to_owned());
        crate::dirs::make_private(root)?;
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(root)
            .because(Code::Io, format!("cannot make a folder in {}", root.display()))?;
        Ok(Self { folder, made })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn remove(self) -> Result<(), Failure> {
        let path = self.folder.path().to_owned();
        self.folder.close().because(Code::Io, format!("cannot remove {}", path.display()))?;
        if let Some(root) = self.made
            && let Err(e) = std::fs::remove_dir(&root)
        {
            tracing::debug!(root = %root.display(), error = %e, "the folder stays");
        }
        Ok(())
    }

    /// The flags of a command of this folder alone.
    fn context(&self, cx: &Context) -> Result<Context, Failure> {
        let global = Global {
            dir: None,
            network: None,
            rpc: None,
            wallet: None,
            passphrase_file: None,
            json: true,
            ..cx.global.clone()
        };
        Ok(Context { dirs: Dirs::resolve(Some(self.path()))?, global, output: Output::new(true), crash_plans: None })
    }
}

/// A network that runs in a scratch folder, and a consumer in it.
pub(super) struct OwnNetwork {
    scratch: Scratch,
    own: Context,
    running: Running,
    /// Rents with the network's own wallet.
    pub(super) renter: Renter,
}

impl OwnNetwork {
    pub(super) async fn start(cx: &Context, plan: &Plan) -> Result<Self, Failure> {
        let scratch = Scratch::new(cx)?;
        let own = scratch.context(cx)?;
        cx.output.note("starting a network for the measurement …");
        let running = Box::pin(up::start(&own, plan, 0)).await?;
        match Self::renter(&own).await {
            Ok(renter) => Ok(Self { scratch, own, running, renter }),
            Err(failure) => {
                running.stop().await;
                Err(failure)
            }
        }
    }

    async fn renter(own: &Context) -> Result<Renter, Failure> {
        let (_, wallet) = wallets::own(&own.dirs, "consumer")?;
        own.renter(Some(wallet)).await
    }

    /// The flags of a command of this network alone.
    pub(super) fn context(&self) -> Context {
        self.own.clone()
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// What each process has spent on a core so far, this one (`consumer`) and those of the network by name.
    pub(super) fn cpu(&self) -> Vec<(String, Duration)> {
        let own = ("consumer".to_owned(), std::process::id());
        let all = std::iter::once(own).chain(self.running.pids());
        all.map(|(role, pid)| (role, cpu_of(pid).unwrap_or_default())).collect()
    }

    /// Stops everything and removes the folder.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.renter.close().await;
        self.running.stop().await;
        self.scratch.remove()
    }
}

/// Time on a core, of a process and in the kernel for it; `None` when the process is not there.
fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.saturating_add(fields.next()?.parse::<u64>().ok()?);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks.saturating_mul(1_000) / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_core_is_read_and_grows() {
        let before = cpu_of(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_of(std::process::id()).unwrap() <= before {
            sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert_eq!(cpu_of(u32::MAX), None);
    }
}
