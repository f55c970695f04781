//! `muster doctor`: what this machine can offer, what is missing, and the command that installs it.

mod models;
mod network;
mod tell;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use muster_container::sandbox::{Capabilities, Finding, Sandbox, SandboxConfig, Severity};
use muster_gpu::{GpuReport, HostReport};
use serde::Serialize;

use self::network::NetworkReport;
use super::Context;
use super::container_admin::init::{existing, probe_gpus};
use crate::failure::{Because, Code, Failure};

/// How a finding names the packages that mend it.
const INSTALL: &str = "run: apt-get install ";
/// Least memory and disk with which a Container is of any use, in bytes.
const MEMORY_MIN: u64 = 256 << 20;
const DISK_MIN: u64 = 1 << 30;

/// A program that something beside the Sandbox needs.
#[derive(Debug, Serialize)]
struct Program {
    name: &'static str,
    /// Debian's package.
    package: &'static str,
    /// For what.
    needed_for: &'static str,
    path: Option<PathBuf>,
}

/// All that was found, for programs.
#[derive(Debug, Serialize)]
struct Report {
    machine: HostReport,
    gpus: GpuReport,
    /// The layers of the Sandbox; absent when they could not be tried.
    sandbox: Option<Capabilities>,
    programs: Vec<Program>,
    models: models::Models,
    network: Option<NetworkReport>,
    /// What keeps a Container from running here, sentences.
    missing: Vec<String>,
    /// One command that installs what can be installed.
    install: Option<String>,
    can_serve: bool,
}

/// Looks, tells, and ends with 0 if a Container could run here.
pub(super) async fn run(cx: &Context) -> Result<u8, Failure> {
    if cx.dirs.root().exists() {
        cx.dirs.prepare()?;
    }
    let folder = existing(cx.dirs.root()).to_owned();
    let machine = HostReport::read(&folder).because(Code::Internal, "the machine cannot be looked at")?;
    let gpus = probe_gpus().await;
    let mut missing = Vec::new();
    let sandbox = match tokio::task::spawn_blocking(move || capabilities(&folder)).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(why)) => {
            missing.push(format!("the Sandbox could not be tried: {why}"));
            None
        }
        Err(e) => {
            missing.push(format!("the Sandbox could not be tried: {e}"));
            None
        }
    };
    missing.extend(sandbox.iter().flat_map(Capabilities::missing).map(|f| f.to_string()));
    if machine.memory_bytes < MEMORY_MIN {
        missing.push("less than 256 MiB of memory: too little for a Container".to_owned());
    }
    if machine.disk_free_bytes < DISK_MIN {
        missing.push(format!(
            "less than 1 GiB of disk is free under {}; make room, or name a folder on another disk with --dir",
            cx.dirs.root().display()
        ));
    }
    let programs = programs();
    let install = install_command(sandbox.as_ref().map_or(&[], |s| &s.findings), &programs);
    let network = network::look(cx).await?;
    let can_serve = missing.is_empty();
    let models = models::look(&gpus.gpus);
    let report = Report { machine, gpus, sandbox, programs, models, network, missing, install, can_serve };
    cx.output.result(&report, || tell::text(&report));
    Ok(if can_serve { 0 } else { Code::Missing as u8 })
}

/// Tries the layers of the Sandbox in a folder of its own, on the disk where a Container's folder would be.
fn capabilities(folder: &Path) -> Result<Capabilities, String> {
    let trial = tempfile::Builder::new().prefix(".muster-doctor-").tempdir_in(folder);
    // Somebody who may not write there still learns the rest.
    let trial = trial.or_else(|_| tempfile::tempdir()).map_err(|e| e.to_string())?;
    let config = SandboxConfig::new(trial.path()).map_err(|e| e.to_string())?;
    let found = Sandbox::probe(&config);
    trial.close().map_err(|e| e.to_string())?;
    Ok(found)
}

fn programs() -> Vec<Program> {
    let rental = "the first rental of `muster up`";
    [("povray", "povray", rental), ("ffmpeg", "ffmpeg", rental)]
        .map(|(name, package, needed_for)| Program { name, package, needed_for, path: find_program(name) })
        .into()
}

/// A program of the search path.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// One command for all packages that are missing.
fn install_command(findings: &[Finding], programs: &[Program]) -> Option<String> {
    let named = findings.iter().filter(|f| f.severity != Severity::Fine).filter_map(|f| f.mend.strip_prefix(INSTALL));
    let mut packages: BTreeSet<&str> = named.flat_map(str::split_whitespace).collect();
    packages.extend(programs.iter().filter(|p| p.path.is_none()).map(|p| p.package));
    if packages.is_empty() {
        return None;
    }
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
    let packages: Vec<&str> = packages.into_iter().collect();
    Some(format!("{sudo}apt-get install -y {}", packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_installs_all_that_is_missing() {
        let finding = |severity, mend: &str| Finding {
            layer: "x".to_owned(),
            severity,
            found: "y".to_owned(),
            mend: mend.to_owned(),
        };
        let findings = [
            finding(Severity::Missing, "run: apt-get install bubblewrap"),
            finding(Severity::Degraded, "run: apt-get install slirp4netns iproute2"),
            finding(Severity::Degraded, "run the Container as root for an exact limit"),
            finding(Severity::Fine, "run: apt-get install not-this"),
        ];
        let program = |path| Program { name: "povray", package: "povray", needed_for: "z", path };
        let command = install_command(&findings, &[program(None)]).unwrap();
        assert!(command.ends_with("apt-get install -y bubblewrap iproute2 povray slirp4netns"), "{command}");
        assert_eq!(install_command(&[], &[program(Some("/usr/bin/povray".into()))]), None);
    }

    #[test]
    fn programs_are_found_on_the_search_path() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-at-all"), None);
    }
}
