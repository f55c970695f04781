//! Live sessions: the real X server in the real Sandbox, a stand-in for the streaming program, and leases as they are.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use muster_chain::keys::Wallet;
use muster_core::lease::{End, LeaseTerms};
use muster_core::live::SessionSpec;
use muster_core::packages::PackageSet;
use muster_core::protocol::{JobSpec, ToConsumer, ToContainer};
use muster_core::units::Bytes;
use muster_net::{FrameReader, FrameWriter, NodeSecret, StreamKind};
use muster_wire::message::session::{FromSession, Sdp, SessionOpen, ToSession};

use crate::harness::host;
use crate::renter::Renter;
use crate::world::{PATIENCE, Running, World};

/// Speaks the lines of the streaming program, and sees for itself whether anything is drawn.
const STAND_IN: &str = r#"
use strict; use Socket; $| = 1;
my $config = <STDIN>;
open(my $log, '>', $ARGV[0]) or die; $log->autoflush(1); print $log $config;
my ($path) = $config =~ /"display_socket":"([^"]+)"/;
socket(my $x, PF_UNIX, SOCK_STREAM, 0) or die; connect($x, sockaddr_un($path)) or die "no display: $!";
my $take = sub { my ($n, $all) = ($_[0], ''); while (length $all < $n) { sysread($x, $all, $n - length $all, length $all) or exit 1 } $all };
syswrite($x, pack('a1xv2v2xx', 'l', 11, 0, 0, 0));
my ($ok, $len) = unpack('Cx5v', $take->(8)); die 'refused' unless $ok == 1;
my $setup = $take->($len * 4);
my $at = 32 + (unpack('x16v', $setup) + 3 & ~3) + 8 * unpack('x21C', $setup);
my ($root, $w, $h) = unpack("x${at}Vx16vv", $setup);
print qq({"t":"ready","listens":"127.0.0.1:9"}\n);
while (1) {
  syswrite($x, pack('CCvVssvvV', 73, 2, 5, $root, 0, 0, $w, $h, 0xffffffff));
  my $size = unpack('x4V', $take->(32)); last if $take->($size * 4) =~ /[^\0]/;
  select(undef, undef, undef, 0.05);
}
print qq({"t":"drawing"}\n);
while (my $line = <STDIN>) {
  print $log $line;
  print qq({"t":"idle","ms":7}\n) if $line =~ /"note"/;
  print qq({"t":"answer","request":$1,"sdp":"v=1"}\n) if $line =~ /"offer","request":(\d+)/;
  exit 0 if $line =~ /"end"/;
}
"#;

/// A Container that can have sessions and a lease that is large enough for one; `None` (said aloud) where there is no X
/// server.
async fn opened() -> Option<(World, Running, Renter, PathBuf)> {
    if host()?.sandbox.capabilities().xvfb.is_none() {
        eprintln!("skipped: the X server is not installed (apt-get install xvfb)");
        return None;
    }
    let world = World::new().await;
    let (program, log) = (world.dir.path().join("stand-in.pl"), world.dir.path().join("said"));
    std::fs::write(&program, STAND_IN).unwrap();
    *world.streaming.lock().unwrap() = Some(vec!["/usr/bin/perl".into(), program, log.clone()]);
    let container = world.start(world.config("stage"), &NodeSecret::generate()).await;
    let beat = container.line.heartbeat(|_| true).await;
    assert!(beat.sessions, "the heartbeat says that sessions are possible");
    let renter = Renter::open_with(&world, &container, larger).await;
    Some((world, container, renter, log))
}

/// Room for a display and a program.
fn larger(terms: &mut LeaseTerms) {
    terms.allocation.memory = Bytes(480 << 20);
    terms.allocation.cpu_millis = 2_000;
    terms.rate_per_second.0 *= 8;
    terms.deposit.0 *= 8;
}

fn session(command: &[&str]) -> JobSpec {
    JobSpec {
        command: command.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        stdin: false,
        session: Some(SessionSpec { width: 320, height: 200, sound: false, ..SessionSpec::default() }),
        model: None,
    }
}

fn with_packages(command: &[&str], packages: &[&str]) -> JobSpec {
    let mut job = session(command);
    let set = PackageSet::new(packages.iter().map(ToString::to_string)).unwrap();
    job.session.as_mut().unwrap().packages = set;
    job
}

