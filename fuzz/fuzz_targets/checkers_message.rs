//! Bytes that should be a long message between Checkers, fetched by its hash.
#![no_main]

use muster_wire::message::audit::{message_bytes, read_message};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(message) = read_message(data) {
        let bytes = message_bytes(&message).expect("a message that was taken is fit to be sent");
        assert_eq!(read_message(&bytes).expect("what was sent is taken"), message);
    }
});
