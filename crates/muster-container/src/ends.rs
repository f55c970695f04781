//! How the end of a job in the Sandbox reads as the end of a lease.

use muster_core::lease::End;
use muster_wire::message::clip_sentence;

use crate::sandbox::JobEnd;

/// The lease's end for the job's, and a line for the job's standard error where the lease's end cannot say it all.
pub(crate) fn end_of(job: JobEnd) -> (End, Option<String>) {
    let text = job.to_string();
    match job {
        JobEnd::Exited { code } => (End::Exited(code), None),
        JobEnd::Signaled { signal } => (End::Signaled(signal), None),
        JobEnd::OutOfMemory { .. } => (End::OutOfMemory, Some(text)),
        JobEnd::DiskFull { .. } => (End::DiskFull, Some(text)),
        // The job can end its own display; that it did must not be the provider's loss.
        JobEnd::ProcessLimit { .. } | JobEnd::CompanionEnded { .. } => (End::Exited(job.exit_code()), Some(text)),
        // The brain knows why it had the job killed, and puts that in the place of this.
        JobEnd::Killed { reason } => (End::Interrupted(clip_sentence(&reason)), None),
        JobEnd::FailedToStart { reason } => (End::FailedToStart(clip_sentence(&reason)), None),
        JobEnd::SetupFailed { .. } => (End::Interrupted(clip_sentence(&text)), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_faults_are_interruptions_and_the_jobs_own_are_not() {
        let end = |job| end_of(job).0;
        assert_eq!(end(JobEnd::Exited { code: 3 }), End::Exited(3));
        assert_eq!(end(JobEnd::DiskFull { limit_bytes: 1, code: None }), End::DiskFull);
        assert_eq!(end(JobEnd::ProcessLimit { processes_max: 4, code: Some(2) }), End::Exited(2));
        assert!(end(JobEnd::SetupFailed { reason: "x".repeat(5_000) }).is_interruption());
        assert!(!end(JobEnd::FailedToStart { reason: "no such command".into() }).is_interruption());
        let (_, line) = end_of(JobEnd::ProcessLimit { processes_max: 4, code: None });
        assert!(line.unwrap().contains("limit of 4"));
    }
}
