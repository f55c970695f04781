//! One lease's place on this machine, from the prepared folder to its removal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::brain::container::Event;
use muster_core::ids::LeaseId;
use muster_core::lease::{End, LeaseTerms};
use muster_core::packages::PackageSet;
use muster_core::protocol::JobSpec as Wanted;
use muster_wire::message::clip_sentence;
use muster_wire::message::stdio::{STDIO_LEN_MAX, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OnceCell, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::intake::Manifest;
use super::live::Live;
use super::model::ModelPlace;
use super::play::Tail;
use super::{Shop, job_id, lease_dir, remove_dir};
use crate::apps::Opened;
use crate::ends::end_of;
use crate::sandbox::{JobEnd, JobHandle, JobUsage, RunningJob, SandboxError, StdinWriter, StdoutReader, WorkDir};
use crate::spool::Spool;

/// How long transfers that were told to stop may take to let go of the folder.
const LET_GO_MAX: Duration = Duration::from_secs(30);

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Not told to begin.
    Waiting,
    /// Told to begin.
    Starting,
    /// Its command runs.
    Running,
    /// Over; its streams may still be read.
    Over,
}

/// Why a feed of standard input is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Feed {
    /// The job takes none, or is over.
    #[error("the job takes no standard input")]
    Closed,
}

/// One lease's place.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub(super) shop: Arc<Shop>,
    pub(super) terms: LeaseTerms,
    /// Made once, by whoever needs it first; taken out at the removal.
    folder: OnceCell<Mutex<Option<Arc<WorkDir>>>>,
    /// Of an earlier process, and what the job had left could not be taken over.
    lost: bool,
    /// Bytes of disk that folder and logs take since the lease is over.
    kept: AtomicU64,
    out: Arc<Spool>,
    err: Arc<Spool>,
    wanted: Mutex<Option<Wanted>>,
    stage: watch::Sender<Stage>,
    pub(super) kill: CancellationToken,
    gone: CancellationToken,
    pub(super) handle: Mutex<Option<JobHandle>>,
    /// The job's display, as it is watched from outside.
    pub(super) live: Live,
    /// The job's model, as its streams see it.
    pub(super) model: ModelPlace,
    /// The last of what the job wrote.
    pub(super) tail: Tail,
    /// `None` before the start and after the end of input.
    stdin: tokio::sync::Mutex<Option<StdinWriter>>,
    /// What inputs have brought; locked while a transfer runs, so that there is one at a time.
    pub(crate) inputs: tokio::sync::Mutex<Manifest>,
}

impl Workplace {
    pub(super) fn new(shop: Arc<Shop>, terms: LeaseTerms) -> Arc<Self> {
        let dir = lease_dir(&shop.leases_dir, terms.lease);
        Arc::new(Self::build(shop, terms, Spool::new(dir.join("out")), Spool::new(dir.join("err"))))
    }

    /// What an earlier process has left of a lease that is over: its logs, and its work folder where that could be taken
    /// over.
    pub(super) async fn left_over(shop: Arc<Shop>, terms: LeaseTerms) -> Arc<Self> {
        let (lease, dir) = (terms.lease, lease_dir(&shop.leases_dir, terms.lease));
        let bytes = shop.limits(&terms).disk_bytes;
        let folder = match shop.sandbox.reopen(&job_id(lease), bytes).await {
            Ok(folder) => Some(Mutex::new(Some(Arc::new(folder)))),
            Err(error) => {
                debug!(%lease, why = %sentence(&error), "no outputs of an earlier run");
                None
            }
        };
        let (out, err) = (Spool::left_over(dir.join("out")), Spool::left_over(dir.join("err")));
        let mut place = Self::build(shop, terms, out, err);
        place.lost = folder.is_none();
        place.folder = OnceCell::new_with(folder);
        place.inputs = tokio::sync::Mutex::new(Manifest::load(&dir.join("inputs")));
        place.stage.send_replace(Stage::Over);
        Arc::new(place)
    }

    /// Leaves the work folder of a lease that is over in place for the next process.
    pub(super) fn keep(&self) {
        if self.is_over()
            && let Some(slot) = self.folder.get()
            && let Some(folder) = guard(slot).as_ref()
        {
            folder.keep();
        }
    }

    /// Writes down what inputs have brought, for a process after this one.
    pub(crate) fn save_manifest(&self, manifest: &Manifest) {
        let path = lease_dir(&self.shop.leases_dir, self.terms.lease).join("inputs");
        if let Err(error) = manifest.save(&path) {
            warn!(lease = %self.terms.lease, %error, "the list of inputs is not kept");
        }
    }

