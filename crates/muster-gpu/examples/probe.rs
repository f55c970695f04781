//! Prints what this machine has: the cards through a child process, as the roles ask for them, and the host around them.
//!
//! `cargo run -p muster-gpu --example probe`

use std::path::Path;
use std::time::Duration;

use muster_gpu::{GPU_PROBE, HostReport, probe_in_child, probe_main};

#[allow(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).is_some_and(|first| first == GPU_PROBE) {
        return Ok(probe_main()?);
    }
    let report = probe_in_child(&std::env::current_exe()?, Duration::from_secs(30))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    println!("{}", serde_json::to_string_pretty(&HostReport::read(Path::new("."))?)?);
    Ok(())
}
