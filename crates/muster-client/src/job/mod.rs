//! Jobs: one command or an array of tasks, matched, run, retried and gathered.

mod request;
mod run;
mod slots;

pub use request::{AttemptReport, JobError, JobEvent, JobReport, JobRequest, JobStep, TaskOutcome, TaskReport};
pub use run::{Job, JobControl, StdioFor};
