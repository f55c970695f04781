//! Text of the registry, by which a stranger says where it is and what its cards are.
#![no_main]

use muster_wire::endpoint::Endpoint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let read = Endpoint::parse(text);
        let text = read.text();
        assert!(text.len() <= muster_wire::endpoint::ENDPOINT_LEN_MAX);
        let again = Endpoint::parse(&text);
        assert!(again.cards.len() <= read.cards.len() && again.direct.len() <= read.direct.len());
    }
});
