//! Bounds of the protocol's own types.

use std::net::SocketAddr;

use muster_core::delivery::Receipts;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::{ModelSource, WEIGHTS_MAX};
use muster_core::lease::{End, LeaseTerms, TokenTerms};
use muster_core::packages::WARM_MAX;
use muster_core::protocol::{
    CANDIDATES_MAX, Candidates, CandidatesRequest, ContainerReport, DeliveryNoted, DeliveryReport, ENDPOINTS_MAX,
    HOLDERS_MAX, Heartbeat, JobSpec, LeaseReport, MatchFailed, MatchReply, MatchRequest, Matched, NodeAddr,
    NodeSignature, Offer, OfferAnswer, OfferRejected, ToConsumer, ToContainer,
};
use muster_core::units::Bytes;

use crate::{BoundedString, Signature64, WireError, WireMessage};

/// Arguments that a command may have.
pub const ARGS_MAX: usize = 4_096;
/// Bytes of a command and its variables together.
pub const ARGS_LEN_MAX: usize = 128 * 1024;
/// Variables that a job may be given.
pub const ENV_MAX: usize = 1_024;
/// Bytes of a sentence that says why.
pub const SENTENCE_LEN_MAX: usize = 1_024;
/// Reasons that an answer lists.
const REASONS_MAX: usize = 64;
/// Direct addresses of a node.
const DIRECT_MAX: usize = crate::addr::DIRECT_MAX;
/// Bytes of a relay's address.
const RELAY_LEN_MAX: usize = 256;

