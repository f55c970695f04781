//! Whole leases against the real chain, the real Sandbox and real sockets.

use muster_container::AdminRequest;
use muster_core::lease::End;
use muster_core::protocol::{Offer, OfferAnswer, OfferRejected, ToConsumer, ToContainer};
use muster_core::units::TokenAmount;
use muster_net::NodeSecret;
use muster_wire::message::files::Outcome;

use crate::renter::{Renter, can_run_jobs, talk};
use crate::world::{World, name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_offer_to_the_money() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let full = container.line.heartbeat(|beat| !beat.draining).await;
    assert_eq!((full.free.cpu_millis, full.leases), (2_000, 0));

    let mut renter = Renter::open(&world, &container).await;
    let taken = container.line.heartbeat(|beat| beat.leases == 1).await;
    assert_eq!(taken.free.cpu_millis, 1_500);
    let sent =
        renter.upload(&[("in.txt", b"from home\n"), ("deep/er/kept.txt", b"same"), ("changed.txt", b"one")]).await;
    assert_eq!(sent, Outcome::Received { entries: 3, bytes: 17 });
    let script = "cat in.txt; echo $GREETING $MUSTER_LEASE_ID; echo oops >&2; echo made > made.txt; \
                  mkdir new; echo two > changed.txt; echo x > new/x; ln -s /etc/passwd link; exit 3";
    renter.go(&["sh", "-c", script]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let streams = renter.streams(true).await;
    assert_eq!(streams.out, format!("from home\nhello {}\n", renter.terms.lease));
    assert_eq!(streams.err, "oops\n");
    let (end, ran_ms) = renter.pay_to_the_end(&world).await;
    assert_eq!(end, End::Exited(3));
    let (redeemed, refunded, tx) = renter.settled().await;
    assert_eq!(redeemed, renter.paid);
    assert_eq!(redeemed, renter.terms.rate_per_second.per_second_for_ms(ran_ms));
    assert_eq!(redeemed.saturating_add(refunded), renter.terms.deposit);
    assert!(tx.is_some(), "the Container settles");

    let (files, left_out) = renter.outputs().await.unwrap();
    let expected =
        [("changed.txt", "two\n"), ("made.txt", "made\n"), ("new/x", "x\n")].map(|(p, c)| (p.to_owned(), c.into()));
    assert_eq!(files, expected);
    assert_eq!(left_out, ["link: it is a symbolic link"]);
    // Logs are there until the consumer needs them no more.
    assert_eq!(renter.streams(false).await.err, "oops\n");
    renter.say(ToContainer::Taken).await;
    let lease_dir = container.data_dir.join("leases").join(name(renter.terms.lease));
    while lease_dir.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(renter.outputs().await.unwrap_err().contains("removed"));

    let on_chain = world.client.lease(renter.terms.lease).await.unwrap().unwrap();
    assert_eq!(on_chain.redeemed, redeemed);
    let status = container.ask(AdminRequest::Status).await.unwrap();
    assert_eq!(status.standing, "active");
    assert_eq!((status.free, status.leases.len(), status.earned.leases), (status.total, 0, 1));
    let fee = redeemed.0 * u128::from(world.params.fee_bps) / 10_000;
    let (now, pending) = (status.earned.claimable.unwrap(), status.earned.pending.unwrap());
    let earned = now.parse::<u128>().unwrap() + pending.parse::<u128>().unwrap();
    assert!(earned.abs_diff(redeemed.0 - fee) <= 1, "{earned} of {redeemed}, fee {fee}");
    assert_eq!(status.history[0].redeemed, redeemed.0.to_string());
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_nobody_pays_for_stops() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sleep", "600"]).await;
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
    let ToConsumer::Ended { end, ran_ms } = ended else { unreachable!() };
    assert_eq!(end, End::Unpaid);
    assert!(ran_ms > renter.terms.interval_ms, "{ran_ms}");
    let (redeemed, refunded, _) = renter.settled().await;
    assert_eq!((redeemed, refunded), (TokenAmount::ZERO, renter.terms.deposit));
    container.line.heartbeat(|beat| beat.free.cpu_millis == 2_000).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_stops_is_an_interruption() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sleep", "600"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let heard = renter.hear(|m| matches!(m, ToConsumer::Usage { .. })).await;
    let ToConsumer::Usage { ran_ms } = heard else { unreachable!() };
    renter.pay_for(&world, ran_ms).await;
    let status = container.ask(AdminRequest::Status).await.unwrap();
    assert_eq!(status.leases[0].phase, "running");
    let unknown = container.ask(AdminRequest::Stop { lease: "0xffff".into() }).await.unwrap_err();
    assert!(unknown.to_string().contains("no lease"), "{unknown}");
    container.ask(AdminRequest::Stop { lease: status.leases[0].lease[..12].to_owned() }).await.unwrap();
    let (end, _) = renter.pay_to_the_end(&world).await;
    assert!(end.is_interruption(), "{end}");
    // What was promised before stays; nothing is added for the interval that was hit.
    assert_eq!(renter.settled().await.0, renter.paid);
    assert_eq!(container.ask(AdminRequest::Status).await.unwrap().earned.interrupted, 1);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_an_interruption_and_leaves_no_ghost() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let secret = NodeSecret::generate();
    let container = world.start(world.config("c1"), &secret).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sh", "-c", "echo before; sleep 600"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let heard = renter.hear(|m| matches!(m, ToConsumer::Usage { .. })).await;
    let ToConsumer::Usage { ran_ms } = heard else { unreachable!() };
    renter.pay_for(&world, ran_ms).await;
    // A slot that waits for its deposit goes on after the crash.
    let waiting_session = muster_chain::keys::Wallet::random();
    let waiting = world.terms(container.id, &waiting_session);
    container.line.accept(&waiting).await;
    let still_held = renter.terms.clone();
    let session = renter.session.clone();
    // The voucher is on disk once the next question comes.
    renter.hear(|m| matches!(m, ToConsumer::Usage { .. })).await;
    let paid = renter.paid;
    container.crash();
    drop(renter);

    let container = world.start(world.config("c1"), &secret).await;
    let mut renter = Renter::attach(still_held, session, &container).await;
    let ended = renter.hear(|m| matches!(m, ToConsumer::Ended { .. })).await;
    let ToConsumer::Ended { end, .. } = ended else { unreachable!() };
    assert!(end.is_interruption(), "{end}");
    assert_eq!(renter.streams(true).await.out, "before\n");
    // The folder went with the runtime, as it does not in a real crash; the consumer is told so.
    assert!(renter.outputs().await.unwrap_err().contains("restarted"));
    assert_eq!(renter.settled().await.0, paid);
    world.deposit(&waiting).await;
    let mut second = Renter::attach(waiting, waiting_session, &container).await;
    second.hear(|m| matches!(m, ToConsumer::Open)).await;
    second.go(&["true"]).await;
    assert_eq!(second.pay_to_the_end(&world).await.0, End::Exited(0));
    container.line.heartbeat(|beat| beat.free.cpu_millis == 2_000 && beat.leases == 0).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_container_finishes_and_takes_nothing_new() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let secret = NodeSecret::generate();
    let container = world.start(world.config("c1"), &secret).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sh", "-c", "sleep 1; echo done"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    container.ask(AdminRequest::Leave).await.unwrap();
    container.line.heartbeat(|beat| beat.draining).await;
    let session = muster_chain::keys::Wallet::random();
    let refused = container.line.offer(Offer::Take(Box::new(world.terms(container.id, &session)))).await;
    assert_eq!(refused, OfferAnswer::Rejected(OfferRejected::Draining));
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    renter.settled().await;
    let left = async {
        loop {
            let status = container.ask(AdminRequest::Status).await.unwrap();
            if status.standing == "left" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, left).await.expect("it leaves once idle");
    container.stop().await;
    // The wish survives a restart, and the Container stays out.
    let container = world.start(world.config("c1"), &secret).await;
    let status = container.ask(AdminRequest::Status).await.unwrap();
    assert_eq!((status.standing.as_str(), status.intent), ("left", muster_container::Intent::Leaving));
    // Until its owner changes their mind.
    container.ask(AdminRequest::Resume).await.unwrap();
    container.line.heartbeat(|beat| !beat.draining).await;
    assert_eq!(container.ask(AdminRequest::Status).await.unwrap().standing, "active");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_flow_both_ways_in_any_amount() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    // More than all pipes and windows together, through a job that gives back what it gets.
    renter.go_with(&["cat"], true).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let piece = vec![b'x'; 32 * 1024];
    let typed: Vec<&[u8]> = (0..256).map(|_| piece.as_slice()).collect();
    let (connection, lease) = (renter.connection.clone(), renter.terms.lease);
    let (streams, (end, _)) = tokio::join!(talk(&connection, lease, &typed), renter.pay_to_the_end(&world));
    assert_eq!(streams.out.len(), 256 * 32 * 1024);
    assert_eq!((streams.missed, end), (0, End::Exited(0)));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_nobody_watches_goes_on_and_its_first_words_give_way() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' y; echo end"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    let streams = renter.streams(true).await;
    assert_eq!(streams.missed, 20_000_004 - (16 << 20));
    assert!(streams.out.ends_with("yyyend\n") && streams.out.len() == 16 << 20);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_reach_the_consumer_as_reasons() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    for (script, expected) in [
        ("head -c 400000000 /dev/zero | tail -n 1 | wc -c; exit 1", End::OutOfMemory),
        ("head -c 100000000 /dev/zero > big || exit 1", End::DiskFull),
        ("kill -9 $$", End::Signaled(9)),
    ] {
        let mut renter = Renter::open(&world, &container).await;
        renter.go(&["sh", "-c", script]).await;
        assert_eq!(renter.pay_to_the_end(&world).await.0, expected, "{script}");
        assert_eq!(renter.settled().await.0, renter.paid);
    }
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_job_costs_no_sandbox_where_that_is_allowed() {
    let world = World::new().await;
    if !can_run_jobs() {
        return;
    }
    let mut config = world.config("c1");
    config.allow_empty = true;
    let container = world.start(config, &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["muster:empty"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    renter.settled().await;
    assert_eq!(renter.outputs().await.unwrap(), (Vec::new(), Vec::new()));
    // Other jobs run as ever.
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["echo", "muster:empty"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    assert_eq!(renter.streams(true).await.out, "muster:empty\n");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_outlive_a_restart() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let secret = NodeSecret::generate();
    let container = world.start(world.config("c1"), &secret).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.upload(&[("in.txt", b"brought")]).await;
    renter.go(&["sh", "-c", "echo made > out.txt; echo said"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    renter.settled().await;
    let (terms, session) = (renter.terms.clone(), renter.session.clone());
    container.stop().await;
    drop(renter);
    let container = world.start(world.config("c1"), &secret).await;
    let mut renter = Renter::attach(terms, session, &container).await;
    renter.settled().await;
    assert_eq!(renter.streams(true).await.out, "said\n");
    let (files, _) = renter.outputs().await.unwrap();
    assert_eq!(files, [("out.txt".to_owned(), b"made\n".to_vec())]);
    let jobs = container.data_dir.join("sandbox/jobs");
    assert_eq!(std::fs::read_dir(&jobs).unwrap().count(), 1);
    renter.say(ToContainer::Taken).await;
    while std::fs::read_dir(&jobs).unwrap().count() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_nobody_fetches_give_way_and_small_ones_take_little() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let mut config = world.config("c1");
    config.offer.disk = muster_core::units::Bytes(64 << 20);
    let container = world.start(config, &NodeSecret::generate()).await;
    let jobs = container.data_dir.join("sandbox/jobs");
    let run = async |script: &str| {
        let mut renter = Renter::open(&world, &container).await;
        renter.go(&["sh", "-c", script]).await;
        assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
        renter.settled().await;
        renter
    };
    // Each rents half of the disk and leaves little: all are kept.
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(Box::pin(run("echo small > result")).await);
    }
    for renter in &kept {
        assert_eq!(renter.outputs().await.unwrap().0.len(), 1);
    }
    // These leave much: the oldest go.
    for _ in 0..3 {
        kept.push(Box::pin(run("head -c 25000000 /dev/urandom > result")).await);
    }
    while std::fs::read_dir(&jobs).unwrap().count() > 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let why = kept[0].outputs().await.unwrap_err();
    assert!(why.contains("make room"), "{why}");
    assert_eq!(kept.last().unwrap().outputs().await.unwrap().0.len(), 1);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_holds_its_own_job_and_nothing_else() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sh", "-c", "yes"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let stalled = renter.stall().await;
    // Others go on, and so does the metering.
    let mut other = Renter::open(&world, &container).await;
    other.go(&["echo", "fine"]).await;
    assert_eq!(other.pay_to_the_end(&world).await.0, End::Exited(0));
    assert_eq!(other.streams(true).await.out, "fine\n");
    renter.say(ToContainer::Stop).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::StoppedByConsumer);
    renter.settled().await;
    drop(stalled);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_is_away_delays_the_money_and_loses_none() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sh", "-c", "echo while away"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    world.chain.down().await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    assert_eq!(renter.streams(true).await.out, "while away\n");
    // A chain that does not answer is no reason to lose one's standing.
    let status = container.ask(AdminRequest::Status).await.unwrap();
    assert_eq!((status.standing.as_str(), status.earned.claimable), ("active", None));
    container.line.heartbeat(|beat| !beat.draining && beat.leases == 0).await;
    world.chain.up().await;
    assert_eq!(renter.settled().await.0, renter.paid);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_starts_while_the_chain_is_away_and_takes_work_once_it_is_back() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    world.chain.down().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let status = container.ask(AdminRequest::Status).await.unwrap();
    assert_eq!(status.standing, "unknown");
    let session = muster_chain::keys::Wallet::random();
    let answer = container.line.offer(Offer::Take(Box::new(world.terms(container.id, &session)))).await;
    assert!(matches!(answer, OfferAnswer::Rejected(OfferRejected::NotRegistered(_))), "{answer:?}");
    world.chain.up().await;
    container.line.heartbeat(|beat| !beat.draining).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["true"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::Exited(0));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_who_closes_on_the_chain_behind_the_back_is_noticed_in_time() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let mut renter = Renter::open(&world, &container).await;
    renter.go(&["sleep", "600"]).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    world.consumer.close_by_consumer(renter.terms.lease).await.unwrap();
    // It goes on paying, so only the chain tells: the vouchers must be in before the challenge window is over.
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::StoppedByConsumer);
    let (redeemed, refunded, _) = renter.settled().await;
    assert!(redeemed == renter.paid && redeemed > TokenAmount::ZERO);
    assert_eq!(redeemed.saturating_add(refunded), renter.terms.deposit);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposit_can_be_added_to_and_ends_the_job_when_it_is_used_up() {
    if !can_run_jobs() {
        return;
    }
    let world = World::new().await;
    let container = world.start(world.config("c1"), &NodeSecret::generate()).await;
    let small = |terms: &mut muster_core::lease::LeaseTerms| {
        terms.deposit = terms.rate_per_second.per_second_for_ms(3_000);
    };
    let mut renter = Renter::open_with(&world, &container, small).await;
    let more = renter.terms.rate_per_second.per_second_for_ms(1_500);
    world.consumer.top_up("test", renter.terms.lease, more).await.unwrap();
    renter.say(ToContainer::ToppedUp).await;
    let all = renter.terms.deposit.saturating_add(more);
    while container.ask(AdminRequest::Status).await.unwrap().leases[0].deposit != all.0.to_string() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    renter.terms.deposit = all;
    renter.go(&["sleep", "600"]).await;
    assert_eq!(renter.pay_to_the_end(&world).await.0, End::DepositUsedUp);
    let (redeemed, refunded, _) = renter.settled().await;
    assert_eq!((redeemed, refunded), (all, TokenAmount::ZERO));
    container.stop().await;
}
