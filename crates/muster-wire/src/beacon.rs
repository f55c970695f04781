//! Public randomness: the rounds of a drand beacon, verified, and the same rounds of a development network's own key.
//!
//! The scheme is `bls-unchained-g1-rfc9380`, drand's quicknet: a signature is a compressed point of G1 of BLS12-381
//! over the SHA-256 of the round's number (8 bytes, big-endian), the key a point of G2, the randomness the SHA-256 of
//! the signature (<https://docs.drand.love/docs/cryptography>).

use blst::min_sig::{PublicKey, SecretKey, Signature};
use blst::{BLST_ERROR, blst_sha256};
use muster_core::beacon::BeaconSchedule;

/// Domain separation of hashing to G1 (RFC 9380).
const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
/// The name of the scheme in drand's API.
pub const SCHEME: &str = "bls-unchained-g1-rfc9380";

/// A compressed point of G1: a round's signature.
pub type RoundSignature = [u8; 48];
/// A compressed point of G2: a beacon's key.
pub type BeaconKey = [u8; 96];
/// What a round decides draws by.
pub type Randomness = [u8; 32];

/// Why a round or a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The bytes are no point of the right group.
    #[error("the beacon's public key is not a point of BLS12-381's G2")]
    BadKey,
    /// The bytes are no point, or not the beacon's signature over this round.
    #[error("the signature of round {round} is not the beacon's")]
    BadSignature {
        /// The round.
        round: u64,
    },
    /// A period of zero.
    #[error("the beacon's period is zero")]
    NoPeriod,
    /// No secret key of the scheme.
    #[error("the beacon's secret key must be 32 bytes of a number between 1 and the order of the curve")]
    BadSecret,
}

/// A beacon: its key, and when its rounds come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    key: PublicKey,
    schedule: BeaconSchedule,
    seed: [u8; 32],
    id: String,
}

impl Beacon {
    /// A beacon with this key, checked to be one.
    ///
    /// # Errors
    /// The key is no point of G2, or the period is zero.
    pub fn new(public_key: &BeaconKey, schedule: BeaconSchedule) -> Result<Self, BeaconError> {
        if schedule.period_s == 0 {
            return Err(BeaconError::NoPeriod);
        }
        let key = PublicKey::key_validate(public_key).map_err(|_| BeaconError::BadKey)?;
        Ok(Self { key, schedule, seed: [0; 32], id: "muster".to_owned() })
    }

    /// drand's quicknet.
    #[must_use]
    pub fn quicknet() -> Self {
        let key = PublicKey::key_validate(&QUICKNET_KEY).expect("quicknet's key is a point of G2");
        let schedule = BeaconSchedule { genesis_s: 1_692_803_367, period_s: 3 };
        Self { key, schedule, seed: QUICKNET_SEED, id: "quicknet".to_owned() }
    }

    /// The key, compressed.
    #[must_use]
    pub fn public_key(&self) -> BeaconKey {
        self.key.compress()
    }

    /// When its rounds come.
    #[must_use]
    pub fn schedule(&self) -> BeaconSchedule {
        self.schedule
    }

    /// What seeded the key's making in drand's API; zero for a development network's.
    #[must_use]
    pub fn group_seed(&self) -> [u8; 32] {
        self.seed
    }

    /// The beacon's short name in drand's API.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash that drand's API names the beacon by.
    #[must_use]
    pub fn chain_hash(&self) -> [u8; 32] {
        let mut text = Vec::with_capacity(160);
        text.extend_from_slice(&u32::try_from(self.schedule.period_s).unwrap_or(u32::MAX).to_be_bytes());
        text.extend_from_slice(&self.schedule.genesis_s.to_be_bytes());
        text.extend_from_slice(&self.public_key());
        text.extend_from_slice(&self.seed);
        text.extend_from_slice(self.id.as_bytes());
        sha256(&text)
    }

    /// The last round that is due at a time in Unix seconds; `None` before the first.
    #[must_use]
    pub fn round_at(&self, now_s: u64) -> Option<u64> {
        self.schedule.round_at(now_s)
    }

