//! Connections: Containers that beat, consumers that ask, and the way back to both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_core::brain::indexer::Event;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::lease::LeaseTerms;
use muster_core::packages::PackageSet;
use muster_core::protocol::{
    Candidates, CandidatesRequest, ContainerReport, DeliveryNoted, DeliveryReport, MatchReply, MatchRequest, Offer,
    OfferAnswer,
};
use muster_net::{Connection, FramedStream, NetError, Peer, Signature64, StreamKind, verify};
use muster_wire::WireMessage;
use muster_wire::message::{delivery_bytes, terms_bytes};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a Container's signature over terms is for.
pub(crate) const ACCEPTANCE: &str = "muster/acceptance/1";
/// How long an offer's answer is awaited before the stream is given up; the brain goes on earlier.
const OFFER_WAIT: Duration = Duration::from_secs(5);
/// How long a consumer's question is awaited.
const QUESTION_WAIT: Duration = Duration::from_secs(5);
/// How long an answer to a consumer may take in all.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// What a consumer is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Match(Box<MatchReply>),
    Candidates(Candidates),
    Noted(DeliveryNoted),
}

#[derive(Debug, Default)]
struct Ways {
    containers: Mutex<HashMap<NodeId, (u64, Connection)>>,
    replies: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next: AtomicU64,
}

/// The ways back to Containers and consumers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(Arc<Ways>);

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Routes {
    fn next(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Offers terms to a Container; the answer comes back as an event.
    pub(crate) fn offer(&self, call: u64, to: NodeId, terms: LeaseTerms, events: mpsc::Sender<Event>) {
        let way = held(&self.0.containers).get(&to).map(|(_, c)| c.clone());
        tokio::spawn(async move {
            let event = match ask(way, &terms).await {
                Ok(answer) => Event::Answered { call, answer },
                Err(e) => {
                    tracing::debug!(container = %to.short(), error = %e, "an offer was not answered");
                    Event::Undelivered { call }
                }
            };
            // The Indexer stops: nobody waits for this answer any more.
            let _gone = events.send(event).await;
        });
    }

    /// Takes an offer back; best effort, the Container's own deadline does the same.
    pub(crate) fn withdraw(&self, from: NodeId, lease: LeaseId) {
        let Some((_, way)) = held(&self.0.containers).get(&from).cloned() else { return };
        tokio::spawn(async move {
            let said = async {
                let mut stream = way.open_bi(StreamKind::Offer).await?.framed();
                stream.ask::<Offer, OfferAnswer>(&Offer::Withdraw(lease), OFFER_WAIT).await
            };
            if let Err(e) = said.await {
                tracing::debug!(container = %from.short(), error = %e, "an offer could not be taken back");
            }
        });
    }

    /// Tells a Container of packages that are asked for; best effort, it is free to do nothing.
    pub(crate) fn suggest(&self, to: NodeId, packages: PackageSet) {
        let Some((_, way)) = held(&self.0.containers).get(&to).cloned() else { return };
        tokio::spawn(async move {
            let said = async {
                let mut stream = way.open_bi(StreamKind::Offer).await?.framed();
                stream.ask::<Offer, OfferAnswer>(&Offer::Fetch(packages), OFFER_WAIT).await
            };
            if let Err(e) = said.await {
                tracing::debug!(container = %to.short(), error = %e, "a Container was not told what is asked for");
            }
        });
    }

    /// The way to a Container is gone; a newer connection of the same Container stays.
    fn forget(&self, container: NodeId, mark: u64) -> bool {
        let mut containers = held(&self.0.containers);
        let ours = containers.get(&container).is_some_and(|(m, _)| *m == mark);
        if ours {
            containers.remove(&container);
        }
        ours
    }

    /// Answers a consumer.
    pub(crate) fn reply(&self, reply: u64, answer: Answer) {
        if let Some(way) = held(&self.0.replies).remove(&reply) {
            // The consumer may have gone.
            let _gone = way.send(answer);
        }
    }
}

/// Offers, and checks the signature under an acceptance.
async fn ask(way: Option<Connection>, terms: &LeaseTerms) -> Result<OfferAnswer, String> {
    let way = way.ok_or("no connection")?;
    let asked = async {
        let mut stream = way.open_bi(StreamKind::Offer).await?.framed();
        stream.ask::<Offer, OfferAnswer>(&Offer::Take(Box::new(terms.clone())), OFFER_WAIT).await
    };
    let answer = asked.await.map_err(|e: NetError| e.to_string())?;
    if let OfferAnswer::Accepted { signature } = &answer {
        let bytes = terms_bytes(terms).map_err(|e| e.to_string())?;
        verify(terms.container, ACCEPTANCE, &bytes, &Signature64::from(*signature)).map_err(|e| e.to_string())?;
    }
    Ok(answer)
}

/// Takes connections until told to stop.
pub(crate) async fn accept(peer: Peer, routes: Routes, events: mpsc::Sender<Event>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            connection = peer.accept() => match connection {
                Ok(connection) => {
                    tokio::spawn(serve(connection, peer.id(), routes.clone(), events.clone(), stop.clone()));
                }
                Err(e) => {
                    tracing::error!(error = %e, "no more connections can be taken");
                    stop.cancel();
                    return;
                }
            },
        }
    }
}

