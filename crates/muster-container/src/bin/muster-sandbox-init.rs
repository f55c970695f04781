//! The Sandbox's helper and the streaming program as a program of its own: for tests, and for hosts that embed the Sandbox
//! without the `muster` binary.

use muster_container::sandbox::{SANDBOX_INIT, sandbox_init_main};
use muster_stream::{STREAM, stream_main};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_ref().is_some_and(|first| first == SANDBOX_INIT) {
        sandbox_init_main(args);
    }
    if first.is_some_and(|first| first == STREAM) {
        if let Err(error) = stream_main() {
            eprintln!("the streaming program's line to its Container broke: {error}");
            std::process::exit(1);
        }
        return;
    }
    eprintln!(
        "this program is started by Muster's Sandbox, with {SANDBOX_INIT} as its first argument, or by a Container, with {STREAM}"
    );
    std::process::exit(2);
}