/// A sentence cut to [`SENTENCE_LEN_MAX`] bytes at a character's border, with `…` where it was cut.
#[must_use]
pub fn clip_sentence(text: &str) -> String {
    if text.len() <= SENTENCE_LEN_MAX {
        return text.to_owned();
    }
    let room = SENTENCE_LEN_MAX - '…'.len_utf8();
    let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

fn sentence(field: &'static str, text: &str) -> Result<(), WireError> {
    if text.len() > SENTENCE_LEN_MAX {
        return Err(WireError::field(field, format!("longer than {SENTENCE_LEN_MAX} bytes")));
    }
    Ok(())
}

fn named(field: &'static str, bytes: &[u8]) -> Result<(), WireError> {
    if bytes.iter().all(|b| *b == 0) { Err(WireError::field(field, "all zero")) } else { Ok(()) }
}

fn dialable(addr: &SocketAddr) -> bool {
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
}

fn check_addr(addr: &NodeAddr) -> Result<(), WireError> {
    named("addr.id", &addr.id.0)?;
    if addr.direct.len() > DIRECT_MAX {
        return Err(WireError::field("addr.direct", format!("more than {DIRECT_MAX} addresses")));
    }
    if let Some(bad) = addr.direct.iter().find(|a| !dialable(a)) {
        return Err(WireError::field("addr.direct", format!("{bad} cannot be dialled")));
    }
    match &addr.relay {
        Some(url) if url.len() > RELAY_LEN_MAX || !(url.starts_with("http://") || url.starts_with("https://")) => {
            Err(WireError::field("addr.relay", "not an http or https address of at most 256 bytes"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_terms(terms: &LeaseTerms) -> Result<(), WireError> {
    named("terms.lease", &terms.lease.0)?;
    named("terms.container", &terms.container.0)?;
    if terms.max_seconds == 0 || terms.max_seconds > muster_core::demand::TIME_LIMIT_S_MAX {
        return Err(WireError::field("terms.max_seconds", "zero or longer than 30 days"));
    }
    if terms.interval_ms == 0 || terms.interval_ms > 3_600_000 {
        return Err(WireError::field("terms.interval_ms", "zero or longer than an hour"));
    }
    // Products of a rate and a time stay far inside u128.
    if terms.rate_per_second.0 > 1 << 96 || terms.deposit.0 > 1 << 120 {
        return Err(WireError::field("terms.rate_per_second", "beyond what can be counted with"));
    }
    if let Some(TokenTerms { rates, credit, weights }) = &terms.tokens {
        let most = [rates.input, rates.cached, rates.output].into_iter().max().unwrap_or_default();
        if most.0 > 1 << 100 || credit.0 > 1 << 120 || weights.0 == 0 || *weights > WEIGHTS_MAX {
            return Err(WireError::field("terms.tokens", "beyond what can be counted with"));
        }
    }
    Ok(())
}

fn check_end(end: &End) -> Result<(), WireError> {
    match end {
        End::FailedToStart(why) | End::Interrupted(why) => sentence("end", why),
        End::Exited(_)
        | End::Signaled(_)
        | End::OutOfMemory
        | End::DiskFull
        | End::StoppedByConsumer
        | End::TimeLimit
        | End::DepositUsedUp
        | End::Unpaid
        | End::NeverStarted
        | End::Idle => Ok(()),
    }
}

fn check_reasons(reasons: &[(String, u64)]) -> Result<(), WireError> {
    if reasons.len() > REASONS_MAX {
        return Err(WireError::field("turned_down", format!("more than {REASONS_MAX} reasons")));
    }
    reasons.iter().try_for_each(|(why, _)| sentence("turned_down", why))
}

impl WireMessage for MatchRequest {
    // The excluded Containers are most of it: 1,024 × 32 bytes; then packages: 64 × 128.
    const MAX_LEN: usize = 48 * 1024;
    fn check(&self) -> Result<(), WireError> {
        named("lease", &self.lease.0)?;
        named("session_key", &self.session_key.0)?;
        if self.deposit_seconds == 0 || self.deposit_seconds > self.demand.time_limit_s {
            return Err(WireError::field("deposit_seconds", "zero or longer than the time limit"));
        }
        self.demand.check().map_err(|why| WireError::field("demand", why.to_string()))
    }
}

impl WireMessage for CandidatesRequest {
    const MAX_LEN: usize = MatchRequest::MAX_LEN;
    fn check(&self) -> Result<(), WireError> {
        // How near is left for the consumer to find out, so that it need not say where it is.
        let anywhere = muster_core::demand::Demand { latency_ms_max: None, ..self.demand.clone() };
        anywhere.check().map_err(|why| WireError::field("demand", why.to_string()))
    }
}

impl WireMessage for Candidates {
    const MAX_LEN: usize = 16 * 1024;
    fn check(&self) -> Result<(), WireError> {
        if self.containers.len() > CANDIDATES_MAX {
            return Err(WireError::field("containers", format!("more than {CANDIDATES_MAX}")));
        }
        self.containers.iter().try_for_each(check_addr)
    }
}

impl WireMessage for DeliveryReport {
    const MAX_LEN: usize = 1024;
    fn check(&self) -> Result<(), WireError> {
        named("lease", &self.lease.0)
    }
}

impl WireMessage for DeliveryNoted {
    const MAX_LEN: usize = 16;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for MatchReply {
    const MAX_LEN: usize = 96 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Matched(m) => check_matched(m),
            Self::Failed(f) => check_failed(f),
        }
    }
}

fn check_matched(m: &Matched) -> Result<(), WireError> {
    check_terms(&m.terms)?;
    check_addr(&m.container)?;
    if m.holders.len() > HOLDERS_MAX {
        return Err(WireError::field("holders", format!("more than {HOLDERS_MAX}")));
    }
    m.holders.iter().try_for_each(check_addr)?;
    check_reasons(&m.turned_down)
}

fn check_failed(f: &MatchFailed) -> Result<(), WireError> {
    sentence("why", &f.why)?;
    check_reasons(&f.turned_down)
}

impl WireMessage for ContainerReport {
    const MAX_LEN: usize = 16 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Heartbeat(beat) => check_heartbeat(beat),
            Self::Lease(report) => check_report(report),
        }
    }
}

fn check_heartbeat(beat: &Heartbeat) -> Result<(), WireError> {
    check_addr(&beat.addr)?;
    beat.total.check().map_err(|why| WireError::field("total", why.to_string()))?;
    beat.ask.check().map_err(|why| WireError::field("ask", why.to_string()))?;
    if let Some(ask) = &beat.models {
        ask.check().map_err(|why| WireError::field("models", why.to_string()))?;
    }
    if beat.endpoints.len() > ENDPOINTS_MAX {
        return Err(WireError::field("endpoints", format!("more than {ENDPOINTS_MAX}")));
    }
    for offer in &beat.endpoints {
        offer.ask.check().map_err(|why| WireError::field("endpoints", why.to_string()))?;
        if offer.bytes == Bytes(0) || offer.bytes > WEIGHTS_MAX {
            return Err(WireError::field("endpoints", format!("one of {}", offer.bytes)));
        }
    }
    if beat.warm.len() > WARM_MAX {
        return Err(WireError::field("warm", format!("more than {WARM_MAX} sets of packages")));
    }
    Ok(())
}

fn check_report(report: &LeaseReport) -> Result<(), WireError> {
    named("lease", &report.lease.0)?;
    report.end.as_ref().map_or(Ok(()), check_end)
}

impl WireMessage for Offer {
    // A set of packages is the longest: 64 names of 128 bytes.
    const MAX_LEN: usize = 10 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Take(terms) => check_terms(terms),
            Self::Withdraw(LeaseId(bytes)) => named("lease", bytes),
            Self::Fetch(packages) if packages.is_empty() => Err(WireError::field("packages", "there are none")),
            Self::Fetch(_) => Ok(()),
        }
    }
}

impl WireMessage for OfferAnswer {
    const MAX_LEN: usize = 4 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Accepted { .. } | Self::Withdrawn | Self::Noted => Ok(()),
            Self::Rejected(why) => match why {
                OfferRejected::NoCapacity(why) | OfferRejected::BadTerms(why) | OfferRejected::NotRegistered(why) => {
                    sentence("rejected", why)
                }
                OfferRejected::Draining
                | OfferRejected::TooCheap { .. }
                | OfferRejected::TokensTooCheap
                | OfferRejected::NoModels
                | OfferRejected::NoEgress
                | OfferRejected::KnownLease => Ok(()),
            },
        }
    }
}

