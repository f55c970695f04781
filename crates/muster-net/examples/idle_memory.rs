//! How much memory an idle peer takes, and each idle connection to it.
//!
//!     cargo run --release -p muster-net --example idle_memory -- 500
//!
//! Binds a peer with the limits of an Indexer, lets a second process connect so many peers to it, each with a stream
//! on which nothing happens, and prints the resident memory of the first process at each step.
#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::process::{Command, Stdio};

use muster_net::{Limits, NodeSecret, Peer, PeerAddr, PeerConfig, Rate, StreamKind, WireError, WireMessage};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Hello;

impl WireMessage for Hello {
    const MAX_LEN: usize = 8;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn clients(addr: PeerAddr, count: usize) -> Result<(), Failure> {
    let mut kept = Vec::new();
    for _ in 0..count {
        let config = PeerConfig { accept: false, ..PeerConfig::new(NodeSecret::generate(), "127.0.0.1:0".parse()?) };
        let peer = Peer::bind(config).await?;
        let mut stream = peer.connect(&addr).await?.open_bi(StreamKind::Presence).await?.framed();
        stream.send(&Hello).await?;
        kept.push((peer, stream));
    }
    println!("connected");
    // Until the other process goes away.
    std::future::pending().await
}

async fn server(count: usize) -> Result<(), Failure> {
    println!("before           {:>8} KiB", resident_kib()?);
    let config = PeerConfig {
        limits: Limits { handshakes: Rate::new(1_000, 1_000), ..Limits::control() },
        ..PeerConfig::new(NodeSecret::generate(), "127.0.0.1:0".parse()?)
    };
    let peer = Peer::bind(config).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let bound = resident_kib()?;
    println!("bound            {bound:>8} KiB");
    let addr = format!("{} {}", peer.id(), peer.listen_addr());
    let mut child =
        Command::new(std::env::current_exe()?).args([addr, count.to_string()]).stdout(Stdio::null()).spawn()?;
    let mut kept = Vec::new();
    for _ in 0..count {
        let connection = peer.accept().await?;
        let mut stream = connection.accept_bi().await?.framed();
        stream.recv::<Hello>().await?;
        kept.push((connection, stream));
    }
    // Past the handshakes' own needs.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let idle = resident_kib()?;
    println!("{count:>5} connections {idle:>8} KiB, {:.1} KiB each", (idle - bound) as f64 / count as f64);
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [addr, count] => {
            let (id, listen) = addr.split_once(' ').ok_or("usage: idle_memory COUNT")?;
            clients(PeerAddr::new(id.parse()?).with_direct(listen.parse()?), count.parse()?).await
        }
        [count] => server(count.parse()?).await,
        _ => server(500).await,
    }
}
