//! Integration tests of the Container's body.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod audits;
mod display;
mod endpoints;
mod escape;
mod escape_files;
mod escape_limits;
mod escape_network;
mod gamepads;
mod harness;
mod hub;
mod leases;
mod live;
mod models;
mod renter;
mod sandbox;
mod strangers;
mod world;