    /// The randomness of a round, if the signature is this beacon's.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&self, round: u64, signature: &RoundSignature) -> Result<Randomness, BeaconError> {
        let wrong = BeaconError::BadSignature { round };
        let point = Signature::sig_validate(signature, true).map_err(|_| wrong)?;
        // The key was checked when the beacon was made, the signature's group just now.
        match point.verify(false, &message(round), DST, &[], &self.key, false) {
            BLST_ERROR::BLST_SUCCESS => Ok(sha256(signature)),
            _ => Err(wrong),
        }
    }

    /// The key as the contract takes it: a point of G2 as EIP-2537 writes it (x.c0, x.c1, y.c0, y.c1).
    #[must_use]
    pub fn key_words(&self) -> [[u8; 32]; 8] {
        // Uncompressed: x.c1, x.c0, y.c1, y.c0, 48 bytes each.
        let plain = self.key.serialize();
        words([&plain[48..96], &plain[..48], &plain[144..], &plain[96..144]])
    }
}

/// A round's signature as the contract takes it: a point of G1 as EIP-2537 writes it (x, y).
///
/// # Errors
/// The bytes are no point.
pub fn signature_words(round: u64, signature: &RoundSignature) -> Result<[[u8; 32]; 4], BeaconError> {
    let point = Signature::sig_validate(signature, true).map_err(|_| BeaconError::BadSignature { round })?;
    let plain = point.serialize();
    Ok(words([&plain[..48], &plain[48..]]))
}

/// Numbers of 48 bytes, each in two words of which the first begins with 16 zeros.
fn words<const N: usize, const W: usize>(numbers: [&[u8]; N]) -> [[u8; 32]; W] {
    let mut all = [[0; 32]; W];
    for (number, pair) in numbers.into_iter().zip(all.chunks_exact_mut(2)) {
        let (high, low) = number.split_at(16);
        pair[0][16..].copy_from_slice(high);
        pair[1].copy_from_slice(low);
    }
    all
}

/// The secret of a development network's own beacon.
pub struct BeaconSecret(SecretKey);

impl std::fmt::Debug for BeaconSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeaconSecret(..)")
    }
}

impl BeaconSecret {
    /// A secret from 32 random bytes.
    #[must_use]
    pub fn generate(random: &[u8; 32]) -> Self {
        Self(SecretKey::key_gen(random, &[]).expect("32 bytes are enough to make a key of"))
    }

    /// From the bytes that [`BeaconSecret::to_bytes`] gave.
    ///
    /// # Errors
    /// They are no secret key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BeaconError> {
        SecretKey::from_bytes(bytes).map(Self).map_err(|_| BeaconError::BadSecret)
    }

    /// The bytes of the secret, for a file that only its owner reads.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key that goes with it.
    #[must_use]
    pub fn public_key(&self) -> BeaconKey {
        self.0.sk_to_pk().compress()
    }

    /// Signs a round.
    #[must_use]
    pub fn sign(&self, round: u64) -> RoundSignature {
        self.0.sign(&message(round), DST, &[]).compress()
    }
}

/// What is signed for a round.
fn message(round: u64) -> [u8; 32] {
    sha256(&round.to_be_bytes())
}

/// SHA-256, by the library that is here for the curve anyway.
#[allow(unsafe_code, reason = "blst offers its SHA-256 as a C function only")]
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // SAFETY: the function reads `len` bytes of the slice and writes 32 bytes, which `hash` has.
    unsafe { blst_sha256(hash.as_mut_ptr(), bytes.as_ptr(), bytes.len()) };
    hash
}

/// quicknet's key: <https://api.drand.sh/52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971/info>.
const QUICKNET_KEY: BeaconKey = unhex(
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451\
     0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
);
const QUICKNET_SEED: [u8; 32] = unhex("f477d5c89f21a17c863a7f937c6a6d15859414d2be09cd448d4279af331c5d3e");

