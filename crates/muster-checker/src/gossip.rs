//! What Checkers say to each other: signatures are checked here, before the brain hears anything.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::checker::{Answer, Event, Message};
use muster_core::ids::NodeId;
use muster_core::protocol::NodeSignature;
use muster_core::reward::{Commitment, Entry, Receipt};
use muster_net::evidence::fetch_on;
use muster_net::{Connection, NetError, Stream, StreamKind, verify};
use muster_wire::Signature64;
use muster_wire::message::audit::{Gossip, INLINE_LEN_MAX, message_bytes, read_message};
use tracing::debug;

use crate::evidence::Kind;
use crate::node::House;

/// What a Checker's signature under its commitment is for.
const COMMITMENT: &str = "muster/commitment/1";
/// What a member's signature under a receipt is for.
const RECEIPT: &str = "muster/receipt/1";
/// How long a message may wait for a Checker that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Messages on one stream.
const MESSAGES_MAX: usize = 1_024;
/// The longest message that is fetched, in bytes: reports of an epoch of a large network.
const MESSAGE_LEN_MAX: u64 = 64 << 20;

fn commitment_bytes(commitment: &Commitment) -> [u8; 72] {
    let mut bytes = [0; 72];
    let (epoch, rest) = bytes.split_at_mut(8);
    let (checker, hash) = rest.split_at_mut(32);
    epoch.copy_from_slice(&commitment.epoch.0.to_be_bytes());
    checker.copy_from_slice(&commitment.checker.0);
    hash.copy_from_slice(&commitment.hash.0);
    bytes
}

/// Signs this Checker's own commitment.
pub(crate) fn vouch(house: &House, commitment: Commitment) -> Commitment {
    let signature = house.secret.sign(COMMITMENT, &commitment_bytes(&commitment));
    Commitment { signature: signature.into(), ..commitment }
}

/// A receipt for another one's.
pub(crate) fn receipt(house: &House, commitment: &Commitment) -> Receipt {
    let signature = house.secret.sign(RECEIPT, &commitment_bytes(commitment));
    Receipt { member: house.id, signature: signature.into() }
}

fn is_signed(by: NodeId, context: &'static str, bytes: &[u8], signature: NodeSignature) -> bool {
    verify(by, context, bytes, &Signature64::from(signature)).is_ok()
}

fn commitment_stands(commitment: &Commitment) -> bool {
    is_signed(commitment.checker, COMMITMENT, &commitment_bytes(commitment), commitment.signature)
}

/// Whether an entry's commitment is its Checker's; receipts that nobody gave are left out.
fn entry_stands(entry: &mut Entry) -> bool {
    let bytes = commitment_bytes(&entry.commitment);
    entry.receipts.retain(|receipt| is_signed(receipt.member, RECEIPT, &bytes, receipt.signature));
    commitment_stands(&entry.commitment)
}

/// Checks every signature of a message.
async fn stands(house: &House, from: NodeId, message: &mut Message) -> bool {
    match message {
        Message::Commit(commitment) => commitment_stands(commitment),
        Message::Receipt { epoch, hash, receipt } => {
            let signature = NodeSignature { r: [0; 32], s: [0; 32] };
            let commitment = Commitment { epoch: *epoch, checker: house.id, hash: *hash, signature };
            receipt.member == from && is_signed(from, RECEIPT, &commitment_bytes(&commitment), receipt.signature)
        }
        Message::Reveal(entry) => entry_stands(entry),
        Message::Taken { .. } => true,
        Message::Propose(proposal) => {
            let mut entries = proposal.bundle.iter_mut().flat_map(|bundle| &mut bundle.entries);
            entries.all(entry_stands)
        }
        Message::Decide(signed) => house.ledger.is_signed(**signed).await.unwrap_or(false),
        Message::Answer(answer) => match &**answer {
            // A chain that does not answer leaves it open: it is said again.
            Answer::Signed(signed) => house.ledger.is_signed(**signed).await.unwrap_or(false),
            Answer::Missing { .. } | Answer::Differs { .. } => true,
        },
    }
}