impl WireMessage for ToContainer {
    const MAX_LEN: usize = ARGS_LEN_MAX + 32 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Attach { lease, .. } => named("lease", &lease.0),
            Self::Go(job) => check_job(job),
            Self::Paid(_) | Self::ToppedUp | Self::Stop | Self::Taken | Self::Ping => Ok(()),
        }
    }
}

/// Bounds of a job, for who writes one as for who reads one.
///
/// # Errors
/// Names what is wrong with the command or a variable.
pub fn check_job(job: &JobSpec) -> Result<(), WireError> {
    if let Some(model) = &job.model {
        if !job.command.is_empty() || job.session.is_some() || job.stdin {
            return Err(WireError::field("model", "a model has neither a command nor a display nor an input"));
        }
        model.check().map_err(|why| WireError::field("model", why.to_string()))?;
        let addr = |source: &ModelSource| match source {
            ModelSource::Container(addr) => check_addr(addr),
            ModelSource::Hub { .. } => Ok(()),
        };
        model.sources.iter().try_for_each(addr)?;
    } else if job.command.is_empty() || job.command.iter().take(1).any(String::is_empty) {
        return Err(WireError::field("command", "there is none"));
    }
    if job.command.len() > ARGS_MAX {
        return Err(WireError::field("command", format!("more than {ARGS_MAX} arguments")));
    }
    if job.env.len() > ENV_MAX {
        return Err(WireError::field("env", format!("more than {ENV_MAX} variables")));
    }
    let args: usize = job.command.iter().map(String::len).sum();
    let env: usize = job.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if args + env > ARGS_LEN_MAX {
        return Err(WireError::field("command", format!("longer than {ARGS_LEN_MAX} bytes with its variables")));
    }
    if job.command.iter().any(|arg| arg.contains('\0')) {
        return Err(WireError::field("command", "an argument holds a zero byte"));
    }
    if let Some(session) = &job.session {
        session.check().map_err(|why| WireError::field("session", why.to_string()))?;
    }
    let good_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match job.env.iter().find(|(name, value)| !good_name(name) || value.contains('\0')) {
        Some((name, _)) => {
            Err(WireError::field("env", format!("{name:?} is no name of a variable, or its value holds a zero byte")))
        }
        None => Ok(()),
    }
}

impl WireMessage for ToConsumer {
    const MAX_LEN: usize = 4 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Refused { why } | Self::Gone { why } => sentence("why", why),
            Self::Ended { end, .. } => check_end(end),
            Self::Attached { .. }
            | Self::Open
            | Self::Started
            | Self::Usage { .. }
            | Self::Counted { .. }
            | Self::Settled { .. }
            | Self::Pong => Ok(()),
        }
    }
}

impl From<Signature64> for NodeSignature {
    fn from(signature: Signature64) -> Self {
        let mut halves = Self { r: [0; 32], s: [0; 32] };
        let (r, s) = signature.0.split_at(32);
        halves.r.copy_from_slice(r);
        halves.s.copy_from_slice(s);
        halves
    }
}

