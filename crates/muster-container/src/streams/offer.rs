//! Offers of Indexers.

use muster_core::brain::container::Event;
use muster_core::protocol::{Offer, OfferAnswer, OfferRejected};
use muster_net::{NetError, Stream};
use muster_wire::message::terms_bytes;
use tracing::{info, warn};

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};

/// What a Container signs when it accepts terms.
const ACCEPTANCE: &str = "muster/acceptance/1";

impl House {
    /// Answers one offer. Only Indexers of the network are answered.
    pub(super) async fn offer(&self, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let indexer = stream.remote_id();
        if !self.indexers.contains(&indexer) {
            metrics::counter!("muster_container_offers_total", "outcome" => "stranger").increment(1);
            return Err(guest.connection.cut("it makes offers and is no Indexer of this network"));
        }
        let (mut reader, mut writer) = stream.framed().split();
        let offer: Offer = reader.recv_within(PROOF_WITHIN).await?;
        let answer = match offer {
            Offer::Withdraw(lease) => {
                // A node that goes down forgets nothing: the slot is void when its time to open has passed.
                self.brain.note(Event::Withdrawn { lease, from: indexer }).await;
                OfferAnswer::Withdrawn
            }
            Offer::Fetch(packages) => {
                if self.board.summary().busy == 0 {
                    self.jobs.fetch_ahead(packages);
                }
                OfferAnswer::Noted
            }
            Offer::Take(terms) if terms.indexer != indexer => {
                let why = "they name another Indexer than the one that offers".to_owned();
                OfferAnswer::Rejected(OfferRejected::BadTerms(why))
            }
            Offer::Take(terms) => {
                let lease = terms.lease;
                match self.brain.offer(terms).await {
                    Ok(Ok(terms)) => {
                        info!(%lease, indexer = %indexer.short(), rate = %terms.rate_per_second, "offer accepted");
                        let bytes = terms_bytes(&terms).map_err(NetError::Encode)?;
                        OfferAnswer::Accepted { signature: self.secret.sign(ACCEPTANCE, &bytes).into() }
                    }
                    Ok(Err(why)) => {
                        info!(%lease, indexer = %indexer.short(), %why, "offer rejected");
                        OfferAnswer::Rejected(why)
                    }
                    Err(_) => OfferAnswer::Rejected(OfferRejected::Draining),
                }
            }
        };
        let outcome = match &answer {
            OfferAnswer::Accepted { .. } => "accepted",
            OfferAnswer::Rejected(_) => "rejected",
            OfferAnswer::Withdrawn => "withdrawn",
            OfferAnswer::Noted => "noted",
        };
        metrics::counter!("muster_container_offers_total", "outcome" => outcome).increment(1);
        if let Err(error) = writer.send_within(&answer, SEND_WITHIN).await {
            warn!(indexer = %indexer.short(), %error, "the answer to an offer did not arrive");
            return Err(error);
        }
        writer.finish().await
    }
}
