//! Compiles the few lines of C between this crate and libvpx, and links the library into the program, so that whoever
//! runs it needs none.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=native/vp8.c");
    // The compiler knows where its system keeps libraries; a bare name in its answer means that there is none.
    let compiler = cc::Build::new().get_compiler();
    let said = Command::new(compiler.path()).arg("-print-file-name=libvpx.a").output().ok();
    let library = said.and_then(|said| String::from_utf8(said.stdout).ok()).unwrap_or_default();
    let place = Path::new(library.trim()).parent().filter(|place| place.is_absolute());
    let Some(place) = place else { panic!("libvpx is missing: apt-get install libvpx-dev") };
    cc::Build::new().file("native/vp8.c").warnings_into_errors(true).compile("muster_vp8");
    println!("cargo:rustc-link-search=native={}", place.display());
    println!("cargo:rustc-link-lib=static=vpx");
}