    fn build(shop: Arc<Shop>, terms: LeaseTerms, out: Arc<Spool>, err: Arc<Spool>) -> Self {
        Self {
            shop,
            terms,
            folder: OnceCell::new(),
            lost: false,
            kept: AtomicU64::new(0),
            out,
            err,
            wanted: Mutex::default(),
            stage: watch::Sender::new(Stage::Waiting),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
            handle: Mutex::default(),
            live: Live::new(),
            model: ModelPlace::new(),
            tail: Tail::default(),
            stdin: tokio::sync::Mutex::default(),
            inputs: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.terms.lease
    }

    /// Bytes that were rented for files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.shop.limits(&self.terms).disk_bytes
    }

    pub(crate) fn spool(&self, stream: Stream) -> &Arc<Spool> {
        match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        }
    }

    /// The live session of the job; of a job without one it is over as soon as it begins.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The model of the job; of a job without one it is over as soon as it begins.
    pub(crate) const fn model(&self) -> &ModelPlace {
        &self.model
    }

    /// Resolves when the job is to be ended.
    pub(crate) const fn kill_wanted(&self) -> &CancellationToken {
        &self.kill
    }

    /// Resolves when everything here is removed: whoever uses the folder must let go.
    pub(crate) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Whether the job was told to begin, or never will be.
    pub(crate) fn has_begun(&self) -> bool {
        *self.stage.borrow() > Stage::Waiting
    }

    /// What the job uses, once it runs.
    pub(crate) fn usage(&self) -> Option<JobUsage> {
        guard(&self.handle).as_ref().map(JobHandle::usage)
    }

    /// What shall run. It counts until the job begins.
    pub(crate) fn want(&self, wanted: Wanted) {
        if !self.has_begun() {
            *guard(&self.wanted) = Some(wanted);
        }
    }

    /// The work folder, made now if it is not there yet.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    pub(crate) async fn folder(&self) -> Result<Arc<WorkDir>, String> {
        if self.lost {
            return Err("the Container restarted, and what the job had left in its work folder is lost".to_owned());
        }
        let made = self.folder.get_or_try_init(|| async {
            let (id, bytes) = (job_id(self.terms.lease), self.disk_bytes());
            let folder = self.shop.sandbox.prepare(&id, bytes).await;
            folder.map(|folder| Mutex::new(Some(Arc::new(folder)))).map_err(|error| sentence(&error))
        });
        guard(made.await?).clone().ok_or_else(|| "the work folder is removed already".to_owned())
    }

    /// The work folder if one was ever made; `None` for a job that needed none.
    ///
    /// # Errors
    /// Why it is not there any more, as a sentence.
    pub(crate) async fn folder_if_made(&self) -> Result<Option<Arc<WorkDir>>, String> {
        if !self.lost && !self.folder.initialized() {
            return Ok(None);
        }
        self.folder().await.map(Some)
    }

    /// Runs what was wanted, from the start to the end, and tells the brain.
    pub(super) async fn run(self: Arc<Self>) {
        let began = self.stage.send_if_modified(|stage| {
            let first = *stage == Stage::Waiting;
            if first {
                *stage = Stage::Starting;
            }
            first
        });
        if !began {
            return;
        }
        let (last_words, words) = oneshot::channel();
        let (end, line) = self.execute(words).await;
        self.live.close(&end.to_string());
        self.model.close(&end.to_string());
        info!(lease = %self.terms.lease, %end, "job ended");
        metrics::counter!("muster_container_jobs_total", "end" => label(&end)).increment(1);
        if let Some(line) = line.map(|line| format!("muster: {line}\n"))
            && let Err(unsaid) = last_words.send(line)
        {
            // Nothing ran that could have written before.
            self.err.write(unsaid.as_bytes()).await;
        }
        let told = self.shop.brain.send(Event::JobEnded { lease: self.terms.lease, end }).await;
        if told.is_err() {
            debug!(lease = %self.terms.lease, "the end of a job came after the end of the node");
        }
    }

    async fn execute(self: &Arc<Self>, words: oneshot::Receiver<String>) -> (End, Option<String>) {
        let Some(wanted) = guard(&self.wanted).take() else {
            return (End::FailedToStart("there was no command to start".to_owned()), None);
        };
        if self.shop.is_empty(&wanted) {
            self.report_started().await;
            return (End::Exited(0), None);
        }
        if let Some(model) = wanted.model.clone() {
            self.live.close("this job has no session: nothing of it can be seen");
            let ended = self.serve(wanted, model).await;
            self.err.finish();
            self.out.finish();
            return ended;
        }
        self.model.close("this job is no model");
        let session = wanted.session.clone();
        if session.is_none() {
            self.live.close("this job has no session: nothing of it can be seen");
        }
        let begun = tokio::select! {
            biased;
            () = self.kill.cancelled() => return killed(),
            begun = self.begin(wanted) => begun,
        };
        let (mut job, _packages) = match begun {
            Ok(begun) => begun,
            Err(end) => return end,
        };
        *guard(&self.handle) = Some(job.handle());
        *self.stdin.lock().await = job.stdin.take();
        self.stage.send_replace(Stage::Running);
        self.pump(&mut job, words);
        let end = match session {
            Some(session) => self.play(job, &session).await,
            None => {
                self.report_started().await;
                end_of(self.until_over(&job).await)
            }
        };
        *self.stdin.lock().await = None;
        end
    }

    /// Waits for the job, and ends it when the lease ends.
    async fn until_over(&self, job: &RunningJob) -> JobEnd {
        tokio::select! {
            end = job.wait() => end,
            () = self.kill.cancelled() => {
                job.kill("the lease ended");
                job.wait().await
            }
        }
    }

    /// Starts the job, once the packages that it needs are there; they stay for as long as it holds them.
    async fn begin(&self, wanted: Wanted) -> Result<(RunningJob, Opened), (End, Option<String>)> {
        let interrupted = |why: &str| (End::Interrupted(clip_sentence(why)), None);
        let packages = self.packages(&wanted).await?;
        let Ok(_no_more_inputs) = self.inputs.try_lock() else {
            let why = "inputs were still arriving when the job was told to begin; wait until they are received";
            return Err((End::FailedToStart(why.to_owned()), None));
        };
        let folder = self.folder().await.map_err(|why| interrupted(&why))?;
        let spec = self.shop.spec(&self.terms, wanted, packages.over.clone());
        let started = self.shop.sandbox.start(&folder, spec).await;
        started.map(|job| (job, packages)).map_err(|error| match error {
            // What the job asked for cannot be done anywhere, or not here by the provider's choice.
            SandboxError::Invalid { .. } | SandboxError::EgressRefused { .. } | SandboxError::DisplayRefused { .. } => {
                (End::FailedToStart(clip_sentence(&sentence(&error))), None)
            }
            other => end_of(other.into_job_end()),
        })
    }

    /// What a session needs beside what the machine has. Nothing of it is billed, and whoever waits is told how far it is.
    async fn packages(&self, wanted: &Wanted) -> Result<Opened, (End, Option<String>)> {
        let none = PackageSet::default();
        let set = wanted.session.as_ref().map_or(&none, |session| &session.packages);
        let opened = self.shop.apps.open(set, |how| self.live.prepare(how)).await;
        opened.map_err(|error| {
            let why = clip_sentence(&error.to_string());
            // What is no fault of the app's may go better elsewhere.
            (if error.is_ours() { End::Interrupted(why) } else { End::FailedToStart(why) }, None)
        })
    }

    pub(super) async fn report_started(&self) {
        info!(lease = %self.terms.lease, "job runs");
        // The node going down ends the job anyway.
        self.shop.brain.note(Event::JobStarted { lease: self.terms.lease }).await;
    }

    /// Moves what the job writes to the spools, as fast as these take it.
    /// `words` are the Container's own, at the end of standard error.
    fn pump(self: &Arc<Self>, job: &mut RunningJob, words: oneshot::Receiver<String>) {
        let streams = [(job.stdout.take(), &self.out, None), (job.stderr.take(), &self.err, Some(words))];
        for (pipe, spool, words) in streams {
            let (spool, gone) = (Arc::clone(spool), self.gone.clone());
            let (place, from) = (Arc::clone(self), if words.is_some() { Stream::Err } else { Stream::Out });
            let all = async move {
                if let Some(pipe) = pipe {
                    pump_one(pipe, &spool, |bytes| place.tail.take(from, bytes)).await;
                }
                place.tail.end(from);
                drop(place);
                if let Some(words) = words
                    && let Ok(line) = words.await
                {
                    spool.write(line.as_bytes()).await;
                }
                spool.finish();
            };
            tokio::spawn(async move {
                tokio::select! {
                    () = all => {}
                    () = gone.cancelled() => {}
                }
            });
        }
    }

    /// Moves what an engine complains about to the log; it may be started again, and goes on there.
    pub(super) fn pump_complaints(self: &Arc<Self>, job: &mut RunningJob) {
        let (pipe, spool, gone) = (job.stderr.take(), Arc::clone(&self.err), self.gone.clone());
        tokio::spawn(async move {
            let Some(pipe) = pipe else { return };
            tokio::select! {
                () = pump_one(pipe, &spool, |_| {}) => {}
                () = gone.cancelled() => {}
            }
        });
    }

    /// Ends the job, now or as soon as it has begun.
    pub(super) fn kill(&self) {
        self.kill.cancel();
    }

    /// The lease is over. Streams of a job that never ran end here; those of one that ran end with their pipes. `true`
    /// the first time.
    pub(super) fn over(&self) -> bool {
        let first = self.stage.send_if_modified(|stage| std::mem::replace(stage, Stage::Over) != Stage::Over);
        self.live.close("the lease is over");
        self.model.close("the lease is over");
        if guard(&self.handle).is_none() {
            self.out.finish();
            self.err.finish();
        }
        first
    }

    /// Gives back room that was rented and is not used, and measures what stays.
    pub(super) async fn shrink(&self) {
        self.ended().await;
        let folder = self.folder.get().and_then(|slot| guard(slot).clone());
        let folder_bytes = match folder {
            Some(folder) => folder.shrink().await.unwrap_or_else(|error| {
                warn!(lease = %self.terms.lease, error = %sentence(&error), "a work folder cannot be measured");
                folder.disk_bytes()
            }),
            None => 0,
        };
        let logs = self.out.kept_bytes().saturating_add(self.err.kept_bytes());
        self.kept.store(folder_bytes.saturating_add(logs), Ordering::Relaxed);
    }

    /// Bytes of disk that a lease which is over still takes, as last measured.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        *self.stage.borrow() == Stage::Over
    }

    /// Waits until no process of the job is left.
    pub(super) async fn ended(&self) {
        let handle = guard(&self.handle).clone();
        if let Some(handle) = handle {
            handle.wait().await;
        }
    }

    /// Writes to the job's standard input, waiting while the job does not read.
    pub(crate) async fn feed(&self, bytes: &[u8]) -> Result<(), Feed> {
        self.wait_for_start().await;
        let mut stdin = self.stdin.lock().await;
        let Some(pipe) = stdin.as_mut() else { return Err(Feed::Closed) };
        if pipe.write_all(bytes).await.is_err() {
            *stdin = None;
            return Err(Feed::Closed);
        }
        Ok(())
    }

    /// Says that the job's standard input is over.
    pub(crate) async fn end_feed(&self) {
        self.wait_for_start().await;
        *self.stdin.lock().await = None;
    }

    async fn wait_for_start(&self) {
        let mut stage = self.stage.subscribe();
        // Fails only without a sender, and that lives in `self`.
        drop(stage.wait_for(|stage| *stage >= Stage::Running).await);
    }

    /// Removes folder and logs, once nobody uses them.
    pub(super) async fn remove(self: Arc<Self>) {
        self.gone.cancel();
        self.kill.cancel();
        self.ended().await;
        self.out.finish();
        self.err.finish();
        if let Some(slot) = self.folder.get() {
            let folder = guard(slot).take();
            if let Some(folder) = folder {
                remove_folder(folder, self.terms.lease).await;
            }
        }
        let dir: PathBuf = lease_dir(&self.shop.leases_dir, self.terms.lease);
        drop(tokio::task::spawn_blocking(move || remove_dir(&dir)).await);
    }
}