async fn serve(
    connection: Connection,
    me: NodeId,
    routes: Routes,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = connection.accept_bi() => stream,
        };
        match stream {
            Ok(stream) => match stream.kind() {
                StreamKind::Presence => {
                    let way = connection.clone();
                    tokio::spawn(presence(way, stream.framed(), routes.clone(), events.clone(), stop.clone()));
                }
                StreamKind::Demand => {
                    tokio::spawn(demand(stream.framed(), routes.clone(), events.clone()));
                }
                StreamKind::Candidates => {
                    tokio::spawn(candidates(stream.framed(), routes.clone(), events.clone()));
                }
                StreamKind::Delivery => {
                    tokio::spawn(delivery(stream.framed(), me, routes.clone(), events.clone()));
                }
                other => {
                    connection.cut(&format!("an Indexer speaks no {other:?}"));
                    return;
                }
            },
            Err(e) if e.is_connection_lost() => return,
            Err(e) => tracing::debug!(peer = %connection.remote_id().short(), error = %e, "a stream was refused"),
        }
    }
}

/// A Container's standing stream.
async fn presence(
    way: Connection,
    mut stream: FramedStream,
    routes: Routes,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let container = way.remote_id();
    let mark = routes.next();
    held(&routes.0.containers).insert(container, (mark, way.clone()));
    loop {
        let report = tokio::select! {
            () = stop.cancelled() => break,
            report = stream.recv::<ContainerReport>() => report,
        };
        let event = match report {
            Ok(Some(ContainerReport::Heartbeat(beat))) => {
                if beat.addr.id != container {
                    way.cut("a heartbeat in another Container's name");
                    break;
                }
                Event::Beat(beat)
            }
            Ok(Some(ContainerReport::Lease(report))) => Event::Reported { from: container, report },
            Ok(None) => break,
            Err(e) => {
                tracing::info!(container = %container.short(), why = %e, "a Container's stream is gone");
                break;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
    if routes.forget(container, mark) {
        // The Indexer stops: nobody needs to know.
        let _gone = events.send(Event::Gone(container)).await;
    }
}

/// A consumer's question.
async fn demand(mut stream: FramedStream, routes: Routes, events: mpsc::Sender<Event>) {
    let Some(request) = question::<MatchRequest>(&mut stream).await else { return };
    let request = Box::new(request);
    let answer = answered(&routes, &events, |reply| Event::Requested { reply, request }).await;
    if let Some(Answer::Match(answer)) = answer {
        say(&mut stream, &*answer).await;
    }
}

/// Who would serve a demand.
async fn candidates(mut stream: FramedStream, routes: Routes, events: mpsc::Sender<Event>) {
    let Some(request) = question::<CandidatesRequest>(&mut stream).await else { return };
    let demand = Box::new(request.demand);
    let answer = answered(&routes, &events, |reply| Event::Sounded { reply, demand }).await;
    if let Some(Answer::Candidates(answer)) = answer {
        say(&mut stream, &answer).await;
    }
}

/// What was delivered on a lease.
async fn delivery(mut stream: FramedStream, me: NodeId, routes: Routes, events: mpsc::Sender<Event>) {
    let Some(report) = question::<DeliveryReport>(&mut stream).await else { return };
    let DeliveryReport { lease, receipts, proof } = report;
    let bytes = delivery_bytes(lease, &receipts, me);
    let Some(signer) = muster_chain::message::message_signer(&bytes, &proof) else {
        say(&mut stream, &DeliveryNoted { counts: false }).await;
        return;
    };
    let answer = answered(&routes, &events, |reply| Event::Delivered { reply, lease, signer, receipts }).await;
    if let Some(Answer::Noted(answer)) = answer {
        say(&mut stream, &answer).await;
    }
}

async fn question<M: WireMessage>(stream: &mut FramedStream) -> Option<M> {
    match stream.recv_within::<M>(QUESTION_WAIT).await {
        Ok(question) => Some(question),
        Err(error) => {
            tracing::debug!(%error, "a question was not understood");
            None
        }
    }
}

/// Brings a question to the brain and waits for what it answers.
async fn answered(routes: &Routes, events: &mpsc::Sender<Event>, event: impl FnOnce(u64) -> Event) -> Option<Answer> {
    let reply = routes.next();
    let (way, answer) = oneshot::channel();
    held(&routes.0.replies).insert(reply, way);
    if events.send(event(reply)).await.is_err() {
        return None;
    }
    let answer = tokio::time::timeout(ANSWER_WAIT, answer).await;
    if answer.is_err() {
        held(&routes.0.replies).remove(&reply);
    }
    answer.ok()?.ok()
}

async fn say<M: WireMessage>(stream: &mut FramedStream, answer: &M) {
    let said = async {
        stream.send(answer).await?;
        stream.finish().await
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "a consumer did not wait for its answer");
    }
}
