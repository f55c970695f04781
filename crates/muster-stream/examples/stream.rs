//! The child process alone, for trying it against a display that is there already.

fn main() -> std::io::Result<()> {
    muster_stream::stream_main()
}
