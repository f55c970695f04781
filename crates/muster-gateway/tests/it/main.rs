//! The OpenAI-compatible side of a Gateway, over real connections, with engines that answer from a script.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod budgets;
mod clients;
mod endpoints;
mod faults;
mod hedge;
mod load;
mod native;
mod paid;
mod rig;
