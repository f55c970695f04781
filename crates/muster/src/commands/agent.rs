//! The local agent: signs vouchers and fetches outputs of leases that no command drives any more.

use std::ffi::OsString;

use muster_client::ClientDir;
use muster_client::agent::{self, Ensured, Launch};

use super::{Context, stop_on_signals};
use crate::crashes;
use crate::failure::{Because, Code, Failure};

/// Drives what is open; ends when nothing is.
pub(super) async fn run(cx: &Context) -> Result<u8, Failure> {
    // It drives what others left behind, and a crash that is planned for a command is not meant for it.
    let dir = cx.client_dir()?.watched_by(crashes::watcher(cx.crash_plans.as_deref(), "agent"));
    let stop = stop_on_signals()?;
    agent::run(&dir, stop.cancelled_owned()).await.code(Code::Data)?;
    Ok(0)
}

/// Starts the agent if something is open and none runs: also what was left behind by a reboot.
pub(crate) async fn ensure(cx: &Context, dir: &ClientDir) -> Result<Ensured, Failure> {
    let program = std::env::current_exe().because(Code::Internal, "cannot find this program's own file")?;
    let args: Vec<OsString> =
        vec!["--dir".into(), cx.dirs.root().into(), "--log-format".into(), "json".into(), "agent".into(), "run".into()];
    agent::ensure_running(dir, &Launch { program, args }).await.code(Code::Unreachable)
}
