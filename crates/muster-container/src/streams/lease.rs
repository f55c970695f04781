//! The control stream of a lease: a consumer proves itself, then both talk until the lease is over.

use std::sync::Arc;

use muster_core::brain::container::{Event, StopBy};
use muster_core::ids::LeaseId;
use muster_core::protocol::{ToConsumer, ToContainer};
use muster_core::voucher::{CompactSignature, SignedVoucher};
use muster_net::{NetError, Stream};
use muster_wire::message::attach_bytes;
use tracing::{debug, info};

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};
use crate::brain::Stopped;

/// What to do after a message of the consumer.
enum Next {
    GoOn,
    Say(ToConsumer),
}

impl House {
    pub(super) async fn lease(self: &Arc<Self>, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let (mut reader, mut writer) = stream.framed().split();
        // Vouchers and their answers go before files.
        writer.set_priority(10);
        let first = match reader.recv_within::<ToContainer>(PROOF_WITHIN).await {
            Err(NetError::Timeout { .. }) => {
                return Err(guest.connection.cut("it opened a lease and did not prove itself in time"));
            }
            other => other?,
        };
        let ToContainer::Attach { lease, proof } = first else {
            return Err(guest.connection.cut("it spoke on a lease before it had proved itself"));
        };
        if let Err(refusal) = self.check_proof(guest, lease, proof) {
            writer.send_within(&refusal, SEND_WITHIN).await?;
            return writer.finish().await;
        }
        guest.prove(lease);
        let mut seat = self.sessions.open(lease);
        let session = seat.id;
        debug!(%lease, peer = %guest.connection.remote_id().short(), "consumer attached");
        if self.brain.send(Event::Attached { lease, session }).await.is_err() {
            return Ok(());
        }
        let outcome = loop {
            tokio::select! {
                message = reader.recv::<ToContainer>() => match message {
                    Ok(Some(message)) => match self.hear(lease, message).await {
                        Ok(Next::GoOn) => {}
                        Ok(Next::Say(answer)) => {
                            if let Err(error) = writer.send_within(&answer, SEND_WITHIN).await {
                                break Err(error);
                            }
                        }
                        Err(Stopped) => break Ok(()),
                    },
                    Ok(None) => break writer.finish().await,
                    Err(error) => break Err(error),
                },
                Some(message) = seat.inbox.recv() => {
                    if let Err(error) = writer.send_within(&message, SEND_WITHIN).await {
                        break Err(error);
                    }
                }
                () = seat.cut.cancelled() => {
                    while let Ok(message) = seat.inbox.try_recv() {
                        writer.send_within(&message, SEND_WITHIN).await?;
                    }
                    break writer.finish().await;
                }
            }
        };
        drop(seat);
        self.brain.note(Event::Detached { lease, session }).await;
        outcome
    }

    /// Whether the peer holds the session key of the lease.
    fn check_proof(&self, guest: &Guest, lease: LeaseId, proof: CompactSignature) -> Result<(), ToConsumer> {
        let Some(held) = self.board.lease(lease) else {
            // Counted as well: whoever guesses names of leases learns that soon.
            guest.refuse_proof();
            return Err(ToConsumer::Gone { why: "this Container knows no such lease".to_owned() });
        };
        let bytes = attach_bytes(lease, self.node, guest.connection.remote_id());
        let signer = self.desk.ledger().message_signer(&bytes, proof);
        if signer == Some(held.lease.terms.session_key) {
            return Ok(());
        }
        info!(%lease, peer = %guest.connection.remote_id().short(), "a false proof was refused");
        guest.refuse_proof();
        let why = "the proof is not by the session key of this lease, for this Container and this node".to_owned();
        Err(ToConsumer::Refused { why })
    }

    async fn hear(&self, lease: LeaseId, message: ToContainer) -> Result<Next, Stopped> {
        let event = match message {
            ToContainer::Attach { .. } => {
                let why = "this stream is attached already; open another one".to_owned();
                return Ok(Next::Say(ToConsumer::Refused { why }));
            }
            ToContainer::Ping => return Ok(Next::Say(ToConsumer::Pong)),
            ToContainer::Go(wanted) => {
                // Whoever wants to see a program waits for it; a job that only computes waits for its deposit.
                let early = wanted.session.is_some();
                if let Some(place) = self.jobs.get(lease) {
                    place.want(wanted);
                }
                Event::Go { lease, early }
            }
            ToContainer::Paid(voucher) => match self.check_voucher(lease, &voucher) {
                Ok(event) => event,
                Err(why) => return Ok(Next::Say(ToConsumer::Refused { why })),
            },
            ToContainer::ToppedUp => Event::ToppedUp { lease },
            ToContainer::Stop => Event::Stop { lease, by: StopBy::Consumer },
            ToContainer::Taken => Event::Taken { lease },
        };
        self.brain.send(event).await?;
        Ok(Next::GoOn)
    }

    fn check_voucher(&self, lease: LeaseId, voucher: &SignedVoucher) -> Result<Event, String> {
        if voucher.voucher.lease != lease {
            return Err("the voucher is for another lease than this stream".to_owned());
        }
        let Some(signer) = self.desk.ledger().voucher_signer(voucher) else {
            return Err("the voucher's signature is malformed".to_owned());
        };
        metrics::counter!("muster_container_vouchers_total").increment(1);
        Ok(Event::Paid { voucher: *voucher, signer })
    }
}
