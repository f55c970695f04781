//! Models as a service: what is asked of a model ([`InferenceRequest`]), what it answers ([`InferenceEvent`]), what that
//! counts ([`TokenCounts`]) and costs ([`TokenRates`]).
//!
//! These are the terms between a Gateway, a Container and an engine. What clients of the OpenAI API write becomes an
//! [`InferenceRequest`] in one place, and an engine, ours or somebody else's, is whatever turns one into events.

mod answer;
pub mod audit;
mod count;
pub mod fleet;
mod hedge;
mod hub;
mod parts;
pub mod placement;
mod request;
mod route;
mod spec;

pub use self::answer::{
    Choice, Finish, InferenceError, InferenceErrorKind, InferenceEvent, Part, TOP_LOGPROBS_MAX, TokenLogprob,
    ToolCallPiece,
};
pub use self::count::{TOKEN_PRICE_MAX, TokenAsk, TokenCounts, TokenRates};
pub use self::hedge::{Late, hedge};
pub use self::hub::{
    HUB_FILE_LEN_MAX, HUB_NAME_LEN_MAX, HUB_PREFIX, HUB_REVISION_LEN_MAX, HubFile, HubRef, HubRefError, HubRepo,
    ModelSource, PUBLIC_HUB, TOKEN_CONTEXT, choose,
};
pub use self::parts::{ModelFile, PARTS_MAX, PartName, WEIGHTS_NAME, WeightsPart};
pub use self::request::{
    BIASES_MAX, Chat, Completion, Content, ContentPart, Embedding, INPUTS_MAX, InferenceRequest, InferenceTask,
    MESSAGES_MAX, Message, N_MAX, Prompt, RequestError, ResponseFormat, Role, STOP_LEN_MAX, STOPS_MAX, Sampling,
    TEXT_LEN_MAX, TOOLS_MAX, TOP_K_MAX, Tool, ToolCall, ToolChoice,
};
pub use self::route::{FIRST_TOKEN_US, Replica, route};
pub use self::spec::{
    CONTEXT_MAX, DEPOSIT_TOKENS_MAX, MODEL_NAME_LEN_MAX, ModelDemand, ModelError, ModelKind, ModelSpec, PARALLEL_MAX,
    SOURCES_MAX, WEIGHTS_MAX, WeightsId, check_model_name,
};