async fn remove_folder(mut folder: Arc<WorkDir>, lease: LeaseId) {
    let until = tokio::time::Instant::now() + LET_GO_MAX;
    let alone = loop {
        match Arc::try_unwrap(folder) {
            Ok(folder) => break folder,
            Err(shared) => folder = shared,
        }
        if tokio::time::Instant::now() > until {
            // The last user's drop removes it.
            warn!(%lease, "a work folder is still in use; it is removed when it is let go");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if let Err(error) = alone.remove().await {
        warn!(%lease, error = %sentence(&error), "a work folder stays until the next start");
    }
}

async fn pump_one(mut pipe: StdoutReader, spool: &Arc<Spool>, look: impl Fn(&[u8])) {
    let mut buffer = vec![0; STDIO_LEN_MAX];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                look(bytes);
                spool.write(bytes).await;
            }
            Err(error) => {
                warn!(%error, "a job's output cannot be read");
                return;
            }
        }
    }
}

/// The end as a metric's label.
const fn label(end: &End) -> &'static str {
    match end {
        End::Exited(0) => "finished",
        End::Exited(_) => "exited",
        End::Signaled(_) => "signaled",
        End::OutOfMemory => "out_of_memory",
        End::DiskFull => "disk_full",
        End::FailedToStart(_) => "failed_to_start",
        End::Interrupted(_) => "killed",
        End::Idle => "idle",
        // The brain's own words; a job never ends with them.
        End::StoppedByConsumer | End::TimeLimit | End::DepositUsedUp | End::Unpaid | End::NeverStarted => "other",
    }
}

fn killed() -> (End, Option<String>) {
    (End::Interrupted("the lease ended before the job had begun".to_owned()), None)
}

/// An error and its causes in one sentence.
pub(super) fn sentence(error: &SandboxError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// What is guarded here is replaced as a whole, so one that panicked left it right.
pub(super) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
