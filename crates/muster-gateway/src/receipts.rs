//! Receipts of players: signed by the browser that played, verified here, and told to the Indexer that found the
//! Container when the lease is over.
//!
//! Of a receipt only the codes count for or against a Container: that the picture was made just now and for this player
//! cannot be the fault of a slow line, and the rest can. Checkers, who come as players on good lines, look at the rest.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::delivery::{Asked, CODE_MS_MAX, Receipts, Tally};
use muster_core::ids::LeaseId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::refusal::Refusal;

/// Receipts that are kept of a session: an hour and a half of them.
const RECEIPTS_MAX: usize = 540;
/// The longest time that a receipt is for.
const SPAN_MS_MAX: u64 = 120_000;
/// A page that is loaded again reads its clock anew.
const SKEW_MS: u64 = 1_000;
/// Codes of one receipt.
const CODES_MAX: usize = 32;
/// Leases of one session that are told of: it may have been moved to other Containers.
const LEASES_MAX: usize = 16;
/// What stands before the point of a P-256 key in SPKI (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a point: a mark, x and y.
const POINT: usize = 65;

/// A receipt as the player signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Receipt {
    /// Canonical JSON.
    pub(crate) payload: String,
    /// ECDSA P-256 over SHA-256 of the payload, base64.
    pub(crate) signature: String,
}

/// What a session's receipts came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DeliveryState {
    /// Spans of time in which the picture was fresh.
    pub(crate) good: u32,
    /// Spans in which it was not.
    pub(crate) poor: u32,
}

/// A receipt's payload.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    session: String,
    seq: u64,
    from: u64,
    to: u64,
    fps: f64,
    latency_p95_ms: Option<f64>,
    loss: f64,
    bitrate_bps: u64,
    freezes: u64,
    freeze_ms: u64,
    /// Of the decoded picture; pages of before do not say it.
    #[serde(default)]
    width: u16,
    #[serde(default)]
    height: u16,
    codes: Vec<CodeSeen>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeSeen {
    /// Which; that it was the right one is the player's to see.
    #[serde(rename = "code")]
    _code: u32,
    asked: u64,
    seen: Option<u64>,
}

/// The receipts of one session.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    kept: Vec<Receipt>,
    /// The number that each player's next receipt has at least, and when its last one ended.
    next: Vec<(u64, u64, u64)>,
    leases: Vec<(LeaseId, Tally)>,
}

/// Whether a text is a key that receipts can be verified with.
pub(crate) fn is_key(spki: &str) -> bool {
    point(spki).is_some()
}

fn point(spki: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(spki).ok()?;
    let point = bytes.strip_prefix(&SPKI_P256)?;
    (point.len() == POINT).then(|| point.to_vec())
}

fn verified(receipt: &Receipt, spki: &str) -> bool {
    let Some((point, signature)) = point(spki).zip(STANDARD.decode(&receipt.signature).ok()) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(receipt.payload.as_bytes(), &signature).is_ok()
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::bad("bad_receipt", why)
}

impl Payload {
    fn check(&self, session: &str) -> Result<(), Refusal> {
        if self.session != session {
            return Err(bad("the receipt is for another session"));
        }
        if self.to <= self.from || self.to - self.from > SPAN_MS_MAX {
            return Err(bad(format!("a receipt is for more than 0 and at most {SPAN_MS_MAX} ms")));
        }
        if self.codes.len() > CODES_MAX {
            return Err(bad(format!("a receipt names at most {CODES_MAX} codes")));
        }
        let figures = [self.fps, self.loss, self.latency_p95_ms.unwrap_or(0.0)];
        if figures.iter().any(|figure| !figure.is_finite() || *figure < 0.0) || self.loss > 1.0 {
            return Err(bad("a figure of the receipt is out of bounds"));
        }
        Ok(())
    }

    fn codes(&self) -> Asked {
        let took = |code: &CodeSeen| code.seen?.checked_sub(code.asked).and_then(|ms| u32::try_from(ms).ok());
        let seen: Vec<u32> = self.codes.iter().filter_map(took).filter(|ms| *ms <= CODE_MS_MAX).collect();
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Asked {
            asked: count(self.codes.len()),
            seen: count(seen.len()),
            ms_p95: seen.iter().copied().max().unwrap_or(0),
        }
    }
}

impl Ledger {
    /// Takes a receipt of a player, on the lease that runs. Whether the picture has just turned out to be stale.
    pub(crate) fn take(
        &mut self,
        session: &str,
        (player, key): (u64, Option<&str>),
        lease: Option<LeaseId>,
        receipt: Receipt,
    ) -> Result<bool, Refusal> {
        let key = key.ok_or_else(|| bad("this player named no key for receipts when it joined"))?;
        if !verified(&receipt, key) {
            return Err(bad("the signature under the receipt is not by the key that this player named"));
        }
        let payload: Payload = serde_json::from_str(&receipt.payload).map_err(|e| bad(format!("the payload: {e}")))?;
        payload.check(session)?;
        let at = self.next.iter().position(|(who, ..)| *who == player);
        if let Some((_, next, ended)) = at.and_then(|at| self.next.get(at))
            && (payload.seq < *next || payload.from.saturating_add(SKEW_MS) < *ended)
        {
            return Err(bad("a receipt of this player for this time is here already"));
        }
        let place = (player, payload.seq.saturating_add(1), payload.to);
        match at.and_then(|at| self.next.get_mut(at)) {
            Some(known) => *known = place,
            None => self.next.push(place),
        }
        if self.kept.len() >= RECEIPTS_MAX {
            self.kept.remove(0);
        }
        self.kept.push(receipt);
        Ok(lease.is_some_and(|lease| self.count(payload.codes(), lease)))
    }

