//! Whole rentals: from a demand to the refund.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_client::job::{Job, JobControl, JobError, JobEvent, JobReport, JobRequest, JobStep, StdioFor, TaskOutcome};
use muster_client::rental::{Command, Rental, RentalEnd, RentalEvent, Stdio};
use muster_client::{Renter, leases};
use muster_core::demand::Demand;
use muster_core::ids::LeaseId;
use muster_core::lease::{End, Phase};
use muster_core::live::SessionSpec;
use muster_core::protocol::EscrowStatus;
use muster_core::units::TokenAmount;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::world::{World, unheard};

fn request(command: &str) -> JobRequest {
    let demand = Demand { time_limit_s: 60, ..Demand::default() };
    JobRequest::new(demand, vec![command.to_owned()])
}

fn silent() -> StdioFor {
    Box::new(|_, _| Stdio::default())
}

/// Runs a job to its end; gives the report and all events.
async fn run(renter: &Renter, request: JobRequest) -> (JobReport, Vec<JobEvent>) {
    let (sender, mut events) = mpsc::channel(10_000);
    let report = Job::new(renter.clone(), request, silent(), sender).unwrap().run().await;
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    (report, seen)
}

/// Nothing was lost and nothing paid twice: what the wallet lost is what was billed.
fn books_agree(world: &World, before: TokenAmount, report: &JobReport) {
    assert_eq!(before.saturating_sub(world.balance()), report.billed(), "{report:#?}");
    for attempt in report.leases() {
        assert_eq!(attempt.billed.saturating_add(attempt.refunded), attempt.deposit, "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_brings_its_outputs_and_is_paid_for() {
    let world = World::with_interval(1, 4, 600).await;
    let renter = world.renter().await;
    let before = world.balance();
    let input = world.temp.path().join("scene");
    fs::create_dir(&input).unwrap();
    fs::write(input.join("a.pov"), b"sphere").unwrap();
    let out = world.temp.path().join("out");
    let request = JobRequest {
        inputs: vec![input],
        output: Some(out.clone()),
        ..request("say hello; write frame.png picture; sleep 900; say bye; exit 3")
    };
    let (report, events) = run(&renter, request).await;
    let [task] = report.tasks.as_slice() else { panic!("{report:?}") };
    assert!(matches!(task.outcome, TaskOutcome::Ended(End::Exited(3))), "{report:#?}");
    let [lease] = task.attempts.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (lease.phase, lease.redeem_tx.as_deref()),
        (Phase::Closed, Some(format!("0x{}", "09".repeat(32)).as_str()))
    );
    assert!(lease.ran_ms >= 900 && lease.vouchers >= 2, "{lease:?}");
    assert_eq!(lease.billed, lease.rate_per_second.per_second_for_ms(lease.ran_ms));
    books_agree(&world, before, &report);
    assert_eq!(fs::read(out.join("frame.png")).unwrap(), b"picture");
    assert_eq!(task.outputs.len(), 1);
    assert_eq!(
        world.containers[0].inputs(lease.lease).into_iter().collect::<Vec<_>>(),
        [("scene/a.pov".to_owned(), b"sphere".to_vec())]
    );
    // The Container is told that all is taken; nobody waits for it.
    while world.containers[0].cleaned.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let steps: Vec<_> = events.iter().map(|e| &e.step).collect();
    assert!(steps.iter().any(|s| matches!(s, JobStep::Lease { event: RentalEvent::Running, .. })));
    assert!(steps.iter().any(|s| matches!(s, JobStep::Lease { event: RentalEvent::Settled { .. }, .. })));
    // The logs are kept, and whoever asks later reads them.
    let (mut shown, mut errors) = (Vec::new(), Vec::new());
    leases::logs(renter.dir(), lease.lease, true, &mut shown, &mut errors).await.unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), "hello \nbye \n");
    assert!(renter.dir().read(lease.lease).unwrap().is_over());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_and_output_stream_both_ways() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let (mut typed, input) = tokio::io::duplex(1024);
    let (output, mut shown) = tokio::io::duplex(1024);
    let ends = Mutex::new(Some((input, output)));
    let stdio: StdioFor = Box::new(move |_, _| {
        let (input, output) = ends.lock().unwrap().take().unwrap();
        Stdio { out: Some(Box::new(output)), err: None, input: Some(Box::new(input)) }
    });
    let (sender, _events) = mpsc::channel(1000);
    let request = JobRequest { stdin: true, ..request("cat; exit 0") };
    let job = tokio::spawn(Job::new(renter, request, stdio, sender).unwrap().run());
    // More than every buffer on the way holds, so that it only passes if both directions flow.
    let text: Vec<u8> = (0..100_000u32).flat_map(|n| (n as u16).to_le_bytes()).collect();
    let expected = text.clone();
    let typing = tokio::spawn(async move {
        typed.write_all(&text).await.unwrap();
    });
    let mut got = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut shown, &mut got).await.unwrap();
    typing.await.unwrap();
    assert!(got == expected, "{} bytes came of {}", got.len(), expected.len());
    assert!(job.await.unwrap().succeeded());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_line_is_dialled_again_and_nothing_is_missed() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let before = world.balance();
    let container = Arc::clone(&world.containers[0]);
    let cutting = tokio::spawn(async move {
        for _ in 0..2 {
            // Longer than the pause between two dials, so that each loss is answered at once.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            container.cut_lines();
        }
    });
    let say: Vec<String> = (0..32).map(|n| format!("say line {n}; sleep 100")).collect();
    let output = Some(world.temp.path().join("out"));
    let (report, events) = run(&renter, JobRequest { output, ..request(&say.join("; ")) }).await;
    cutting.await.unwrap();
    assert!(report.succeeded(), "{report:#?}");
    assert!(events.iter().any(|e| matches!(e.step, JobStep::Lease { event: RentalEvent::Lost { .. }, .. })));
    books_agree(&world, before, &report);
    let lease = report.leases().next().unwrap().lease;
    let (mut shown, mut errors) = (Vec::new(), Vec::new());
    leases::logs(renter.dir(), lease, false, &mut shown, &mut errors).await.unwrap();
    let expected: String = (0..32).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
}

