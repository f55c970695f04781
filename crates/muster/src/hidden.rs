//! Re-executions of this same binary: inside a Sandbox, and for probing drivers that may crash.

use std::process::ExitCode;

/// The subcommand that sets a job's last limits and becomes it.
pub(crate) const SANDBOX_INIT: &str = "__sandbox-init";
/// The subcommand that asks the drivers and prints what they say as JSON.
pub(crate) const GPU_PROBE: &str = "__gpu-probe";

/// Runs a hidden subcommand, if this is one.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let first = args.next()?;
    if first == SANDBOX_INIT {
        muster_container::sandbox::sandbox_init_main(args);
    }
    if first == GPU_PROBE {
        return Some(match muster_gpu::probe_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("muster: the probe's findings cannot be written: {e}");
                ExitCode::FAILURE
            }
        });
    }
    if first == muster_gpu::GPU_PROVE {
        return Some(match muster_gpu::prove_main() {
            Ok(()) => ExitCode::SUCCESS,
            // Whoever asked is gone; there is nobody to tell.
            Err(_) => ExitCode::FAILURE,
        });
    }
    if first == crate::engines::ENGINE {
        // Its standard error is the log of the lease.
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .init();
        return Some(muster_engine::child::main());
    }
    if first == crate::engines::BARE {
        return Some(match crate::engines::bare_main(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("muster: llama.cpp by itself is not measured: {why}");
                ExitCode::FAILURE
            }
        });
    }
    if first == muster_stream::STREAM {
        return Some(match muster_stream::stream_main() {
            Ok(()) => ExitCode::SUCCESS,
            // The Container is gone, and the session with it.
            Err(_) => ExitCode::FAILURE,
        });
    }
    if first == muster_stream::METER {
        return Some(match muster_stream::meter_main(args.map(|arg| arg.to_string_lossy().into_owned())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("muster: the latency meter ends: {e}");
                ExitCode::FAILURE
            }
        });
    }
    None
}
