//! The form that nodes have among themselves: an event to a line.

use muster_core::inference::InferenceEvent;

/// Writes an event with its line's end.
pub(super) fn event(event: &InferenceEvent, to: &mut Vec<u8>) {
    let before = to.len();
    match serde_json::to_writer(&mut *to, event) {
        Ok(()) => to.push(b'\n'),
        // Nothing of an event has a form that JSON lacks.
        Err(error) => {
            to.truncate(before);
            tracing::warn!(%error, "an event cannot be written");
        }
    }
}
