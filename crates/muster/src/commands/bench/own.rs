//! A network for a measurement: in a folder of its own, with processes of its own, gone afterwards.

use std::path::{Path, PathBuf};

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
            Ok(renter) => Ok(Self { scratch, running, renter }),
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

    /// Stops everything and removes the folder.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.renter.close().await;
        self.running.stop().await;
        self.scratch.remove()
    }
}