/// The Container is gone for good in the middle of the work: what was vouched is paid to it all the same, and the work is
/// done elsewhere while the challenge window still runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_container_is_paid_and_not_waited_for() {
    let world = World::with_interval(2, 1, 600).await;
    let renter = world.renter().await;
    let before = world.balance();
    world.chain.holds_windows.store(true, Ordering::SeqCst);
    let (sender, mut events) = mpsc::channel(10_000);
    let request = JobRequest { retries: 1, ..request("sleep 1500; say done") };
    let job = Job::new(renter.clone(), request, silent(), sender).unwrap();
    let running = tokio::spawn(job.run());
    let (mut lost, mut promised) = (None, TokenAmount::ZERO);
    let statuses = |lease: &LeaseId| world.chain.leases.lock().unwrap().get(lease).unwrap().status;
    while let Some(event) = events.recv().await {
        match event.step {
            JobStep::Lease { lease, event: RentalEvent::Paid { amount, .. } } if lost.is_none_or(|l| l == lease) => {
                promised = amount;
                if lost.replace(lease).is_none() {
                    let on_chain = world.chain.leases.lock().unwrap().get(&lease).unwrap().container;
                    world.containers.iter().find(|c| c.id() == on_chain).unwrap().die().await;
                }
            }
            JobStep::Over { .. } => {
                assert_eq!(lost.as_ref().map(statuses), Some(EscrowStatus::Closing), "the window still runs");
                assert!(!running.is_finished(), "the report waits for what the chain will have paid");
                world.chain.holds_windows.store(false, Ordering::SeqCst);
            }
            _ => {}
        }
    }
    let report = running.await.unwrap();
    assert!(report.succeeded(), "{report:#?}");
    let [first, second] = report.tasks[0].attempts.as_slice() else { panic!("{report:#?}") };
    assert!(matches!(first.end, Some(End::Interrupted(_))), "{first:?}");
    assert_ne!(first.container, second.container);
    assert!(promised > TokenAmount::ZERO);
    assert_eq!((first.phase, first.billed), (Phase::Closed, promised));
    books_agree(&world, before, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_task_is_tried_on_another_container() {
    let world = World::new(2, 1).await;
    let renter = world.renter().await;
    let before = world.balance();
    world.containers[0].interrupts.store(1, Ordering::SeqCst);
    let output = world.temp.path().join("out");
    let request = JobRequest {
        retries: 3,
        array: Some(0..=0),
        output: Some(output.clone()),
        ..request("sleep 50; write frame-$I x; exit 0")
    };
    let (report, events) = run(&renter, request).await;
    assert!(report.succeeded(), "{report:#?}");
    let attempts = &report.tasks[0].attempts;
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0].end.as_ref().is_some_and(End::is_interruption));
    assert_ne!(attempts[0].container, attempts[1].container);
    assert_eq!(attempts[0].billed, TokenAmount::ZERO, "an interrupted interval is not billed");
    assert!(events.iter().any(|e| matches!(e.step, JobStep::Retrying { .. })));
    books_agree(&world, before, &report);
    assert!(output.join("frame-0").exists());
}

