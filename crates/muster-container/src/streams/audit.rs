//! Checkers: proofs of the cards, and whether this Container lives.

use std::time::Duration;

use muster_core::epoch::EpochNo;
use muster_core::lease::Phase;
use muster_core::proof::CheckerSays;
use muster_core::units::TokenAmount;
use muster_net::{NetError, Stream};
use muster_wire::message::audit::{Alive, Question, WORK_MAX, Work};
use tracing::{info, warn};

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};
use crate::audit::{prove, refuse};

/// Questions on one stream: a Checker asks each on a stream of its own, or many on one.
const QUESTIONS_WITHIN: Duration = Duration::from_secs(180);

impl House {
    /// Whether the peer is a Checker of this network; others are cut off and counted.
    async fn checker(&self, guest: &Guest, stream: &Stream) -> Result<(), NetError> {
        if self.gate.is_checker(stream.remote_id()).await {
            guest.is_checker();
            return Ok(());
        }
        metrics::counter!("muster_container_audits_total", "outcome" => "stranger").increment(1);
        warn!(peer = %stream.remote_id().short(), "somebody who is no active Checker asks for proofs");
        // Closed, not banned: who has just registered comes again.
        guest.connection.close("it asks for proofs and is no active Checker of this network");
        Err(NetError::StreamClosed)
    }

    /// Proves a card.
    pub(super) async fn audit(&self, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        self.checker(guest, &stream).await?;
        let checker = stream.remote_id();
        let (mut reader, mut writer) = stream.framed().split();
        let challenge = match reader.recv_within::<CheckerSays>(PROOF_WITHIN).await? {
            CheckerSays::Challenge(challenge) => *challenge,
            CheckerSays::Walk { .. } | CheckerSays::Reveal { .. } => {
                return Err(guest.connection.cut("a proof begins with a challenge"));
            }
        };
        let now = self.now_epoch();
        let taken = match self.gate.admit(&challenge, checker, self.node, now) {
            Ok(()) => self.gate.turn(challenge.card).await,
            Err(refusal) => Err(refusal),
        };
        let _turn = match taken {
            Ok(turn) => turn,
            Err(refusal) => {
                metrics::counter!("muster_container_audits_total", "outcome" => "refused").increment(1);
                info!(checker = %checker.short(), why = %refusal, "a proof was refused");
                return refuse(&mut writer, &refusal.to_string()).await;
            }
        };
        metrics::counter!("muster_container_audits_total", "outcome" => "taken").increment(1);
        let provers = std::sync::Arc::clone(&self.provers);
        prove(provers, &self.secret, self.node, challenge, &mut reader, &mut writer).await
    }

    /// Answers whether it lives, and what it works on.
    pub(super) async fn liveness(&self, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        self.checker(guest, &stream).await?;
        let (mut reader, mut writer) = stream.framed().split();
        loop {
            let question = match tokio::time::timeout(QUESTIONS_WITHIN, reader.recv::<Question>()).await {
                Ok(Ok(Some(question))) => question,
                Ok(Ok(None)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            };
            let works = |phase: &Phase| matches!(phase, Phase::Open | Phase::Starting | Phase::Running);
            let leases = self.board.leases();
            let work: Vec<Work> = leases
                .iter()
                // A lease whose deposit is on its way is nothing that the chain knows.
                .filter(|held| works(&held.lease.phase) && held.lease.deposit_seen())
                .take(WORK_MAX)
                .map(|held| Work {
                    lease: held.lease.id(),
                    running: held.lease.phase == Phase::Running,
                    ran_ms: held.lease.ran_ms,
                    vouched: held.lease.voucher.map_or(TokenAmount::ZERO, |signed| signed.voucher.amount),
                })
                .collect();
            let work = work.try_into().unwrap_or_default();
            writer.send_within(&Alive { nonce: question.nonce, work }, SEND_WITHIN).await?;
        }
    }

    fn now_epoch(&self) -> EpochNo {
        self.epochs.at(self.clock.now())
    }
}
