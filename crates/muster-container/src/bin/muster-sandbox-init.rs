//! The Sandbox's helper as a program of its own: for tests, and for hosts that embed the Sandbox without the `muster` binary.

use muster_container::sandbox::{SANDBOX_INIT, sandbox_init_main};

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == SANDBOX_INIT) {
        sandbox_init_main(args);
    }
    eprintln!("this program is started by Muster's Sandbox, with {SANDBOX_INIT} as its first argument");
    std::process::exit(2);
}
