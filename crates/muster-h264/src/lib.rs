//! An H.264 encoder for what programs draw.
//!
//! Encoders for cameras look at every block of every picture, because everything in front of a camera moves a little. A
//! display is different: most of it is exactly what it was, and what moves often moves as a whole. So this one first asks of
//! each macroblock whether it is what it was, in place or scrolled; only the rest is encoded, and what was sent coarsely is
//! sent finer once there is room. Constrained Baseline, one reference, no picture ever waits for another: what a browser
//! decodes at once.
//!
//! It has no clock and no threads of its own, and decides by what it is told. The standard is cited by section.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "arithmetic of the standard on numbers whose range it gives; sums are bounded where they are made"
)]

mod bits;
mod cavlc;
mod differ;
mod encoder;
mod headers;
mod motion;
mod plane;
mod predict;
mod rate;
mod tables;
mod transform;

pub use encoder::{Coded, Encoder, Planes, SizeError};