impl From<NodeSignature> for Signature64 {
    fn from(halves: NodeSignature) -> Self {
        let mut bytes = [0; 64];
        let (r, s) = bytes.split_at_mut(32);
        r.copy_from_slice(&halves.r);
        s.copy_from_slice(&halves.s);
        Self(bytes)
    }
}

impl TryFrom<NodeAddr> for crate::NodeAddr {
    type Error = WireError;
    fn try_from(addr: NodeAddr) -> Result<Self, WireError> {
        check_addr(&addr)?;
        Ok(Self {
            id: addr.id,
            direct: addr.direct.try_into().map_err(|_| WireError::field("addr.direct", "too many addresses"))?,
            relay: match addr.relay {
                Some(url) => Some(BoundedString::new(url).map_err(|_| WireError::field("addr.relay", "too long"))?),
                None => None,
            },
        })
    }
}

impl From<crate::NodeAddr> for NodeAddr {
    fn from(addr: crate::NodeAddr) -> Self {
        Self { id: addr.id, direct: addr.direct.into_vec(), relay: addr.relay.map(BoundedString::into_string) }
    }
}

/// The bytes that a Container signs when it accepts terms: what a consumer checks before it pays a deposit.
///
/// # Errors
/// The terms cannot be written, which no terms that passed their check are.
pub fn terms_bytes(terms: &LeaseTerms) -> Result<Vec<u8>, WireError> {
    postcard::to_allocvec(terms).map_err(WireError::Encode)
}

/// The bytes that a session key signs (as an EIP-191 personal message) to attach to a lease from the node `peer`.
#[must_use]
pub fn attach_bytes(lease: LeaseId, container: NodeId, peer: NodeId) -> Vec<u8> {
    format!("Muster: attach to lease {lease} on Container {container} from {peer}").into_bytes()
}

/// The bytes that a session key signs (as an EIP-191 personal message) under what was delivered on its lease.
#[must_use]
pub fn delivery_bytes(lease: LeaseId, receipts: &Receipts, indexer: NodeId) -> Vec<u8> {
    let Receipts { good, poor, .. } = receipts;
    format!("Muster: on lease {lease}, {good} receipts of good delivery and {poor} of poor, told to Indexer {indexer}")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use muster_core::live::SessionSpec;

    #[test]
    fn sentences_are_clipped_at_characters() {
        let long = "ä".repeat(SENTENCE_LEN_MAX);
        let clipped = clip_sentence(&long);
        assert!(clipped.len() <= SENTENCE_LEN_MAX && clipped.ends_with('…'));
        assert_eq!(clip_sentence("short"), "short");
    }

    #[test]
    fn jobs_are_bounded() {
        let job = |command: &[&str], env: &[(&str, &str)]| JobSpec {
            command: command.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            stdin: false,
            session: None,
            model: None,
        };
        assert!(check_job(&job(&["true"], &[("A_1", "x")])).is_ok());
        assert!(check_job(&job(&[], &[])).is_err());
        assert!(check_job(&job(&[""], &[])).is_err());
        assert!(check_job(&job(&["a\0b"], &[])).is_err());
        assert!(check_job(&job(&["true"], &[("1A", "x")])).is_err());
        assert!(check_job(&job(&["true"], &[("A=B", "x")])).is_err());
        assert!(check_job(&job(&[&"x".repeat(ARGS_LEN_MAX + 1)], &[])).is_err());
        let session =
            |width| JobSpec { session: Some(SessionSpec { width, ..SessionSpec::default() }), ..job(&["x"], &[]) };
        assert!(check_job(&session(640)).is_ok());
        let why = check_job(&session(641)).unwrap_err().to_string();
        assert!(why.contains("session") && why.contains("641"), "{why}");
        let go = ToContainer::Go(session(640));
        assert_eq!(frame::decode::<ToContainer>(&frame::encode(&go).unwrap()).unwrap(), go);
    }

    #[test]
    fn a_long_refusal_is_not_sent() {
        let long = ToConsumer::Refused { why: "x".repeat(SENTENCE_LEN_MAX + 1) };
        assert!(frame::encode(&long).is_err());
        let fits = ToConsumer::Refused { why: clip_sentence(&"x".repeat(SENTENCE_LEN_MAX + 1)) };
        assert_eq!(frame::decode::<ToConsumer>(&frame::encode(&fits).unwrap()).unwrap(), fits);
    }
}