/// What a Container cannot read it will not read the next time either: said at once, and done elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_cannot_read_a_job_is_left_for_another() {
    let world = World::new(2, 1).await;
    let renter = world.renter().await;
    let before = world.balance();
    world.containers[0].is_older.store(true, Ordering::SeqCst);
    let (report, _) = run(&renter, JobRequest { retries: 1, ..request("say done; exit 0") }).await;
    assert!(report.succeeded(), "{report:#?}");
    let [first, second] = report.tasks[0].attempts.as_slice() else { panic!("{report:#?}") };
    let Some(End::Interrupted(why)) = &first.end else { panic!("{first:?}") };
    assert!(why.contains("turned this side away") && why.contains("names nothing that this build knows"), "{why}");
    assert_ne!(first.container, second.container);
    assert_eq!(first.billed, TokenAmount::ZERO);
    books_agree(&world, before, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_waits_for_slots_and_gathers_its_outputs() {
    let world = World::new(2, 2).await;
    let renter = world.renter().await;
    let before = world.balance();
    let output = world.temp.path().join("out");
    let request = JobRequest {
        array: Some(10..=21),
        output: Some(output.clone()),
        // Nothing may give up while others of the array still run.
        busy_patience: Duration::from_millis(50),
        ..request("sleep 100; write frame-$I picture-$I; write log $I; exit 0")
    };
    let (report, events) = run(&renter, request).await;
    assert!(report.succeeded(), "{report:#?}");
    assert_eq!(report.tasks.iter().map(|t| t.index.unwrap()).collect::<Vec<_>>(), (10..=21).collect::<Vec<_>>());
    for index in 10..=21 {
        let text = fs::read_to_string(output.join(format!("frame-{index}"))).unwrap();
        assert_eq!(text, format!("picture-{index}"));
    }
    assert_eq!(report.tasks.iter().flat_map(|t| &t.outputs).filter(|o| o.aside).count(), 11, "one log is not aside");
    assert!(events.iter().any(|e| matches!(e.step, JobStep::Waiting { .. })), "four slots are fewer than twelve tasks");
    books_agree(&world, before, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_settles_and_says_what_was_billed() {
    let world = World::new(1, 2).await;
    let renter = world.renter().await;
    let before = world.balance();
    let (sender, mut events) = mpsc::channel(1000);
    let request = JobRequest { array: Some(0..=4), ..request("forever") };
    let job = Job::new(renter, request, silent(), sender).unwrap();
    let control = job.control();
    let job = tokio::spawn(job.run());
    let mut running = 0;
    while running < 2 {
        let event = events.recv().await.unwrap();
        running += usize::from(matches!(event.step, JobStep::Lease { event: RentalEvent::Running, .. }));
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    control.stop();
    let report = job.await.unwrap();
    assert!(report.tasks.iter().all(|t| matches!(t.outcome, TaskOutcome::Stopped)), "{report:#?}");
    assert_eq!(report.leases().count(), 2, "what was never started was never rented");
    assert!(report.leases().all(|a| a.phase == Phase::Closed && a.billed > TokenAmount::ZERO));
    books_agree(&world, before, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_goes_on_without_the_wallet() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let first = world.renter().await;
    let output = world.temp.path().join("out");
    let request = JobRequest {
        detach: true,
        output: Some(output.clone()),
        ..request("say one; sleep 1500; say two; write result done; exit 0")
    };
    let (report, _) = run(&first, request).await;
    assert!(matches!(report.tasks[0].outcome, TaskOutcome::Detached), "{report:#?}");
    assert!(report.leaves_work());
    first.close().await;
    let lease = report.leases().next().unwrap().lease;
    let second = world.process(None).await;
    let file = second.dir().drive(lease).unwrap();
    let (events, _told) = mpsc::channel(1000);
    let (_commands, received) = mpsc::channel(1);
    let (end, record) = Rental::new(second.clone(), file, events, received).run().await.unwrap();
    assert_eq!(end, RentalEnd::Finished);
    assert_eq!(record.state.rented.lease.end, Some(End::Exited(0)));
    assert_eq!(before.saturating_sub(world.balance()), record.state.rented.lease.redeemed);
    assert_eq!(fs::read(output.join("result")).unwrap(), b"done");
    let (mut shown, mut errors) = (Vec::new(), Vec::new());
    leases::logs(second.dir(), lease, false, &mut shown, &mut errors).await.unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), "one \ntwo \n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_killed_at_any_moment_leaves_a_lease_that_goes_on() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let renter = world.renter().await;
    let input = world.temp.path().join("input");
    fs::write(&input, vec![1; 100_000]).unwrap();
    for kill_after_ms in [0, 3, 10, 30, 80, 200, 500] {
        let output = world.temp.path().join(format!("out{kill_after_ms}"));
        let request = JobRequest {
            inputs: vec![input.clone()],
            output: Some(output.clone()),
            ..request("say one; sleep 300; write result done; exit 0")
        };
        let (sender, mut events) = mpsc::channel(1000);
        let job = tokio::spawn(Job::new(renter.clone(), request, silent(), sender).unwrap().run());
        let lease = loop {
            if let JobStep::Matched { lease, .. } = events.recv().await.unwrap().step {
                break lease;
            }
        };
        tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
        job.abort();
        drop(job.await);
        // The record is written before anything is paid, so either there is a record or nothing happened.
        let Ok(file) = wait_for_lock(&renter, lease).await else {
            assert!(!world.chain.leases.lock().unwrap().contains_key(&lease));
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (events, _told) = mpsc::channel(1000);
        let (_commands, received) = mpsc::channel(1);
        let (end, record) = Rental::new(renter.clone(), file, events, received).run().await.unwrap();
        assert_eq!(end, RentalEnd::Finished, "after {kill_after_ms} ms");
        assert_eq!(record.state.rented.lease.end, Some(End::Exited(0)), "after {kill_after_ms} ms: {record:#?}");
        assert_eq!(fs::read(output.join("result")).unwrap(), b"done");
    }
    let billed = world.chain.leases.lock().unwrap().values().fold(0, |sum, l| sum + l.redeemed.0);
    assert_eq!(before.0 - world.balance().0, billed);
}

async fn wait_for_lock(
    renter: &Renter,
    lease: muster_core::ids::LeaseId,
) -> Result<muster_client::store::LeaseFile, muster_client::StoreError> {
    // A save that was under way when the driver was killed holds the lock a moment longer.
    for _ in 0..100 {
        match renter.dir().drive(lease) {
            Err(muster_client::StoreError::Driven { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other,
        }
    }
    renter.dir().drive(lease)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_of_other_processes_are_fulfilled() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let (sender, mut events) = mpsc::channel(1000);
    let request = JobRequest { deposit_seconds: Some(5), ..request("forever") };
    let job = tokio::spawn(Job::new(renter.clone(), request, silent(), sender).unwrap().run());
    let lease = loop {
        if let JobStep::Lease { lease, event: RentalEvent::Running } = events.recv().await.unwrap().step {
            break lease;
        }
    };
    let deposit = leases::top_up(&renter, lease, TokenAmount(TokenAmount::ONE.0)).await.unwrap();
    assert!(deposit.0 > TokenAmount::ONE.0);
    loop {
        if let JobStep::Lease { event: RentalEvent::ToppedUp { deposit: told }, .. } = events.recv().await.unwrap().step
        {
            assert_eq!(told, deposit);
            break;
        }
    }
    leases::stop(renter.dir(), lease).unwrap();
    let report = job.await.unwrap();
    assert!(matches!(report.tasks[0].outcome, TaskOutcome::Ended(End::StoppedByConsumer)), "{report:#?}");
    assert_eq!(renter.dir().wishes().unwrap(), []);
    assert!(matches!(leases::stop(renter.dir(), lease), Err(leases::LeaseError::Over { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposit_that_runs_low_is_told_and_ends_cleanly_or_is_topped_up() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let before = world.balance();
    let short = JobRequest { deposit_seconds: Some(2), ..request("forever") };
    let (report, events) = run(&renter, short).await;
    assert!(matches!(report.tasks[0].outcome, TaskOutcome::Ended(End::DepositUsedUp)), "{report:#?}");
    assert!(events.iter().any(|e| matches!(e.step, JobStep::Lease { event: RentalEvent::DepositLow { .. }, .. })));
    books_agree(&world, before, &report);
    let topped = JobRequest {
        deposit_seconds: Some(2),
        top_up: Some(muster_client::rental::TopUp { seconds: 3 }),
        ..request("sleep 3500; exit 0")
    };
    let (report, _) = run(&renter, topped).await;
    assert!(report.succeeded(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_cost_nothing_and_say_what_is_wrong() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let before = world.balance();
    let new = |request| {
        let (sender, _) = mpsc::channel(10);
        Job::new(renter.clone(), request, silent(), sender).map(|_| ()).unwrap_err().to_string()
    };
    assert!(new(JobRequest { inputs: vec!["/no/such/file".into()], ..request("x") }).contains("does not exist"));
    assert!(new(JobRequest { command: Vec::new(), ..request("x") }).contains("command"));
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let backwards = JobRequest { array: Some(3..=1), ..request("x") };
    assert!(new(backwards).contains("smaller number first"));
    // An input that vanishes after it was checked.
    let input = world.temp.path().join("gone");
    fs::write(&input, b"x").unwrap();
    let (sender, _events) = mpsc::channel(1000);
    let vanishing = JobRequest { inputs: vec![input.clone()], ..request("exit 0") };
    let job = Job::new(renter.clone(), vanishing, silent(), sender).unwrap();
    fs::remove_file(&input).unwrap();
    let report = job.run().await;
    assert_eq!(report.billed(), TokenAmount::ZERO, "{report:#?}");
    match &report.tasks[0].outcome {
        TaskOutcome::InputsFailed { why } => assert!(why.contains("gone does not exist"), "{why}"),
        other => panic!("{other:?}"),
    }
    // The chain says no.
    *world.chain.refuse_opens.lock().unwrap() = Some("the escrow is paused".to_owned());
    let (report, _) = run(&renter, request("exit 0")).await;
    assert!(format!("{report:?}").contains("the escrow is paused"), "{report:#?}");
    *world.chain.refuse_opens.lock().unwrap() = None;
    assert_eq!(world.balance(), before, "nothing was charged");
    // Too little in the wallet: both amounts are named.
    *world.chain.balance.lock().unwrap() = TokenAmount(TokenAmount::ONE.0 / 1000);
    let (report, _) = run(&renter, request("exit 0")).await;
    match &report.tasks[0].outcome {
        TaskOutcome::Failed(error @ JobError::TooLittle { .. }) => {
            let said = error.to_string();
            assert!(said.contains("0.001") && said.contains("0.12") && said.contains("faucet"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_cannot_be_written_stay_until_they_can() {
    let world = World::new(1, 1).await;
    let renter = world.renter().await;
    let output = world.temp.path().join("out");
    let request = |command: &str| JobRequest { output: Some(output.clone()), ..request(command) };
    // What is wrong beforehand is said before anything is rented.
    fs::write(&output, b"in the way").unwrap();
    let (sender, _) = mpsc::channel(10);
    let refused = Job::new(renter.clone(), request("exit 0"), silent(), sender).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("in the way"), "{refused}");
    fs::remove_file(&output).unwrap();
    // What goes wrong while the job runs, as on a disk that fills up.
    let (sender, mut events) = mpsc::channel(1000);
    let job = Job::new(renter.clone(), request("sleep 300; write result done; exit 0"), silent(), sender).unwrap();
    let job = tokio::spawn(job.run());
    while !matches!(events.recv().await.unwrap().step, JobStep::Lease { event: RentalEvent::Running, .. }) {}
    fs::remove_dir(&output).unwrap();
    fs::write(&output, b"in the way").unwrap();
    let report = job.await.unwrap();
    match &report.tasks[0].outcome {
        TaskOutcome::OutputsMissing { end, why } => {
            assert_eq!(*end, End::Exited(0));
            assert!(why.contains("in the way"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(report.leaves_work());
    assert_eq!(world.containers[0].cleaned.load(Ordering::SeqCst), 0, "the Container keeps them");
    fs::remove_file(&output).unwrap();
    let lease = report.leases().next().unwrap().lease;
    let second = world.process(None).await;
    let file = second.dir().drive(lease).unwrap();
    let (events, _told) = mpsc::channel(1000);
    let (_commands, received) = mpsc::channel::<Command>(1);
    let (end, record) = Rental::new(second, file, events, received).run().await.unwrap();
    assert_eq!((end, record.state.outputs_note), (RentalEnd::Finished, None));
    assert_eq!(fs::read(output.join("result")).unwrap(), b"done");
}

/// A live session that runs in the background while its deposit is on its way; gives its first lease once the program
/// runs.
async fn early(world: &World, renter: &Renter) -> (JobControl, JoinHandle<JobReport>, LeaseId) {
    world.chain.holds_opens.send_replace(true);
    let (sender, mut events) = mpsc::channel(10_000);
    let session = request("forever").with_session(SessionSpec::default());
    let job = Job::new(renter.clone(), session, silent(), sender).unwrap();
    let control = job.control();
    let running = tokio::spawn(job.run());
    let lease = loop {
        let Some(event) = events.recv().await else { panic!("it never began: {:#?}", running.await) };
        if let JobStep::Lease { lease, event: RentalEvent::Starting } = event.step {
            break lease;
        }
    };
    while world.containers[0].known(lease).started_at.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (control, running, lease)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_while_its_deposit_is_on_its_way_and_pays_from_then_on() {
    let world = World::with_interval(1, 1, 600).await;
    let before = world.balance();
    let renter = world.renter().await;
    let (control, running, lease) = early(&world, &renter).await;
    // Time in which it runs for nothing.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let known = world.containers[0].known(lease);
    assert_eq!((known.phase, known.deposit_seen(), known.vouchers), (Phase::Starting, false, 0));
    assert_eq!(renter.dir().read(lease).unwrap().state.rented.lease.phase, Phase::Accepted);
    world.chain.holds_opens.send_replace(false);
    while world.containers[0].known(lease).vouchers == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    control.stop();
    let report = running.await.unwrap();
    let known = world.containers[0].known(lease);
    assert!(known.started_at.is_some() && known.started_at >= known.opened_at, "{known:?}");
    let paid_time = known.ended_at.unwrap().since(known.opened_at.unwrap());
    let attempt = report.leases().next().unwrap();
    assert!(attempt.ran_ms > 0 && attempt.ran_ms <= paid_time, "{attempt:?} in {paid_time} ms");
    assert_eq!(attempt.billed, attempt.rate_per_second.per_second_for_ms(attempt.ran_ms));
    books_agree(&world, before, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_deposit_the_chain_refuses_is_stopped_and_costs_nothing() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let renter = world.renter().await;
    let (_control, running, lease) = early(&world, &renter).await;
    *world.chain.refuse_opens.lock().unwrap() = Some("the escrow is paused".to_owned());
    world.chain.holds_opens.send_replace(false);
    let report = running.await.unwrap();
    assert!(format!("{report:?}").contains("the escrow is paused"), "{report:#?}");
    // The slot is free, and nobody has to wait for a limit.
    while world.containers[0].known(lease).phase != Phase::Ended {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.containers[0].known(lease).end, Some(End::StoppedByConsumer));
    assert_eq!(world.balance(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposit_that_came_too_late_is_given_back() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let renter = world.renter().await;
    *world.chain.refuse_opens.lock().unwrap() = Some("the chain looks away".to_owned());
    let (report, _) = run(&renter, request("exit 0")).await;
    let lease = report.leases().next().unwrap();
    assert_eq!(lease.phase, Phase::Void);
    let patience = Duration::from_secs(60);
    assert_eq!(leases::reclaim(&renter, patience).await.unwrap(), [], "nothing is on the chain");
    // Afterwards it appears there all the same, and its Container does not give it back by itself.
    world.containers[0].die().await;
    *world.chain.refuse_opens.lock().unwrap() = None;
    let record = renter.dir().read(lease.lease).unwrap();
    renter.ledger().open(record.state.rented.lease.terms.clone(), unheard()).await.unwrap();
    assert!(world.balance() < before);
    let begun = leases::reclaim(&renter, Duration::ZERO).await.unwrap();
    assert_eq!((begun.len(), begun[0].id, begun[0].closed), (1, lease.lease, false), "closing begins");
    let ended = leases::reclaim(&renter, patience).await.unwrap();
    let deposit = record.state.rented.lease.terms.deposit;
    let whole = leases::Reclaimed { id: lease.lease, refunded: deposit, closed: true, problem: None };
    assert_eq!(ended, [whole], "and ends");
    assert_eq!(leases::reclaim(&renter, patience).await.unwrap(), []);
    assert_eq!(world.balance(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_deposit_is_unsure_says_so_and_is_finished_by_hand() {
    let world = World::new(1, 1).await;
    let before = world.balance();
    let renter = world.renter().await;
    *world.chain.refuse_opens.lock().unwrap() = Some("the chain looks away".to_owned());
    let (report, _) = run(&renter, request("exit 0")).await;
    let lease = report.leases().next().unwrap().lease;
    world.containers[0].die().await;
    // As if the process had been killed before it heard anything, long ago.
    let folder = renter.dir().lease_folder(lease);
    let mut record = renter.dir().read(lease).unwrap();
    fs::remove_file(folder.join("record")).unwrap();
    record.state.rented.lease.phase = Phase::Accepted;
    record.state.rented.gone = None;
    record.state.rented.lease.accepted_at = muster_core::units::TimeMs(1);
    drop(renter.dir().create(&record).unwrap());
    let agent = world.process(None).await;
    let (events, _told) = mpsc::channel(100);
    let (_, record) = leases::finish(&agent, lease, Duration::from_secs(60), events).await.unwrap();
    assert_eq!(record.state.rented.lease.phase, Phase::Void);
    assert!(record.state.needs.as_ref().is_some_and(|n| n.contains("muster lease stop")), "{record:?}");
    // The deposit comes after all; whoever has the wallet gets it back.
    *world.chain.refuse_opens.lock().unwrap() = None;
    renter.ledger().open(record.state.rented.lease.terms.clone(), unheard()).await.unwrap();
    let back = leases::reclaim(&renter, Duration::from_secs(60)).await.unwrap();
    assert_eq!((back.len(), back[0].id, back[0].closed, &back[0].problem), (1, lease, true, &None));
    assert_eq!(renter.dir().read(lease).unwrap().state.needs, None);
    assert_eq!(world.balance(), before);
}
