//! A channel between threads whose receiver also waits for sockets: it can be polled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError, TrySendError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

#[derive(Clone)]
struct Bell(Arc<OwnedFd>);

impl Bell {
    fn ring(&self) {
        // Fails only when the counter is full, and then the bell rings already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

pub(crate) struct Sender<T> {
    queue: mpsc::SyncSender<T>,
    /// Below the queue, so that it rings when the queue is closed already.
    bell: Bell,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: self.bell.clone() }
    }
}

pub(crate) struct Receiver<T> {
    queue: mpsc::Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// The other side's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// Too many wait already.
    Full,
    /// The receiver is gone.
    Gone,
}

pub(crate) fn channel<T>(bound: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let (send, receive) = mpsc::sync_channel(bound);
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Sender { queue: send, bell: Bell(Arc::clone(&bell)) }, Receiver { queue: receive, bell }))
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, value: T) -> Result<(), Unsent> {
        self.queue.try_send(value).map_err(|error| match error {
            TrySendError::Full(_) => Unsent::Full,
            TrySendError::Disconnected(_) => Unsent::Gone,
        })?;
        self.bell.ring();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Silences the bell. What is sent from now on rings it again, so the queue is to be emptied after this.
    pub(crate) fn quiet(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
    }

    pub(crate) fn next(&self) -> Result<T, TryRecvError> {
        self.queue.try_recv()
    }
}

impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Waits until one of them is readable, at most so long. A signal ends the wait like its time does.
pub(crate) fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], most: Option<Duration>) -> io::Result<()> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let most = most.map(|most| Timespec {
        tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(most.subsec_nanos()),
    });
    match poll(&mut fds, most.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
