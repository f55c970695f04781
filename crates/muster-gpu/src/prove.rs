//! The prover as a child process, so that a driver that crashes or hangs costs a proof and no node.
//!
//! The parent writes requests to the child's standard input, the child answers each on its standard output; both as a
//! length of four bytes and a postcard body. The child keeps the opened card and the work between requests.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use muster_core::ids::ContentHash;
use muster_core::proof::{Challenge, Device, Draw, Openings, Reference, Stage, Work};
use muster_core::render::Scene;
use serde::{Deserialize, Serialize};

use crate::card::{self, Adapter, Gpu};

/// First argument with which the proving program must call [`prove_main`].
pub const GPU_PROVE: &str = "__gpu-prove";

/// The longest message: a picture of 8,192 pixels a side.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;

/// What the parent asks.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Adapters,
    Open { adapter: u32 },
    Begin { challenge: Box<Challenge> },
    Compute { stage: Stage, walk_seed: [u8; 32] },
    OpenDraw { draw: WireDraw },
    Picture,
}

/// A draw as it is sent.
#[derive(Debug, Serialize, Deserialize)]
struct WireDraw {
    tiles: Vec<u32>,
    rows: Vec<u32>,
    chunks: Vec<u32>,
    segments: Vec<(u32, u32)>,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Adapters(Vec<Adapter>),
    Opened,
    Begun,
    Root { root: ContentHash, took_ms: u32 },
    Openings(Box<Openings>),
    Picture { side: u32, rgb: Vec<u8> },
    Failed { why: String },
}

/// Why there is no answer from the prover. All of these are interruptions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The child could not be started.
    #[error("cannot start {}", exe.display())]
    Start {
        /// The program.
        exe: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The child ended: usually a driver that crashed.
    #[error("the prover's process ended: usually the graphics driver crashed; the system's log tells more")]
    Ended,
    /// The child did not answer in time: usually a driver that hangs.
    #[error("the prover did not answer within {} s: usually the graphics driver hangs", waited.as_secs())]
    TimedOut {
        /// How long it was given.
        waited: Duration,
    },
    /// The card or its driver failed.
    #[error("{why}")]
    Card {
        /// How, a sentence.
        why: String,
    },
    /// The child said something else than an answer to the request.
    #[error("the prover's process answered something else than what it was asked")]
    Garbled,
}

/// A prover in a child process: one card, one proof at a time.
#[derive(Debug)]
pub struct CardProver {
    child: Child,
    requests: ChildStdin,
    answers: mpsc::Receiver<Answer>,
}

impl Drop for CardProver {
    fn drop(&mut self) {
        // It may have ended in this very moment; waiting reaps it either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CardProver {
    /// Starts `exe __gpu-prove`; `environment` is added to its own, to choose drivers with.
    ///
    /// # Errors
    /// [`ProveError::Start`].
    pub fn start(exe: &Path, environment: &[(OsString, OsString)]) -> Result<Self, ProveError> {
        let failed = |source| ProveError::Start { exe: exe.to_path_buf(), source };
        let mut child = Command::new(exe)
            .arg(GPU_PROVE)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (Some(requests), Some(mut pipe)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(io::Error::other("the child has no pipes")));
        };
        let (sender, answers) = mpsc::sync_channel(1);
        thread::spawn(move || {
            // Ends with the child, or when nobody listens any more.
            while let Ok(answer) = read_message(&mut pipe) {
                if sender.send(answer).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, requests, answers })
    }

    fn ask(&mut self, request: &Request, within: Duration) -> Result<Answer, ProveError> {
        write_message(&mut self.requests, request).map_err(|_| ProveError::Ended)?;
        match self.answers.recv_timeout(within) {
            Ok(Answer::Failed { why }) => Err(ProveError::Card { why }),
            Ok(answer) => Ok(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(ProveError::Ended),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // A late answer must not be taken for the next request's.
                let _ = self.child.kill();
                Err(ProveError::TimedOut { waited: within })
            }
        }
    }

    /// All that can prove here: the Vulkan devices, and last the processor itself.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn adapters(&mut self, within: Duration) -> Result<Vec<Adapter>, ProveError> {
        match self.ask(&Request::Adapters, within)? {
            Answer::Adapters(adapters) => Ok(adapters),
            _ => Err(ProveError::Garbled),
        }
    }

