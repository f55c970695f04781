//! The prover's child process alone: what `muster __gpu-prove` is, without the rest, for tests and for trying drivers.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some(muster_gpu::GPU_PROVE) {
        eprintln!("muster-prove is started by programs, with {}", muster_gpu::GPU_PROVE);
        return ExitCode::from(2);
    }
    match muster_gpu::prove_main() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is gone.
        Err(_) => ExitCode::FAILURE,
    }
}
