//! What a node says of itself in the registry, as text of at most 256 bytes: where it is dialled, and what its cards are.
//!
//! Words with a space between them, in any order:
//!
//! | word | says |
//! | --- | --- |
//! | `192.0.2.1:7000` | an address to dial |
//! | `http://192.0.2.2:80` | the relay that reaches it |
//! | `gpu=rtx4090:127000:24576` | a card: model in its one spelling, hundredths of an OctaneBench point, MiB of memory |
//! | `gpu=rtx4090:127000:24576*8` | eight such cards |
//!
//! A stranger wrote it, and a later version may say more: words that are not understood are passed over.

use std::net::SocketAddr;

use muster_core::hardware::{BYTES_MAX, GPUS_MAX, GpuModel, OB_MAX};
use muster_core::ids::NodeId;
use muster_core::proof::Claim;
use muster_core::protocol::NodeAddr;
use muster_core::units::{Bytes, Ob};

use crate::addr::DIRECT_MAX;

/// The longest text that the registry takes, in bytes.
pub const ENDPOINT_LEN_MAX: usize = 256;

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Addresses to dial.
    pub direct: Vec<SocketAddr>,
    /// The relay that reaches it.
    pub relay: Option<String>,
    /// Its cards, in the order in which it offers them; a Container without a card names its processor as one.
    pub cards: Vec<Claim>,
}

impl Endpoint {
    /// Reads what it can of a text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for word in text.split_ascii_whitespace().take(64) {
            if let Some(card) = word.strip_prefix("gpu=") {
                let Some((claim, count)) = card_of(card) else { continue };
                let room = GPUS_MAX.saturating_sub(read.cards.len());
                read.cards.extend(std::iter::repeat_n(claim, count.min(room)));
            } else if word.starts_with("http://") || word.starts_with("https://") {
                read.relay.get_or_insert_with(|| word.to_owned());
            } else if let Ok(addr) = word.parse::<SocketAddr>()
                && read.direct.len() < DIRECT_MAX
                && addr.port() != 0
                && !addr.ip().is_unspecified()
                && !addr.ip().is_multicast()
            {
                read.direct.push(addr);
            }
        }
        read
    }

    /// As text: cards first, then as many addresses as fit.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |word: &str| {
            if text.len() + word.len() < ENDPOINT_LEN_MAX {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(word);
            }
        };
        for same in self.cards.chunk_by(|a, b| a == b) {
            let Some(card) = same.first() else { continue };
            let mib = card.vram.0 >> 20;
            let many = if same.len() > 1 { format!("*{}", same.len()) } else { String::new() };
            add(&format!("gpu={}:{}:{mib}{many}", card.model, card.ob.0));
        }
        self.direct.iter().for_each(|addr| add(&addr.to_string()));
        self.relay.iter().for_each(|relay| add(relay));
        text
    }

    /// All cards together.
    #[must_use]
    pub fn ob(&self) -> Ob {
        Ob(self.cards.iter().fold(0u32, |sum, card| sum.saturating_add(card.ob.0)))
    }

    /// How the node with this key is dialled.
    #[must_use]
    pub fn addr(&self, id: NodeId) -> NodeAddr {
        NodeAddr { id, direct: self.direct.clone(), relay: self.relay.clone() }
    }
}

fn card_of(word: &str) -> Option<(Claim, usize)> {
    let (card, count) = match word.split_once('*') {
        Some((card, count)) => (card, count.parse::<usize>().ok()?),
        None => (word, 1),
    };
    let mut parts = card.split(':');
    let (model, ob, mib) = (parts.next()?, parts.next()?, parts.next()?);
    let ob = Ob(ob.parse().ok()?);
    let vram = Bytes(mib.parse::<u64>().ok()?.checked_mul(1 << 20)?);
    let fits = parts.next().is_none() && ob <= OB_MAX && vram <= BYTES_MAX;
    fits.then_some((Claim { model: GpuModel::new(model).ok()?, ob, vram }, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card(model: &str, ob: u32, mib: u64) -> Claim {
        Claim { model: GpuModel::new(model).unwrap(), ob: Ob(ob), vram: Bytes(mib << 20) }
    }

    #[test]
    fn what_is_written_is_read() {
        let cards =
            vec![card("RTX 4090", 127_000, 24_576), card("RTX 4090", 127_000, 24_576), card("processor", 5, 64)];
        let said = Endpoint {
            direct: vec!["192.0.2.1:7000".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()],
            relay: Some("http://192.0.2.2:80".to_owned()),
            cards,
        };
        let text = said.text();
        assert!(text.starts_with("gpu=rtx4090:127000:24576*2 gpu=processor:5:64 192.0.2.1:7000 "), "{text}");
        assert_eq!(Endpoint::parse(&text), said);
        assert_eq!(said.ob(), Ob(254_005));
    }

    #[test]
    fn what_cannot_be_is_passed_over() {
        let text = "gpu=:1:1 gpu=x gpu=a:1:1:1 gpu=a:99999999999:1 gpu=b:1:99999999999999 0.0.0.0:5 192.0.2.1:0 hello";
        assert_eq!(Endpoint::parse(text), Endpoint::default());
        assert_eq!(Endpoint::parse("gpu=a100:1:1*100000").cards.len(), GPUS_MAX);
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic_and_none_is_too_long(text in ".{0,300}", ports in proptest::collection::vec(1u16.., 0..60)) {
            let mut read = Endpoint::parse(&text);
            read.direct.extend(ports.into_iter().map(|port| SocketAddr::from(([192, 0, 2, 1], port))));
            prop_assert!(read.text().len() <= ENDPOINT_LEN_MAX);
        }
    }
}
