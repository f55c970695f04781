//! What ends a command: an exit code and a sentence. docs/exit-codes.md lists the codes.

use std::fmt;

/// Documented exit codes. A job's own code is passed through by `muster run`, so Muster's own begin at 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Something unforeseen.
    Internal = 100,
    /// A configuration or network file is missing or wrong.
    Config = 101,
    /// The chain cannot be reached, or is another one than expected.
    Chain = 102,
    /// No Indexer, Container or agent answers.
    Unreachable = 103,
    /// No Container could ever meet the demand.
    NothingFits = 104,
    /// Too few tokens.
    Balance = 105,
    /// A wallet is missing, or its passphrase is wrong.
    Wallet = 106,
    /// A folder, lock or port is in use.
    InUse = 107,
    /// A data folder is from a newer version, or a record in it is damaged.
    Data = 108,
    /// A file could not be read or written.
    Io = 109,
    /// Containers broke the work off, too often to try again.
    Interrupted = 110,
    /// All Containers that fit are busy.
    Busy = 111,
    /// There is no such lease, wallet or Container.
    NotFound = 112,
    /// The chain refused a transaction.
    Reverted = 113,
    /// Something that a role needs is missing on this machine.
    Missing = 114,
    /// A card's proof did not pass.
    Unproven = 115,
    /// An outcome of Checkers on the chain is not what its reports come to.
    WrongOutcome = 116,
    /// The time limit of a job was reached.
    TimeLimit = 124,
    /// The deposit was used up, or was not paid.
    Unpaid = 125,
    /// The job's command could not be executed.
    NotExecutable = 126,
    /// The job's command does not exist in the Sandbox.
    CommandNotFound = 127,
    /// Stopped by Ctrl-C or on request.
    Stopped = 130,
    /// The job was killed for want of memory.
    OutOfMemory = 137,
    /// The job was killed for want of disk.
    DiskFull = 138,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For scripts.
    pub(crate) code: Code,
    /// For people: what was wrong and what to do.
    pub(crate) why: String,
}

impl Failure {
    /// A failure with its sentence.
    pub(crate) fn new(code: Code, why: impl fmt::Display) -> Self {
        Self { code, why: why.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self { code: Code::Internal, why: format!("{error:#}") },
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: Code::Io, why: error.to_string() }
    }
}

/// Gives an error its exit code, and says where it happened.
pub(crate) trait Because<T> {
    /// `what: error`.
    fn because(self, code: Code, what: impl fmt::Display) -> Result<T, Failure>;
    /// The error's own sentence.
    fn code(self, code: Code) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Because<T> for Result<T, E> {
    fn because(self, code: Code, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|why| Failure { code, why: format!("{what}: {why}") })
    }
    fn code(self, code: Code) -> Result<T, Failure> {
        self.map_err(|why| Failure { code, why: why.to_string() })
    }
}