/// Keeps what an outcome is proposed of, for whoever computes the epoch again.
fn keep_reports(house: &House, message: &Message) {
    let Message::Propose(proposal) = message else { return };
    let Some(bundle) = &proposal.bundle else { return };
    let kept = match postcard::to_allocvec(bundle) {
        Ok(bytes) => house.keep_as(Kind::Reports, bundle.hash(), &bytes),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = kept {
        debug!(%why, "the reports of an epoch cannot be kept");
    }
}

/// Says something to another Checker, in the background; what is lost is said again.
pub(crate) fn send(house: &Arc<House>, to: NodeId, message: &Message) {
    keep_reports(house, message);
    let bytes = match message_bytes(message) {
        Ok(bytes) => bytes,
        Err(error) => {
            debug!(%error, "a message is too long for anybody");
            return;
        }
    };
    let gossip = if bytes.len() <= INLINE_LEN_MAX {
        Gossip::Said(Box::new(message.clone()))
    } else {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match house.keep(Kind::Transcript, &bytes) {
            Ok(hash) => Gossip::Held { hash, len },
            Err(why) => {
                debug!(%why, "a long message cannot be kept for whom it is for");
                return;
            }
        }
    };
    let Ok(permit) = Arc::clone(&house.sends).try_acquire_owned() else {
        metrics::counter!("muster_checker_messages_left_out_total").increment(1);
        return;
    };
    let house = Arc::clone(house);
    house.clone().spawn(async move {
        let said = async {
            let connection = house.connect(to).await?;
            let mut stream = connection.open_bi(StreamKind::Checkers).await?.framed();
            stream.send(&gossip).await?;
            stream.finish().await
        };
        if let Err(error) = tokio::time::timeout(SEND_WITHIN, said).await.unwrap_or(Err(NetError::StreamClosed)) {
            debug!(to = %to.short(), %error, "a Checker was not told");
        }
        drop(permit);
    });
}

/// Takes what another Checker says.
pub(crate) async fn take(house: &Arc<House>, connection: &Connection, stream: Stream) -> Result<(), NetError> {
    let from = stream.remote_id();
    if !house.is_checker(from) {
        house.board.count(|counted| counted.refused += 1);
        metrics::counter!("muster_checker_refused_total", "why" => "stranger").increment(1);
        // Closed, not banned: who has just registered comes again.
        connection.close("it speaks as a Checker and is none that is active");
        return Err(NetError::StreamClosed);
    }
    let (mut reader, _writer) = stream.framed().split();
    for _ in 0..MESSAGES_MAX {
        let Some(gossip) = reader.recv::<Gossip>().await? else { return Ok(()) };
        let mut message = match gossip {
            Gossip::Said(message) => message,
            Gossip::Held { hash, len } => {
                let bytes = match fetch_on(connection, hash, len.min(MESSAGE_LEN_MAX)).await {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        debug!(from = %from.short(), %error, "a long message could not be fetched");
                        continue;
                    }
                };
                match read_message(&bytes) {
                    Ok(message) => Box::new(message),
                    Err(error) => return Err(connection.cut(&error.to_string())),
                }
            }
        };
        if !stands(house, from, &mut message).await {
            debug!(from = %from.short(), "a message whose signatures are wrong");
            house.board.count(|counted| counted.refused += 1);
            metrics::counter!("muster_checker_refused_total", "why" => "signature").increment(1);
            continue;
        }
        keep_reports(house, &message);
        if let Message::Answer(answer) = &*message
            && let Answer::Differs { why, .. } = &**answer
        {
            tracing::warn!(from = %from.short(), %why, "a member of the committee computes something else");
        }
        house.tell(Event::Heard { from, message }).await;
    }
    Ok(())
}
