//! Live sessions from end to end: a display without a screen, the streaming child, a program that draws, and players that
//! speak WebRTC, all on this machine. Needs `Xvfb` (Debian: `xvfb`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod aiortc;
mod apart;
mod canvas;
mod cheats;
mod child;
mod h264;
mod net;
mod rig;
mod session;
mod skew;
mod sound;
mod stranger;
mod wire;

/// Not a test: the process that the others start as the child.
#[test]
fn streams_for_the_other_tests() {
    if std::env::var_os(rig::CHILD).is_some()
        && let Err(error) = muster_stream::stream_main()
    {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// Not a test: the process that the others start as the program that is played.
#[test]
fn meters_for_the_other_tests() {
    if std::env::var_os(aiortc::CHILD).is_some()
        && let Err(error) = muster_stream::meter_main([])
    {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
