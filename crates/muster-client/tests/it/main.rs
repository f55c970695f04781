//! Renting over real sockets on loopback, against a Container that runs the core's own brain.

mod rentals;
mod transfers;
mod world;
