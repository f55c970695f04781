//! Live sessions: what a program draws on a private display, sent to a browser, and what a player does, sent back.
//!
//! One session is one child process of the Container: its program calls [`stream_main`] for the argument [`STREAM`]. What
//! is fed by strangers (the display's server runs inside the Sandbox, the network is the internet) and is written in C
//! (the encoder) can thus take down one session at the most. Parent and child talk in [`control`]'s lines.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod aside;
mod budget;
mod child;
mod code;
pub mod control;
mod desk;
mod display;
mod encode;
mod gamepad;
mod gate;
#[cfg(feature = "gstreamer")]
mod gst;
pub mod guest;
mod h264;
mod input;
mod keys;
mod messages;
mod meter;
mod pace;
mod pads;
mod picture;
mod player;
mod sound;
mod studio;
mod vp8;
mod wake;

pub use child::stream_main;
pub use display::{Area, Display, DisplayError};
pub use gamepad::{Gamepad, GamepadError, GamepadNode};
pub use meter::{METER, meter_main};

/// First argument with which the streaming program must call [`stream_main`].
pub const STREAM: &str = "__stream";
