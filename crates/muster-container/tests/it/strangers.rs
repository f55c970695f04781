//! Peers that lie, send garbage or come to the wrong door; and owners who make mistakes.

use muster_chain::keys::Wallet;
use muster_container::ContainerError;
use muster_core::lease::End;
use muster_core::protocol::{Offer, OfferAnswer, OfferRejected, ToConsumer, ToContainer};
use muster_core::units::{Bytes, TokenAmount};
use muster_net::{NodeSecret, StreamKind};
use muster_wire::message::attach_bytes;
use muster_wire::message::files::{Outcome, Piece, Transfer};
use tokio::io::AsyncWriteExt;

use crate::renter::{Renter, can_run_jobs};
use crate::world::{PATIENCE, World, dialler};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_session_key_attaches() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    let lease = renter.terms.lease;
    let thief = dialler().await;
    let connection = thief.connect(&container.addr).await.unwrap();
    let attach = |wallet: &Wallet, peer| wallet.sign_message(&attach_bytes(lease, container.id, peer));
    // Another key, and the right key's proof for another node: both are told no.
    let false_proofs = [attach(&Wallet::random(), thief.id()), attach(&renter.session, renter.peer.id())];
    for proof in false_proofs {
        let mut stream = connection.open_bi(StreamKind::Lease).await.unwrap().framed();
        stream.send(&ToContainer::Attach { lease, proof }).await.unwrap();
        let answer: ToConsumer = stream.recv_within(PATIENCE).await.unwrap();
        assert!(matches!(answer, ToConsumer::Refused { .. }), "{answer:?}");
        assert!(stream.recv::<ToConsumer>().await.unwrap().is_none(), "and the stream is over");
    }
    // What was not proved is not served: neither files nor output.
    let mut files = connection.open_bi(StreamKind::Files).await.unwrap().framed();
    files.send(&Transfer::Outputs { lease }).await.unwrap();
    let answer: Piece = files.recv_within(PATIENCE).await.unwrap();
    assert!(matches!(answer, Piece::Abort { why } if why.contains("attach")));
    // Whoever goes on like that is cut off.
    for _ in 0..5 {
        let Ok(stream) = connection.open_bi(StreamKind::Lease).await else { break };
        let mut stream = stream.framed();
        let proof = attach(&Wallet::random(), thief.id());
        if stream.send(&ToContainer::Attach { lease, proof }).await.is_err() {
            break;
        }
        drop(stream.recv::<ToConsumer>().await);
    }
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the thief is cut off");
    // The consumer notices nothing.
    renter.say(ToContainer::Ping).await;
    renter.hear(|m| matches!(m, ToConsumer::Pong)).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_stream_harms_nobody_else() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    for kind in [StreamKind::Lease, StreamKind::Job, StreamKind::Files, StreamKind::Offer, StreamKind::Demand] {
        let vandal = dialler().await;
        let connection = vandal.connect(&container.addr).await.unwrap();
        let mut stream = connection.open_bi(kind).await.unwrap();
        let written = stream.write_all(&[0xff; 4_096]).await;
        if kind == StreamKind::Demand {
            // Not a Container's business: refused, perhaps before all was written, and not punished.
            assert!(connection.close_reason().is_none());
            continue;
        }
        // It may be cut off before all is written.
        drop(written);
        tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap_or_else(|_| panic!("{kind:?} was not cut"));
        if let Ok(again) = vandal.connect(&container.addr).await {
            let reason = tokio::time::timeout(PATIENCE, again.closed()).await;
            let reason = reason.unwrap_or_else(|_| panic!("{kind:?} was not banned")).to_string();
            assert!(reason.contains("banned") || reason.contains("cut"), "{reason}");
        }
    }
    // An offer by somebody who is no Indexer of the network.
    let stranger = dialler().await;
    let connection = stranger.connect(&container.addr).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Offer).await.unwrap().framed();
    let terms = world.terms(container.id, &Wallet::random());
    // Being cut off before it has finished its sentence is fine, too.
    drop(stream.send(&Offer::Take(Box::new(terms))).await);
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the stranger is cut off");
    // A consumer who speaks before the proof.
    let hasty = dialler().await;
    let connection = hasty.connect(&container.addr).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Lease).await.unwrap().framed();
    drop(stream.send(&ToContainer::Stop).await);
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the hasty one is cut off");
    renter.go(&["true"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_inputs_are_refused_and_taken_back() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    let refused = |outcome: Outcome, words: &str| match outcome {
        Outcome::Refused { why } => assert!(why.contains(words), "{why}"),
        Outcome::Received { .. } => panic!("received, although: {words}"),
    };
    let file = |path: &str, len| Piece::File { path: path.to_owned(), len, executable: false };
    let chunk = |bytes: &[u8]| Piece::Chunk(bytes.to_vec().try_into().unwrap());
    let done = |entries| Piece::Done { entries, bytes: 0, left_out: Vec::new() };
    let wrong_hash = Piece::End { hash: muster_core::ids::ContentHash([0; 32]) };
    refused(renter.send_pieces(vec![file("a", 3), chunk(b"abc"), wrong_hash]).await, "hash");
    refused(renter.send_pieces(vec![file("a", 1 << 40)]).await, "--disk");
    refused(renter.send_pieces(vec![file("a", 2), chunk(b"abc")]).await, "announced with 2");
    refused(renter.send_pieces(vec![chunk(b"abc")]).await, "out of order");
    refused(renter.send_pieces(vec![done(7)]).await, "counts 7");
    let abort = Piece::Abort { why: "the disk here failed".to_owned() };
    refused(
        renter.send_pieces(vec![Piece::Folder { path: "d".into() }, file("d/a", 3), abort]).await,
        "disk here failed",
    );
    // None of it is there; and what comes now is.
    renter.upload(&[("b", b"good")]).await;
    renter.go(&["sh", "-c", "ls -A | grep -v lost+found"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(renter.streams(true).await.out, "b\n");
    refused(renter.upload(&[("c", b"late")]).await, "before the job begins");
    renter.pay_to_the_end(&world).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_vouchers_and_bad_commands_are_answered_with_a_sentence() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    let refusal = |message: ToConsumer| match message {
        ToConsumer::Refused { why } => why,
        other => panic!("{other:?}"),
    };
    let is_refusal = |m: &ToConsumer| matches!(m, ToConsumer::Refused { .. });
    let mut other_lease = renter.voucher(&world, TokenAmount(1));
    other_lease.voucher.lease = muster_core::ids::LeaseId([9; 32]);
    renter.say(ToContainer::Paid(other_lease)).await;
    assert!(refusal(renter.hear(is_refusal).await).contains("another lease"));
    let mut tampered = renter.voucher(&world, TokenAmount(1));
    tampered.voucher.amount = TokenAmount(2);
    renter.say(ToContainer::Paid(tampered)).await;
    assert!(refusal(renter.hear(is_refusal).await).contains("session key"));
    let too_much = TokenAmount(renter.terms.deposit.0 + 1);
    renter.go(&["no-such-program"]).await;
    let (end, ran_ms) = renter.pay_to_the_end(&world).await;
    assert!(matches!(&end, End::FailedToStart(why) if why.contains("no-such-program")), "{end}");
    assert_eq!(ran_ms, 0, "nothing is billed before the workload runs");
    let voucher = renter.voucher(&world, too_much);
    renter.say(ToContainer::Paid(voucher)).await;
    assert!(!refusal(renter.hear(is_refusal).await).is_empty());
    assert_eq!(renter.settled().await.1, renter.terms.deposit);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_never_sold_twice_and_terms_are_checked() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    container.line.heartbeat(|beat| !beat.draining).await;
    let session = Wallet::random();
    let big = |change: fn(&mut muster_core::lease::LeaseTerms)| {
        let mut terms = world.terms(container.id, &session);
        terms.allocation.cpu_millis = 1_500;
        terms.rate_per_second = TokenAmount(terms.rate_per_second.0 * 4);
        terms.deposit = TokenAmount(terms.deposit.0 * 4);
        change(&mut terms);
        Offer::Take(Box::new(terms))
    };
    let offers = futures::future::join_all((0..8).map(|_| container.line.offer(big(|_| {})))).await;
    let accepted = offers.iter().filter(|answer| matches!(answer, OfferAnswer::Accepted { .. })).count();
    assert_eq!(accepted, 1, "{offers:?}");
    let rejected = |answer: OfferAnswer| match answer {
        OfferAnswer::Rejected(why) => why,
        other => panic!("{other:?}"),
    };
    let small = |change: fn(&mut muster_core::lease::LeaseTerms)| {
        let mut terms = world.terms(container.id, &session);
        change(&mut terms);
        Offer::Take(Box::new(terms))
    };
    let cheap = rejected(container.line.offer(small(|t| t.rate_per_second = TokenAmount(1))).await);
    assert!(matches!(cheap, OfferRejected::TooCheap { .. }));
    let other = rejected(container.line.offer(small(|t| t.indexer = muster_core::ids::NodeId([3; 32]))).await);
    assert!(matches!(other, OfferRejected::BadTerms(_)));
    let egress = rejected(container.line.offer(small(|t| t.egress = true)).await);
    assert_eq!(egress, OfferRejected::NoEgress);
    let huge = rejected(container.line.offer(small(|t| t.allocation.disk = Bytes(1 << 40))).await);
    assert!(matches!(huge, OfferRejected::NoCapacity(_)));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owners_mistakes_get_a_sentence() {
    if !can_run_jobs() {
        return;
    }
    let mut world = World::new().await;
    let secret = NodeSecret::generate();
    let container = world.start(world.config("c1"), &secret).await;
    // The same folder twice.
    let twice = world.start_in_vain(world.config("c1"), &secret).await;
    assert!(matches!(&twice, ContainerError::Store(e) if e.to_string().contains("another process")), "{twice}");
    container.stop().await;
    // A folder of another key.
    let other = world.start_in_vain(world.config("c1"), &NodeSecret::generate()).await;
    assert!(other.to_string().contains("belongs to the node"), "{other}");
    // A wallet that cannot pay the stake.
    world.owner = Wallet::random();
    let poor = world.start_in_vain(world.config("c2"), &NodeSecret::generate()).await;
    assert!(matches!(&poor, ContainerError::Chain(why) if why.contains("stakes")), "{poor}");
    // A network file of another chain.
    let nobody = muster_container::ask(&world.dir.path().join("c9"), &muster_container::AdminRequest::Status).await;
    assert!(nobody.unwrap_err().to_string().contains("no Container is running"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_prove_itself_is_cut_off() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let silent = dialler().await;
    let connection = silent.connect(&container.addr).await.unwrap();
    let _stream = connection.open_bi(StreamKind::Lease).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the silent one is cut off");
    assert!(reason.to_string().contains("prove"), "{reason}");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_socket_is_the_owners_alone_and_answers_nonsense_with_a_sentence() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncBufReadExt, BufReader};
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let path = muster_container::socket_path(&container.data_dir);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&container.data_dir).unwrap().permissions().mode() & 0o777, 0o700);
    let mut socket = BufReader::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    for nonsense in ["nonsense\n", "{\"cmd\":\"fly\"}\n", "{\"cmd\":\"stop\",\"lease\":\"\"}\n"] {
        socket.write_all(nonsense.as_bytes()).await.unwrap();
        let mut line = String::new();
        socket.read_line(&mut line).await.unwrap();
        assert!(line.contains("\"ok\":false") && line.contains("\"error\":"), "{line}");
    }
    socket.write_all(b"{\"cmd\":\"status\"}\n").await.unwrap();
    let mut line = String::new();
    socket.read_line(&mut line).await.unwrap();
    assert!(line.contains("\"ok\":true") && line.contains("\"standing\":\"active\""), "{line}");
    container.stop().await;
    assert!(!path.exists());
}