    /// Opens one of [`CardProver::adapters`] and compiles the kernels, which takes up to seconds: before a challenge is
    /// awaited, so that no proof waits for it.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn open(&mut self, adapter: u32, within: Duration) -> Result<(), ProveError> {
        match self.ask(&Request::Open { adapter }, within)? {
            Answer::Opened => Ok(()),
            _ => Err(ProveError::Garbled),
        }
    }

    /// Begins the work of a challenge that was checked ([`Challenge::check`]).
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn begin(&mut self, challenge: &Challenge, within: Duration) -> Result<(), ProveError> {
        match self.ask(&Request::Begin { challenge: Box::new(challenge.clone()) }, within)? {
            Answer::Begun => Ok(()),
            _ => Err(ProveError::Garbled),
        }
    }

    /// Computes a stage; gives its root and how long it took by the prover's own clock.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn compute(
        &mut self,
        stage: Stage,
        walk_seed: [u8; 32],
        within: Duration,
    ) -> Result<(ContentHash, u32), ProveError> {
        match self.ask(&Request::Compute { stage, walk_seed }, within)? {
            Answer::Root { root, took_ms } => Ok((root, took_ms)),
            _ => Err(ProveError::Garbled),
        }
    }

    /// Opens a draw.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn open_draw(&mut self, draw: &Draw, within: Duration) -> Result<Openings, ProveError> {
        let draw = WireDraw {
            tiles: draw.tiles.clone(),
            rows: draw.rows.clone(),
            chunks: draw.chunks.clone(),
            segments: draw.segments.clone(),
        };
        match self.ask(&Request::OpenDraw { draw }, within)? {
            Answer::Openings(openings) => Ok(*openings),
            _ => Err(ProveError::Garbled),
        }
    }

    /// The rendered picture: its side in pixels, and red, green and blue of each.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn picture(&mut self, within: Duration) -> Result<(u32, Vec<u8>), ProveError> {
        match self.ask(&Request::Picture, within)? {
            Answer::Picture { side, rgb } => Ok((side, rgb)),
            _ => Err(ProveError::Garbled),
        }
    }
}

fn write_message(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_allocvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body)?;
    to.flush()
}

fn read_message<T: for<'de> Deserialize<'de>>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("the message is too long"));
    }
    let mut body = Vec::new();
    from.take(length.into()).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// What the child holds.
#[derive(Debug)]
enum Bench {
    Card(Box<Gpu>),
    Processor(Reference),
}

#[derive(Debug, Default)]
struct Served {
    bench: Option<Bench>,
    work: Option<(Work, Scene)>,
}

/// Body of the child: answers requests from standard input until it ends.
///
/// # Errors
/// When standard output cannot be written.
pub fn prove_main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut served = Served::default();
    while let Ok(request) = read_message(&mut input) {
        let answer = served.answer(request).unwrap_or_else(|why| Answer::Failed { why });
        write_message(&mut output, &answer)?;
    }
    Ok(())
}

impl Served {
    fn answer(&mut self, request: Request) -> Result<Answer, String> {
        match request {
            Request::Adapters => Ok(Answer::Adapters(card::adapters())),
            Request::Open { adapter } => {
                let opened = card::open(adapter).map_err(|e| e.to_string())?;
                self.bench = Some(match opened {
                    Some(gpu) => Bench::Card(Box::new(gpu)),
                    None => Bench::Processor(Reference::default()),
                });
                Ok(Answer::Opened)
            }
            Request::Begin { challenge } => {
                challenge.check().map_err(|e| e.to_string())?;
                let (plan, scene) = challenge.plan();
                self.work = Some((Work::new(plan), scene));
                Ok(Answer::Begun)
            }
            Request::Compute { stage, walk_seed } => {
                let begun = Instant::now();
                let (work, scene) = self.work.as_mut().ok_or("no proof was begun")?;
                let root = match self.bench.as_mut().ok_or("no adapter was opened")? {
                    Bench::Card(gpu) => compute(work, gpu.as_mut(), scene, stage, &walk_seed)?,
                    Bench::Processor(reference) => compute(work, reference, scene, stage, &walk_seed)?,
                };
                let took_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
                Ok(Answer::Root { root, took_ms })
            }
            Request::OpenDraw { draw } => {
                let (work, _) = self.work.as_ref().ok_or("no proof was begun")?;
                let WireDraw { tiles, rows, chunks, segments } = draw;
                let openings = work.open::<String>(&Draw { tiles, rows, chunks, segments });
                openings.map(|openings| Answer::Openings(Box::new(openings))).map_err(|e| e.to_string())
            }
            Request::Picture => {
                let (work, _) = self.work.as_ref().ok_or("no proof was begun")?;
                let rgb = work.picture().ok_or("the picture was not rendered")?;
                Ok(Answer::Picture { side: work.plan().picture_side, rgb })
            }
        }
    }
}

fn compute<D: Device<Error: std::fmt::Display>>(
    work: &mut Work,
    device: &mut D,
    scene: &Scene,
    stage: Stage,
    walk_seed: &[u8; 32],
) -> Result<ContentHash, String> {
    work.compute(device, scene, stage, walk_seed).map_err(|e| e.to_string())
}