    /// Counts it for the lease that runs: what another Container was asked is not for this one to answer.
    fn count(&mut self, codes: Asked, lease: LeaseId) -> bool {
        if let Some((_, tally)) = self.leases.iter_mut().find(|(known, _)| *known == lease) {
            return tally.take(codes);
        }
        if self.leases.len() >= LEASES_MAX {
            self.leases.remove(0);
        }
        let mut tally = Tally::default();
        let stale = tally.take(codes);
        self.leases.push((lease, tally));
        stale
    }

    pub(crate) fn kept(&self) -> Vec<Receipt> {
        self.kept.clone()
    }

    /// What the Indexers are to be told.
    pub(crate) fn leases(&self) -> Vec<(LeaseId, Receipts)> {
        let all = self.leases.iter().map(|(lease, tally)| (*lease, tally.receipts()));
        all.filter(|(_, receipts)| *receipts != Receipts::default()).collect()
    }

    pub(crate) fn state(&self) -> DeliveryState {
        let sum = |of: fn(&Receipts) -> u32| {
            self.leases.iter().map(|(_, tally)| of(&tally.receipts())).fold(0, u32::saturating_add)
        };
        DeliveryState { good: sum(|r| r.good), poor: sum(|r| r.poor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    const LEASE: LeaseId = LeaseId([7; 32]);

    struct Browser(EcdsaKeyPair, SystemRandom);

    impl Browser {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), SystemRandom::new())
        }

        fn spki(&self) -> String {
            STANDARD.encode([&SPKI_P256[..], self.0.public_key().as_ref()].concat())
        }

        fn receipt(&self, seq: u64, seen: &[bool]) -> Receipt {
            let codes: Vec<_> = seen
                .iter()
                .map(|seen| json!({"code": 7, "asked": seq * 10_000, "seen": seen.then_some(seq * 10_000 + 80)}))
                .collect();
            let payload = json!({
                "session": "s", "seq": seq, "from": seq * 10_000, "to": seq * 10_000 + 10_000, "fps": 59.9,
                "latency_p95_ms": 30.1, "loss": 0.01, "bitrate_bps": 1, "freezes": 0, "freeze_ms": 0,
                "width": 1280, "height": 720, "codes": codes,
            });
            self.signed(payload.to_string())
        }

        fn signed(&self, payload: String) -> Receipt {
            let signature = self.0.sign(&self.1, payload.as_bytes()).unwrap();
            Receipt { payload, signature: STANDARD.encode(signature.as_ref()) }
        }
    }

    fn code(refused: Result<bool, Refusal>) -> String {
        format!("{:?}", refused.unwrap_err())
    }

    #[test]
    fn codes_that_are_not_seen_count_against_the_container() {
        let (browser, mut ledger) = (Browser::new(), Ledger::default());
        let spki = browser.spki();
        let mut take = |seq, seen: &[bool]| {
            let receipt = browser.receipt(seq, seen);
            let stale = ledger.take("s", (1, Some(&spki)), Some(LEASE), receipt).unwrap();
            (stale, ledger.state().good, ledger.state().poor)
        };
        assert_eq!(take(0, &[true]), (false, 0, 0));
        assert_eq!(take(1, &[]), (false, 0, 0));
        assert_eq!(take(2, &[true]), (false, 1, 0));
        assert_eq!(take(3, &[false, false]), (false, 1, 1));
        assert_eq!(take(4, &[false, false]), (false, 1, 2));
        assert_eq!(take(5, &[false, false]), (true, 1, 3));
        assert_eq!(take(6, &[true, false]), (false, 2, 3));
        assert_eq!(ledger.leases(), [(LEASE, Receipts { good: 2, poor: 3, poor_in_a_row: 0 })]);
        assert_eq!(ledger.kept().len(), 7);
    }

    #[test]
    fn what_is_not_signed_or_not_new_is_refused() {
        let (browser, other, mut ledger) = (Browser::new(), Browser::new(), Ledger::default());
        let spki = browser.spki();
        assert!(is_key(&spki) && !is_key("AAAA") && !is_key("!"));
        let mut take = |key: Option<&str>, receipt| ledger.take("s", (1, key), Some(LEASE), receipt);
        let good = browser.receipt(3, &[true, true]);
        assert!(code(take(None, good.clone())).contains("no key"));
        assert!(code(take(Some(&spki), other.receipt(3, &[true]))).contains("signature"));
        let changed = Receipt { payload: good.payload.replace("59.9", "60.0"), ..good.clone() };
        assert!(code(take(Some(&spki), changed)).contains("signature"));
        take(Some(&spki), good.clone()).unwrap();
        assert!(code(take(Some(&spki), good)).contains("already"));
        assert!(code(take(Some(&spki), browser.receipt(2, &[]))).contains("already"));
        let wrong = |from: &str, to: &str| browser.signed(browser.receipt(9, &[]).payload.replace(from, to));
        assert!(code(take(Some(&spki), wrong("\"s\"", "\"t\""))).contains("another session"));
        assert!(code(take(Some(&spki), wrong("100000", "1000000"))).contains("at most"));
        assert!(code(take(Some(&spki), wrong("0.01", "1.01"))).contains("out of bounds"));
        assert!(code(take(Some(&spki), browser.signed("{".to_owned()))).contains("payload"));
        let many = browser.receipt(9, &[true; CODES_MAX + 1]);
        assert!(code(take(Some(&spki), many)).contains("32 codes"));
    }
}
