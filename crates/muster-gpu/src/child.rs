//! The probe as a child process.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::report::GpuReport;

/// First argument with which the probing program must call [`probe_main`].
pub const GPU_PROBE: &str = "__gpu-probe";

const REPORT_BYTES_MAX: u64 = 1 << 20;
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The child could not be started.
    #[error("cannot start {}", exe.display())]
    Start {
        /// The program.
        exe: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The child took too long and was killed: usually a driver that hangs.
    #[error("the graphics drivers did not answer within {} s: check them with nvidia-smi or vulkaninfo", waited.as_secs_f32())]
    TimedOut {
        /// How long it was given.
        waited: Duration,
    },
    /// The child failed: usually a driver that crashed.
    #[error("asking the graphics drivers failed ({status}): check them with nvidia-smi or vulkaninfo")]
    Failed {
        /// How the child ended.
        status: ExitStatus,
    },
    /// The child said something else than a report.
    #[error("{} answered with no readable report", exe.display())]
    Garbled {
        /// The program.
        exe: PathBuf,
        /// What was wrong with it.
        source: serde_json::Error,
    },
    /// The operating system refused to let us watch the child.
    #[error("cannot wait for the probe")]
    Wait {
        /// Why not.
        source: io::Error,
    },
}

/// Body of the child: probes and prints the report as one line of JSON to standard output.
///
/// # Errors
///
/// When standard output cannot be written.
pub fn probe_main() -> io::Result<()> {
    let mut line = serde_json::to_vec(&crate::probe())?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}

/// Runs `exe __gpu-probe` and reads its report. Blocks for `timeout` at most.
///
/// # Errors
///
/// See [`ProbeError`]; the child is gone in every case.
pub fn probe_in_child(exe: &Path, timeout: Duration) -> Result<GpuReport, ProbeError> {
    let mut child = Command::new(exe)
        .arg(GPU_PROBE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| ProbeError::Start { exe: exe.to_path_buf(), source })?;
    let text = child.stdout.take().map(read_aside);
    let status = wait(&mut child, timeout)?;
    // The child has ended, so the reader is at its end too, unless a grandchild of a driver holds the pipe.
    let text = text.and_then(|text| text.recv_timeout(timeout).ok()).unwrap_or_default();
    if !status.success() {
        return Err(ProbeError::Failed { status });
    }
    serde_json::from_slice(&text).map_err(|source| ProbeError::Garbled { exe: exe.to_path_buf(), source })
}

/// Reads in a thread of its own, so that a child that fills the pipe does not wait for us while we wait for it.
fn read_aside(pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is judged like any other text; nobody may be waiting any more.
        let _ = pipe.take(REPORT_BYTES_MAX).read_to_end(&mut text);
        let _ = sender.send(text);
    });
    receiver
}

fn wait(child: &mut Child, timeout: Duration) -> Result<ExitStatus, ProbeError> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if begun.elapsed() < timeout => thread::sleep(LOOK_PAUSE),
            Ok(None) => {
                // It may have ended in this very moment; waiting reaps it either way.
                let _ = child.kill();
                let _ = child.wait();
                return Err(ProbeError::TimedOut { waited: timeout });
            }
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ProbeError::Wait { source });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn fake(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("probe");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o755).open(&path).expect("file");
        file.write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).expect("write");
        path
    }

    #[test]
    fn crashes_hangs_and_nonsense_are_told_apart() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let ask =
            |script: &str, wait_ms: u64| probe_in_child(&fake(dir.path(), script), Duration::from_millis(wait_ms));
        let empty = r#"echo '{"gpus":[],"software":[],"notes":["n"]}'"#;
        assert_eq!(ask(empty, 20_000).expect("a report").notes, ["n"]);
        assert!(matches!(ask("kill -SEGV $$", 20_000), Err(ProbeError::Failed { .. })));
        assert!(matches!(ask("echo hello", 20_000), Err(ProbeError::Garbled { .. })));
        assert!(matches!(ask("exec sleep 1000", 200), Err(ProbeError::TimedOut { .. })));
        assert!(matches!(
            ask("head -c 3000000 /dev/zero", 20_000),
            Err(ProbeError::Garbled { .. } | ProbeError::Failed { .. })
        ));
        let absent = probe_in_child(Path::new("/no/such/program"), Duration::from_secs(1));
        assert!(matches!(absent, Err(ProbeError::Start { .. })));
    }

    #[test]
    fn this_machine_can_be_probed() {
        // Whatever is installed: no card without a name, no software among the cards, and the report survives its JSON.
        let report = crate::probe();
        assert!(report.gpus.iter().all(|gpu| !gpu.name.is_empty() && (gpu.nvml || gpu.vulkan)));
        assert!(!report.gpus.iter().any(|gpu| gpu.name.to_lowercase().contains("llvmpipe")));
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<GpuReport>(&text).expect("JSON"), report);
    }
}
