//! The messages of each kind of stream: what each field may hold, and how long a frame may be.
//!
//! | stream ([`StreamKind`](crate::StreamKind)) | opened by | first frame | then |
//! | --- | --- | --- | --- |
//! | `Demand` | consumer | [`MatchRequest`] | one [`MatchReply`] back |
//! | `Candidates` | consumer | [`CandidatesRequest`] | one [`Candidates`] back |
//! | `Delivery` | consumer | [`DeliveryReport`] | one [`DeliveryNoted`] back |
//! | `Presence` | Container | [`ContainerReport`], the first a heartbeat | further ones; nothing comes back |
//! | `Offer` | Indexer, on the Container's connection | [`Offer`] | one [`OfferAnswer`] back |
//! | `Lease` | consumer | [`ToContainer::Attach`] | both ways until the lease is over |
//! | `Job` | consumer, after `Attach` on the same connection | [`stdio::Watch`] | [`stdio::Output`] back; [`stdio::Input`] forth |
//! | `Files` | consumer, after `Attach` on the same connection | [`files::Transfer`] | [`files::Piece`]s one way, a [`files::Outcome`] back |
//! | `Session` | consumer, after `Attach` on the same connection | [`session::SessionOpen`] | [`session::ToSession`] forth, [`session::FromSession`] back |
//! | `Inference` | consumer, after `Attach` on the same connection; one for each request | [`inference::InferenceOpen`] | [`inference::FromInference`]s back; [`inference::ToInference`] forth |
//! | `Audit` | Checker | [`CheckerSays::Challenge`] | [`ProverSays`] back and [`CheckerSays`] forth, as the proof goes |
//! | `Liveness` | Checker | [`audit::Question`] | one [`audit::Alive`] back |
//! | `Checkers` | Checker | [`audit::Gossip`] | further ones; nothing comes back |
//! | `Evidence` | anybody | [`audit::Wanted`] | [`audit::Evidence`]s back |
//!
//! [`MatchRequest`]: muster_core::protocol::MatchRequest
//! [`MatchReply`]: muster_core::protocol::MatchReply
//! [`CandidatesRequest`]: muster_core::protocol::CandidatesRequest
//! [`Candidates`]: muster_core::protocol::Candidates
//! [`DeliveryReport`]: muster_core::protocol::DeliveryReport
//! [`DeliveryNoted`]: muster_core::protocol::DeliveryNoted
//! [`ContainerReport`]: muster_core::protocol::ContainerReport
//! [`Offer`]: muster_core::protocol::Offer
//! [`OfferAnswer`]: muster_core::protocol::OfferAnswer
//! [`ToContainer::Attach`]: muster_core::protocol::ToContainer::Attach
//! [`CheckerSays::Challenge`]: muster_core::proof::CheckerSays::Challenge
//! [`CheckerSays`]: muster_core::proof::CheckerSays
//! [`ProverSays`]: muster_core::proof::ProverSays

pub mod audit;
pub mod files;
pub mod inference;
mod proof;
mod protocol;
pub mod session;
pub mod stdio;
pub mod weights;

pub use protocol::{
    ARGS_LEN_MAX, ARGS_MAX, ENV_MAX, SENTENCE_LEN_MAX, attach_bytes, check_job, clip_sentence, delivery_bytes,
    terms_bytes,
};
