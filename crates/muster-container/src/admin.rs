//! The owner's way in: a socket in the data folder that only the owner can open, one JSON object a line.
//!
//! A request is `{"cmd": "status"}`, `{"cmd": "stop", "lease": "0x…"}`, `{"cmd": "drain"}`, `{"cmd": "resume"}` or
//! `{"cmd": "leave"}`; the answer is `{"ok": true, "status": {…}}` or `{"ok": false, "error": "a sentence"}`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::config::socket_path;
use crate::status::ContainerStatus;

/// A line longer than this is no request; answers may be longer.
const REQUEST_LEN_MAX: u64 = 4 * 1024;
const ANSWER_LEN_MAX: u64 = 64 << 20;
/// How long the owner's program waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What the owner asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// How is it going?
    Status,
    /// Stop a lease's job. It counts as an interruption: the interval that it hits is not billed.
    Stop {
        /// The lease's name.
        lease: String,
    },
    /// Finish what runs, take nothing new.
    Drain,
    /// Take work again.
    Resume,
    /// Drain, then take the Container out of the registry.
    Leave,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminAnswer {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The status after it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<ContainerStatus>>,
}

impl AdminAnswer {
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self { ok: false, error: Some(why.into()), status: None }
    }

    pub(crate) fn done(status: ContainerStatus) -> Self {
        Self { ok: true, error: None, status: Some(Box::new(status)) }
    }
}

/// Why the owner gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No Container runs with this folder.
    #[error("no Container is running with the data folder {}; start it with `muster container run`", data_dir.display())]
    NotRunning {
        /// The folder.
        data_dir: PathBuf,
    },
    /// The socket is another user's.
    #[error("the Container with the data folder {} belongs to another user; ask as that user or as root", data_dir.display())]
    Forbidden {
        /// The folder.
        data_dir: PathBuf,
    },
    /// The Container did not answer in time.
    #[error("the Container did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It answered what this build does not understand.
    #[error("the Container's answer cannot be read: {0}; use the same version of muster for both")]
    Answer(serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The socket failed.
    #[error("the admin socket {} failed", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Asks the Container that runs with this data folder, and gives its status after the request.
///
/// # Errors
/// Nobody is there, or the Container said no and why.
pub async fn ask(data_dir: &Path, request: &AdminRequest) -> Result<ContainerStatus, AdminError> {
    match tokio::time::timeout(ANSWER_WITHIN, talk(data_dir, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(AdminError::Silent(ANSWER_WITHIN)),
    }
}

async fn talk(data_dir: &Path, request: &AdminRequest) -> Result<ContainerStatus, AdminError> {
    let path = socket_path(data_dir);
    let io_error = |source| AdminError::Io { path: path.clone(), source };
    let stream = UnixStream::connect(&path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AdminError::NotRunning { data_dir: data_dir.to_path_buf() }
        }
        io::ErrorKind::PermissionDenied => AdminError::Forbidden { data_dir: data_dir.to_path_buf() },
        _ => io_error(error),
    })?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(AdminError::Answer)?;
    line.push(b'\n');
    write.write_all(&line).await.map_err(io_error)?;
    let mut text = Vec::new();
    BufReader::new(read.take(ANSWER_LEN_MAX)).read_until(b'\n', &mut text).await.map_err(io_error)?;
    let answer: AdminAnswer = serde_json::from_slice(&text).map_err(AdminError::Answer)?;
    match (answer.ok, answer.status, answer.error) {
        (true, Some(status), _) => Ok(*status),
        (_, _, error) => Err(AdminError::Refused(error.unwrap_or_else(|| "the Container refused".to_owned()))),
    }
}

/// Takes the socket's place. The records are open already, so whatever lies there is of a process that is gone.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers the requests of one connection, one line each.
pub(crate) async fn serve<F>(stream: UnixStream, answer: impl Fn(AdminRequest) -> F) -> io::Result<()>
where
    F: Future<Output = AdminAnswer>,
{
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        (&mut read).take(REQUEST_LEN_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice::<AdminRequest>(&line) {
            Ok(request) => answer(request).await,
            Err(error) => AdminAnswer::refused(format!("the request cannot be read: {error}")),
        };
        let mut text = serde_json::to_vec(&reply).map_err(io::Error::other)?;
        text.push(b'\n');
        write.write_all(&text).await?;
        if !whole {
            return Ok(());
        }
    }
}