/// A small program with a window that this machine lacks and its Debian sources have; `None` (said aloud) without one.
fn lacking() -> Option<&'static str> {
    let absent = |package: &&&str| {
        let known = Command::new("dpkg-query").args(["-W", "-f", "${Status}", **package]).output();
        !String::from_utf8_lossy(&known.unwrap().stdout).contains("ok installed")
    };
    let Some(package) = ["xdemineur", "xdaliclock", "oneko"].iter().find(|one| absent(one)) else {
        eprintln!("skipped: this machine has every program that could be missing");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let asked = Command::new("apt-get").args(["-qq", "download", package]).current_dir(&dir).output();
    let asked = match asked {
        Ok(asked) if asked.status.success() => return Some(package),
        Ok(asked) => String::from_utf8_lossy(&asked.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("skipped: this machine's Debian sources do not give {package}: {asked}");
    None
}

async fn line(renter: &Renter) -> (FrameReader, FrameWriter) {
    let (reader, mut writer) = renter.connection.open_bi(StreamKind::Session).await.unwrap().framed().split();
    writer.send(&SessionOpen { lease: renter.terms.lease }).await.unwrap();
    (reader, writer)
}

async fn ended(renter: &mut Renter) -> (End, u64) {
    match renter.hear(|m| matches!(m, ToConsumer::Ended { .. } | ToConsumer::Started)).await {
        ToConsumer::Ended { end, ran_ms } => (end, ran_ms),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_billed_once_it_draws_and_answers_offers_that_came_before() {
    let Some((world, _container, mut renter, log)) = Box::pin(opened()).await else { return };
    let (mut news, mut to) = line(&renter).await;
    let offer = ToSession::Offer { request: 41, player: 7, sdp: Sdp::new("v=0").unwrap() };
    to.send(&offer).await.unwrap();
    renter.say(ToContainer::Go(session(&["glxgears"]))).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(news.recv_within::<FromSession>(PATIENCE).await.unwrap());
    }
    let sdp = Sdp::new("v=1").unwrap();
    for wanted in [FromSession::Ready, FromSession::Drawing, FromSession::Answer { request: 41, sdp }] {
        assert!(heard.contains(&wanted), "{wanted:?} is among {heard:?}");
    }
    // Somebody who comes later learns how things stand.
    let (mut late, _to) = line(&renter).await;
    assert_eq!(late.recv_within::<FromSession>(PATIENCE).await.unwrap(), FromSession::Ready);
    renter.say(ToContainer::Stop).await;
    let (end, _) = renter.pay_to_the_end(&world).await;
    assert_eq!(end, End::StoppedByConsumer);
    loop {
        match news.recv_within::<FromSession>(PATIENCE).await.unwrap() {
            FromSession::Over => break,
            other => assert!(!matches!(other, FromSession::Failed { .. }), "{other:?}"),
        }
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(r#""width":320"#) && said.contains(r#""bind":"127.0.0.1:0""#), "{said}");
    assert!(said.contains(r#""t":"end""#), "players are told: {said}");
}

/// A Container that can have sessions, and a lease whose deposit is not paid; `None` where [`opened`] gives none.
async fn accepted() -> Option<(World, Running, Renter)> {
    let (world, container, mut first, _log) = Box::pin(opened()).await?;
    first.say(ToContainer::Stop).await;
    first.settled().await;
    let session = Wallet::random();
    let mut terms = world.terms(container.id, &session);
    larger(&mut terms);
    container.line.accept(&terms).await;
    let renter = Renter::attach(terms, session, &container).await;
    Some((world, container, renter))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_draws_before_its_deposit_and_is_billed_from_it_on() {
    let Some((world, container, mut renter)) = Box::pin(accepted()).await else { return };
    let (mut news, _to) = line(&renter).await;
    renter.say(ToContainer::Go(session(&["glxgears"]))).await;
    while news.recv_within::<FromSession>(PATIENCE).await.unwrap() != FromSession::Drawing {}
    // Time in which it runs for nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let paying = Instant::now();
    world.deposit(&renter.terms).await;
    renter.say(ToContainer::ToppedUp).await;
    let first = renter.hear(|m| matches!(m, ToConsumer::Started | ToConsumer::Usage { .. } | ToConsumer::Open)).await;
    assert_eq!(first, ToConsumer::Started);
    renter.say(ToContainer::Stop).await;
    let (end, ran_ms) = renter.pay_to_the_end(&world).await;
    let most = u64::try_from(paying.elapsed().as_millis()).unwrap();
    assert_eq!(end, End::StoppedByConsumer);
    assert!(ran_ms <= most, "{ran_ms} ms are billed, and it was paid for {most} ms ago");
    let (redeemed, ..) = renter.settled().await;
    assert_eq!(redeemed, renter.terms.rate_per_second.per_second_for_ms(ran_ms));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_deposit_never_comes_is_stopped_in_words_and_its_slot_is_free() {
    let Some((_world, container, mut renter)) = Box::pin(accepted()).await else { return };
    let (mut news, _to) = line(&renter).await;
    renter.say(ToContainer::Go(session(&["glxgears"]))).await;
    let (end, ran_ms) = ended(&mut renter).await;
    let End::FailedToStart(why) = end else { panic!("{end:?}") };
    assert!(ran_ms == 0 && why.contains("deposit was not on the chain"), "{why}");
    while news.recv_within::<FromSession>(PATIENCE).await.unwrap() != FromSession::Over {}
    container.line.heartbeat(|beat| beat.leases == 0 && beat.free.cpu_millis == beat.total.cpu_millis).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_uses_ends_and_what_has_run_is_billed() {
    let Some((world, _container, mut renter, _log)) = Box::pin(opened()).await else { return };
    renter.say(ToContainer::Go(session(&["glxgears"]))).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_news, mut to) = line(&renter).await;
    let (code, text) = ("idle".try_into().unwrap(), "Nobody is here.".try_into().unwrap());
    to.send(&ToSession::Note { code, text, seconds: Some(1) }).await.unwrap();
    let (end, ran_ms) = renter.pay_to_the_end(&world).await;
    assert_eq!(end, End::Idle);
    assert!(ran_ms >= 300, "{ran_ms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_before_it_draws_is_not_billed_and_its_last_words_are_told() {
    let Some((_world, _container, mut renter, _log)) = Box::pin(opened()).await else { return };
    let (mut news, _to) = line(&renter).await;
    renter.say(ToContainer::Go(session(&["sh", "-c", "echo no such level >&2; exit 3"]))).await;
    let (end, ran_ms) = ended(&mut renter).await;
    let End::FailedToStart(why) = end else { panic!("{end:?}") };
    assert!(why.contains("exit code 3 before it had drawn anything") && why.contains("no such level"), "{why}");
    assert_eq!(ran_ms, 0);
    while news.recv_within::<FromSession>(PATIENCE).await.unwrap() != FromSession::Over {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_draws_is_not_billed() {
    let Some((_world, _container, mut renter, _log)) = Box::pin(opened()).await else { return };
    renter.say(ToContainer::Go(session(&["sh", "-c", "echo loading; sleep 60"]))).await;
    let (end, ran_ms) = ended(&mut renter).await;
    let End::FailedToStart(why) = end else { panic!("{end:?}") };
    assert!(why.contains("drew nothing within 10 s") && why.ends_with("loading"), "{why}");
    assert_eq!(ran_ms, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_the_machine_lacks_is_fetched_once_and_stays() {
    let Some(package) = lacking() else { return };
    let Some((world, container, mut renter, _log)) = Box::pin(opened()).await else { return };
    let id = PackageSet::new([package.to_owned()]).unwrap().id().unwrap();
    let (mut news, _to) = line(&renter).await;
    renter.say(ToContainer::Go(with_packages(&[package], &[package]))).await;
    renter.hear(|m| matches!(m, ToConsumer::Started)).await;
    let mut told = Vec::new();
    loop {
        match news.recv_within::<FromSession>(PATIENCE).await.unwrap() {
            FromSession::Preparing { what } => told.push(what.into_string()),
            FromSession::Drawing => break,
            other => assert!(matches!(other, FromSession::Ready), "{other:?}"),
        }
    }
    assert!(told.iter().any(|what| what == &format!("unpacking {package}")), "{told:?}");
    let beat = container.line.heartbeat(|beat| beat.warm.contains(&id)).await;
    assert_eq!(beat.warm, [id]);
    renter.say(ToContainer::Stop).await;
    let (end, ran_ms) = renter.pay_to_the_end(&world).await;
    assert_eq!(end, End::StoppedByConsumer);
    assert!(ran_ms > 0);
    // The next one finds it there, and a set that says the same in other words too.
    let mut next = Renter::open_with(&world, &container, larger).await;
    let (mut news, _to) = line(&next).await;
    next.say(ToContainer::Go(with_packages(&[package], &[package, package]))).await;
    next.hear(|m| matches!(m, ToConsumer::Started)).await;
    assert_eq!(news.recv_within::<FromSession>(PATIENCE).await.unwrap(), FromSession::Ready);
    let sets = std::fs::read_dir(world.dir.path().join("stage/apps/sets")).unwrap().count();
    assert_eq!(sets, 1);
    next.say(ToContainer::Stop).await;
    next.pay_to_the_end(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_nobody_has_are_named_and_not_billed() {
    let Some((_world, _container, mut renter, _log)) = Box::pin(opened()).await else { return };
    renter.say(ToContainer::Go(with_packages(&["glxgears"], &["no-such-package-anywhere"]))).await;
    let (end, ran_ms) = ended(&mut renter).await;
    let End::FailedToStart(why) = end else { panic!("{end:?}") };
    assert_eq!(why, "package \"no-such-package-anywhere\" is not known to the Container's Debian sources");
    assert_eq!(ran_ms, 0);
}
