//! Proofs from challenge to verdict, honest and otherwise.

mod attacks;
mod honest;
mod play;