/// Bytes of a constant in hex, at compile time.
const fn unhex<const N: usize>(text: &str) -> [u8; N] {
    const fn nibble(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("a digit of hex"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 2 * N, "two digits a byte");
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = nibble(text[2 * at]) * 16 + nibble(text[2 * at + 1]);
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published rounds that the contract's tests read, too.
    const FILE: &str = include_str!("../../../contracts/test/data/drand-quicknet.json");

    fn field<'a>(text: &'a str, name: &str) -> &'a str {
        let start = text.find(&format!("\"{name}\": ")).unwrap() + name.len() + 4;
        text[start..].trim_start_matches('"').split(['"', ',', '\n']).next().unwrap()
    }

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        let text = text.trim_start_matches("0x");
        let all: Vec<u8> = (0..N).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect();
        all.try_into().unwrap()
    }

    fn published() -> Vec<(u64, RoundSignature, Randomness, Vec<[u8; 32]>)> {
        let rounds = FILE.split_once("\"rounds\"").unwrap().1;
        let list = rounds.split("\"round\": ").skip(1).map(|text| {
            let number = text.split(',').next().unwrap().parse().unwrap();
            let words = text.split_once("\"words\"").unwrap().1.split('"').filter(|w| w.starts_with("0x"));
            let words = words.map(bytes).collect();
            (number, bytes(field(text, "signature")), bytes(field(text, "randomness")), words)
        });
        list.collect()
    }

    #[test]
    fn published_rounds_are_right() {
        let beacon = Beacon::quicknet();
        let rounds = published();
        assert_eq!(rounds.len(), 4);
        for (round, signature, randomness, words) in rounds {
            assert_eq!(beacon.verify(round, &signature), Ok(randomness));
            assert_eq!(signature_words(round, &signature).unwrap().to_vec(), words);
            assert_eq!(beacon.verify(round + 1, &signature), Err(BeaconError::BadSignature { round: round + 1 }));
        }
    }

    #[test]
    fn the_constants_are_those_of_the_file() {
        let beacon = Beacon::quicknet();
        assert_eq!(beacon.public_key(), bytes::<96>(field(FILE, "public_key")));
        assert_eq!(beacon.chain_hash(), bytes::<32>(field(FILE, "chain_hash")));
        let words = FILE.split_once("\"public_key_words\"").unwrap().1.split('"').filter(|w| w.starts_with("0x"));
        let words: Vec<[u8; 32]> = words.take(8).map(bytes).collect();
        assert_eq!(beacon.key_words().to_vec(), words);
    }

    #[test]
    fn any_changed_bit_is_refused() {
        let beacon = Beacon::quicknet();
        let (round, signature, ..) = published()[0].clone();
        for bit in 0..384 {
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(beacon.verify(round, &changed), Err(BeaconError::BadSignature { round }), "bit {bit}");
        }
        let mut infinity = [0; 48];
        infinity[0] = 0xc0;
        assert_eq!(beacon.verify(round, &infinity), Err(BeaconError::BadSignature { round }));
    }

    #[test]
    fn a_key_of_ones_own_serves_behind_the_same_types() {
        let secret = BeaconSecret::generate(&[7; 32]);
        let schedule = BeaconSchedule { genesis_s: 100, period_s: 2 };
        let beacon = Beacon::new(&secret.public_key(), schedule).unwrap();
        let signature = secret.sign(5);
        let randomness = beacon.verify(5, &signature).unwrap();
        assert_ne!(randomness, beacon.verify(6, &secret.sign(6)).unwrap());
        assert!(Beacon::quicknet().verify(5, &signature).is_err());
        let again = BeaconSecret::from_bytes(&secret.to_bytes()).unwrap();
        assert_eq!(again.sign(5), signature, "a round has one signature");
        assert_eq!(beacon.round_at(103), Some(2));
        assert_ne!(beacon.chain_hash(), Beacon::quicknet().chain_hash());
        assert!(!format!("{secret:?}").contains('7'));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let schedule = BeaconSchedule { genesis_s: 0, period_s: 1 };
        assert_eq!(Beacon::new(&[0; 96], schedule), Err(BeaconError::BadKey));
        let mut infinity = [0; 96];
        infinity[0] = 0xc0;
        assert_eq!(Beacon::new(&infinity, schedule), Err(BeaconError::BadKey));
        let none = BeaconSchedule { genesis_s: 0, period_s: 0 };
        assert_eq!(Beacon::new(&QUICKNET_KEY, none), Err(BeaconError::NoPeriod));
        assert_eq!(BeaconSecret::from_bytes(&[0; 32]).unwrap_err(), BeaconError::BadSecret);
    }
}
