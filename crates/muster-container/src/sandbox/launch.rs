//! Starting bubblewrap.
//!
//! Two things need care. Bubblewrap asks the kernel to kill it when the *thread* that started it ends, so all jobs are
//! started by one thread that lives as long as the Sandbox: a thread of the runtime's pool may be retired at any time.
//! And descriptors are passed by number: the same thread makes them inheritable just before the start, so that two jobs
//! started at once never inherit each other's.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, mpsc};
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::error::SandboxError;

/// Starts waiting to be performed; more make the caller wait.
const QUEUE_MAX: usize = 16;

#[derive(Debug)]
struct Request {
    runtime: Handle,
    command: Command,
    inherited: Vec<OwnedFd>,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The one thread that starts jobs; made at the first start, ends with this value.
#[derive(Debug)]
pub(super) struct Launcher {
    requests: Mutex<Option<mpsc::SyncSender<Request>>>,
}

impl Launcher {
    pub(super) fn new() -> Self {
        Self { requests: Mutex::new(None) }
    }

    /// Starts a program that inherits the given descriptors under the numbers they have here.
    pub(super) async fn start(&self, command: Command, inherited: Vec<OwnedFd>) -> Result<Child, SandboxError> {
        let failed = |error: io::Error| SandboxError::setup("start a program", error);
        let sender = self.sender().map_err(failed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { runtime: Handle::current(), command, inherited, reply };
        tokio::task::spawn_blocking(move || sender.send(request).map_err(|_| gone()))
            .await
            .map_err(|error| SandboxError::setup("start a program", error))?
            .map_err(failed)?;
        answer.await.map_err(|_| failed(gone()))?.map_err(failed)
    }

    fn sender(&self) -> io::Result<mpsc::SyncSender<Request>> {
        let mut requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(sender) = requests.as_ref() {
            return Ok(sender.clone());
        }
        let (sender, receiver) = mpsc::sync_channel::<Request>(QUEUE_MAX);
        thread::Builder::new().name("muster-launcher".into()).spawn(move || {
            for request in receiver {
                perform(request);
            }
        })?;
        *requests = Some(sender.clone());
        Ok(sender)
    }
}

fn perform(request: Request) {
    let Request { runtime, mut command, inherited, reply } = request;
    let _entered = runtime.enter();
    let inheritable = inherited.iter().try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()));
    let started = match inheritable {
        Ok(()) => command.spawn(),
        Err(error) => Err(error.into()),
    };
    drop(inherited);
    // Whoever asked may have given up meanwhile; the child is then killed as its handle is dropped.
    let _ = reply.send(started);
}

fn gone() -> io::Error {
    io::Error::other("the launching thread has ended")
}
