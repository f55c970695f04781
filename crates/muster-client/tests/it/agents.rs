//! The agent: one a folder, started on demand, taking over what others leave behind.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use muster_client::agent::{self, Connect, Ensured, Launch};
use muster_client::job::{Job, JobRequest, TaskOutcome};
use muster_client::ledger::Ledger;
use muster_client::rental::{RentalEnd, Stdio};
use muster_client::{ClientDir, leases};
use muster_core::demand::Demand;
use muster_core::lease::{End, Phase};
use muster_core::units::TokenAmount;
use tokio::sync::{mpsc, oneshot};

use crate::world::{FakeLedger, World};

fn connect(world: &World) -> Connect {
    let chain = Arc::clone(&world.chain);
    Box::new(move |_| {
        let ledger = FakeLedger { chain: Arc::clone(&chain), wallet: None };
        async move { Ok(Arc::new(ledger) as Arc<dyn Ledger>) }.boxed()
    })
}

async fn detached(world: &World, command: &str) -> muster_core::ids::LeaseId {
    let renter = world.renter().await;
    let (sender, _events) = mpsc::channel(1000);
    let demand = Demand { time_limit_s: 60, ..Demand::default() };
    let request = JobRequest {
        detach: true,
        output: Some(world.temp.path().join("out")),
        ..JobRequest::new(demand, vec![command.to_owned()])
    };
    let report = Job::new(renter.clone(), request, Box::new(|_, _| Stdio::default()), sender).unwrap().run().await;
    assert!(matches!(report.tasks[0].outcome, TaskOutcome::Detached), "{report:#?}");
    renter.close().await;
    report.leases().next().unwrap().lease
}

/// Waits until a condition holds; the test runner's own limit ends a wait without hope.
async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_carries_a_detached_lease_to_its_end_and_then_ends_itself() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let lease = detached(&world, "sleep 1200; say late; write result done; exit 4").await;
    let dir = world.dir();
    agent::run_with(&dir, connect(&world), Duration::from_millis(300), std::future::pending()).await.unwrap();
    let summary = leases::show(&dir, lease).unwrap();
    assert!(summary.over && !summary.driven);
    assert_eq!((summary.lease.phase, &summary.lease.end), (Phase::Closed, &Some(End::Exited(4))));
    assert_eq!(before.saturating_sub(world.balance()), summary.lease.billed);
    assert_eq!(fs::read(world.temp.path().join("out/result")).unwrap(), b"done");
    assert!(!agent::is_running(&dir).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_a_lease_on_request_and_lets_go_when_told() {
    let world = World::new(1, 1).await;
    let lease = detached(&world, "forever").await;
    let dir = world.dir();
    // A first agent is told to end and lets the lease go; a second one goes on.
    for round in 0..2 {
        let (tell, told) = oneshot::channel::<()>();
        let (its_dir, its_connect) = (dir.clone(), connect(&world));
        let agent = tokio::spawn(async move {
            let shutdown = async { drop(told.await) };
            agent::run_with(&its_dir, its_connect, Duration::from_millis(300), shutdown).await
        });
        until(|| dir.is_driven(lease).unwrap()).await;
        assert!(agent::is_running(&dir).unwrap());
        // A second one at the same time finds the first and leaves it the work.
        agent::run_with(&dir, connect(&world), Duration::from_secs(60), std::future::pending()).await.unwrap();
        if round == 0 {
            tell.send(()).unwrap();
            agent.await.unwrap().unwrap();
            assert!(!dir.is_driven(lease).unwrap());
            assert!(!leases::show(&dir, lease).unwrap().over, "letting go is not stopping");
        } else {
            leases::stop(&dir, lease).unwrap();
            agent.await.unwrap().unwrap();
        }
    }
    let summary = leases::show(&dir, lease).unwrap();
    assert_eq!((summary.lease.end, summary.lease.phase), (Some(End::StoppedByConsumer), Phase::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_gone_for_good_needs_the_wallet_and_the_rest_comes_back() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let lease = detached(&world, "forever").await;
    world.containers[0].die().await;
    let dir = world.dir();
    agent::run_with(&dir, connect(&world), Duration::from_millis(300), std::future::pending()).await.unwrap();
    let summary = leases::show(&dir, lease).unwrap();
    assert!(summary.needs.as_ref().is_some_and(|n| n.contains("muster lease stop")), "{summary:?}");
    assert!(summary.lease.end.as_ref().is_some_and(End::is_interruption));
    let launch = Launch { program: "/no/such/program".into(), args: Vec::new() };
    assert_eq!(agent::ensure_running(&dir, &launch).await.unwrap(), Ensured::NotNeeded);
    let renter = world.renter().await;
    let (events, _told) = mpsc::channel(100);
    let (end, record) = leases::finish(&renter, lease, Duration::from_secs(60), events).await.unwrap();
    assert_eq!((end, record.state.needs.as_ref()), (RentalEnd::Finished, None));
    assert_eq!(record.state.rented.lease.phase, Phase::Closed);
    // The fake escrow has no voucher of the Container's, so everything comes back.
    assert_eq!((world.balance(), record.state.rented.lease.redeemed), (before, TokenAmount::ZERO));
}

/// Not a test: the agent's process, for the tests below, which start this very file again.
#[tokio::test]
#[ignore = "started by other tests as a process of its own"]
async fn agent_process() {
    let dir = std::env::var_os("MUSTER_TEST_AGENT_DIR").expect("other tests say which folder");
    agent::run(&ClientDir::open(dir.as_ref()).unwrap(), std::future::pending()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_started_once_and_again_after_it_was_killed() {
    let world = World::new(1, 1).await;
    let dir = world.dir();
    let launch = Launch {
        program: "/usr/bin/env".into(),
        args: vec![
            format!("MUSTER_TEST_AGENT_DIR={}", dir.root().display()).into(),
            std::env::current_exe().unwrap().into(),
            "--ignored".into(),
            "--exact".into(),
            "agents::agent_process".into(),
        ],
    };
    assert_eq!(agent::ensure_running(&dir, &launch).await.unwrap(), Ensured::NotNeeded);
    detached(&world, "sleep 100; exit 0").await;
    let mut killed = 0;
    for _ in 0..2 {
        let (first, second) = tokio::join!(agent::ensure_running(&dir, &launch), agent::ensure_running(&dir, &launch));
        let both = [first.unwrap(), second.unwrap()];
        assert!(both.contains(&Ensured::Started), "{both:?}");
        assert_eq!(agent::ensure_running(&dir, &launch).await.unwrap(), Ensured::Running);
        // The number is written a moment after the lock is taken.
        let lock = dir.root().join("agent.lock");
        let number = |killed: i32| fs::read_to_string(&lock).unwrap().parse::<i32>().ok().filter(|pid| *pid != killed);
        until(|| number(killed).is_some()).await;
        // Two were started: the one that came second takes over when the first is killed before it has looked.
        until(|| {
            if let Some(pid) = number(killed) {
                killed = pid;
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            !agent::is_running(&dir).unwrap()
        })
        .await;
    }
    let broken = Launch { program: "/no/such/program".into(), args: Vec::new() };
    let said = agent::ensure_running(&dir, &broken).await.unwrap_err().to_string();
    assert!(said.contains("/no/such/program cannot be started"), "{said}");
    let useless = Launch { program: "/bin/false".into(), args: Vec::new() };
    let said = agent::ensure_running(&dir, &useless).await.unwrap_err().to_string();
    assert!(said.contains("agent.log"), "{said}");
}
