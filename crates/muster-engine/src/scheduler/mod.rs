//! What the thread that owns the model decides, without the model: which answers have a place, which tokens go into the
//! next step, what is remembered from before, how a token is drawn, and what of the text may be shown.
//!
//! Nothing here knows llama.cpp, a clock or a pipe.

mod draw;
mod kept;
mod slots;
mod text;
mod writer;

pub use draw::{Allow, Candidate, Drawer, Drawn, NoToken};
pub use kept::{KEPT_TOKENS_MAX, Kept};
pub use slots::{Ask, Entry, Placement, Remembered, Slots};
pub(crate) use text::overlap;
pub use text::{Stops, Utf8};
pub use writer::{Piece, Writer, WriterConfig};
