//! Arguments of `muster model`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use muster_core::demand::{Place, Region};
use muster_core::hardware::Cores;
use muster_core::inference::fleet::Scale;
use muster_core::inference::{ModelKind, PUBLIC_HUB};
use muster_core::units::Bytes;

use super::AtGateway;

/// `muster model`.
#[derive(Subcommand, Debug)]
pub(crate) enum ModelCommand {
    /// List the models that can be deployed by name.
    Catalog,
    /// Deploy a model: by its name in the catalogue, from a hub (`hf:OWNER/NAME`), or from a file (`file:PATH`).
    Deploy(ModelDeployArgs),
    /// List deployments.
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show a deployment and its replicas.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show what became of a deployment: what was done for it, and what its engines said.
    Logs {
        /// Its name.
        name: String,
        /// Go on until interrupted.
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines.
        #[arg(short = 'n', long, value_name = "LINES")]
        tail: Option<usize>,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Change how many replicas a deployment has.
    Scale {
        /// Its name.
        name: String,
        /// How many: `2`, or from the least to the most: `0..4`.
        replicas: Between,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Keep the token that opens private models on a hub, or give it to a replica that waits for it.
    #[command(subcommand)]
    Token(TokenCommand),
    /// End a deployment; what its answers counted is paid.
    Rm {
        /// Its name.
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Make a GGUF file of an embedding model of the BERT kind.
    Convert {
        /// A folder with config.json, vocab.txt and model.safetensors.
        folder: PathBuf,
        /// The file to write.
        file: PathBuf,
    },
    /// Talk to a model: one question, or a conversation when none is given.
    Chat(ModelChatArgs),
    /// Place texts in the space of meanings.
    Embed {
        /// The deployment's name.
        name: String,
        /// The texts [default: the lines of standard input].
        texts: Vec<String>,
        #[command(flatten)]
        at: AtGateway,
    },
}

/// `muster model token`.
#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Keep a token, read from standard input or asked for; it leaves this folder only sealed to a Container.
    Set,
    /// Throw the token away.
    Rm,
    /// Give the token to replicas that wait for it: those that began while nobody was there.
    Give {
        /// The deployment's name.
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
}

/// Arguments of `muster model deploy`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ModelDeployArgs {
    /// A name of the catalogue, `hf:OWNER/NAME[@REVISION][:FILE or quantisation]`, `file:PATH` of a GGUF file, or
    /// `endpoint:NAME` of a model that providers serve with engines of their own.
    pub(crate) model: String,
    /// The hub that is asked which file is meant; Containers fetch it from the hub that their owners name.
    #[arg(long, env = "MUSTER_HUB", value_name = "URL", default_value = PUBLIC_HUB)]
    pub(crate) hub: String,
    /// What requests call it [default: its name in the catalogue, or the file's].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What it is for [default: as the catalogue says; chat for others].
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Tokens that prompt and answer may have together.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<u32>,
    /// Requests that one replica answers side by side.
    #[arg(long, value_name = "N")]
    pub(crate) parallel: Option<u16>,
    /// How many replicas: `2`, or from the least to the most: `0..4`.
    #[arg(long, default_value = "1", value_name = "MIN..MAX")]
    pub(crate) replicas: Between,
    /// Cores for each replica.
    #[arg(long, value_name = "N", value_parser = super::parse_cores)]
    pub(crate) cpus: Option<Cores>,
    /// Memory for each replica.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Cards for each replica.
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<u8>,
    /// The least VRAM of each card.
    #[arg(long, value_name = "SIZE")]
    pub(crate) vram: Option<Bytes>,
    /// The most that a million tokens may cost in dollars: of prompts, of remembered prompts, of answers.
    #[arg(long, value_name = "INPUT,CACHED,OUTPUT")]
    pub(crate) price_max: Option<Prices>,
    /// Where: a region, as owners name it.
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<Region>,
    /// The place that it shall be near to, in degrees north and east: `45.508,-73.587`.
    #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
    pub(crate) near: Option<Place>,
    /// The greatest round trip from there, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub(crate) max_latency: Option<u32>,
    /// On ordinary machines near you: the round trips to a few are measured before the choice, and the best of the near ones
    /// serves it.
    #[arg(long, conflicts_with = "gpus")]
    pub(crate) edge: bool,
    /// Let other accounts of the Gateway ask it.
    #[arg(long)]
    pub(crate) shared: bool,
    /// Let anybody ask it who pays for each request by itself, by x402; other accounts may, too.
    #[arg(long)]
    pub(crate) offered: bool,
    /// Send a request to a second replica, too, where the first has shown nothing of its answer for so long: `500ms`, `2s`. The
    /// faster one answers; what the other counted until it was ended is paid by whoever deployed [default: never].
    #[arg(long, value_name = "TIME")]
    pub(crate) hedge_after: Option<Millis>,
    /// Do not wait until it answers.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) at: AtGateway,
}

impl ModelDeployArgs {
    /// A model of the catalogue, with everything as usual.
    pub(crate) fn usual(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            name: None,
            kind: None,
            context: None,
            parallel: None,
            replicas: Between { min: 1, max: 1 },
            cpus: None,
            memory: None,
            gpus: None,
            vram: None,
            price_max: None,
            region: None,
            near: None,
            max_latency: None,
            edge: false,
            shared: false,
            offered: false,
            hedge_after: None,
            no_wait: false,
            hub: PUBLIC_HUB.to_owned(),
            at: AtGateway { gateway: None, key_file: None },
        }
    }
}

/// Arguments of `muster model chat`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ModelChatArgs {
    /// The deployment's name; with --wallet a name of the catalogue, or `file:PATH` of a GGUF file.
    pub(crate) name: String,
    /// What to say [default: a conversation on standard input, a line each].
    pub(crate) prompt: Option<String>,
    /// What the model is told beforehand.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// How freely tokens are drawn: from 0 to 2.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) temperature: Option<f32>,
    /// Tokens of each answer at most.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Without a Gateway, straight from a wallet: a Container is rented for this conversation and paid by the token. Name
    /// another wallet than the usual one with `--wallet=NAME`.
    // The flag that all commands take, which needs no name here.
    #[arg(long, id = "wallet", num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "NAME|FILE")]
    pub(crate) wallet: Option<String>,
    /// With --wallet: tokens that prompt and answer may have together.
    #[arg(long, requires = "wallet", value_name = "TOKENS")]
    pub(crate) context: Option<u32>,
    /// With --wallet: the most that a million tokens may cost in dollars: of prompts, of remembered prompts, of answers.
    #[arg(long, requires = "wallet", value_name = "INPUT,CACHED,OUTPUT")]
    pub(crate) price_max: Option<Prices>,
    #[command(flatten)]
    pub(crate) at: AtGateway,
}

/// Arguments of `muster bench model`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchModelArgs {
    /// A GGUF file of a model that goes on with texts [default: one of 21 million random weights].
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 512)]
    pub(crate) prompt: u32,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 128)]
    pub(crate) drawn: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: u32,
    /// Rounds; the best one counts.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Deployments on a network of its own.
    #[arg(long, default_value_t = 10)]
    pub(crate) deploys: u32,
}

/// An engine that a provider runs already.
#[derive(Args, Debug, Clone)]
pub(crate) struct EndpointArgs {
    /// An engine that runs already and speaks the OpenAI API, to be offered: its address up to `/v1`.
    #[arg(long, value_name = "URL", requires_all = ["endpoint_model", "endpoint_weights"])]
    pub(crate) endpoint: Option<String>,
    /// The model's name there.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) endpoint_model: Option<String>,
    /// How large that model is: prices go by it.
    #[arg(long, value_name = "SIZE", requires = "endpoint")]
    pub(crate) endpoint_weights: Option<Bytes>,
    /// The name under which consumers ask for it [default: the model's name there].
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) endpoint_name: Option<String>,
    /// Tokens that prompt and answer may have together there.
    #[arg(long, value_name = "TOKENS", requires = "endpoint", default_value = "8192")]
    pub(crate) endpoint_context: u32,
    /// Requests that it answers side by side.
    #[arg(long, value_name = "N", requires = "endpoint", default_value = "8")]
    pub(crate) endpoint_parallel: u16,
    /// A file with its key, where it wants one.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub(crate) endpoint_key_file: Option<PathBuf>,
    /// What it does.
    #[arg(long, value_enum, value_name = "KIND", requires = "endpoint", default_value = "chat")]
    pub(crate) endpoint_kind: Kind,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Conversations.
    Chat,
    /// Going on with texts.
    Completion,
    /// Places in the space of meanings.
    Embedding,
}

impl From<Kind> for ModelKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Chat => Self::Chat,
            Kind::Completion => Self::Completion,
            Kind::Embedding => Self::Embedding,
        }
    }
}

impl Kind {
    /// Its word in the API.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        }
    }
}

/// From the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Between {
    /// The least.
    pub(crate) min: u16,
    /// The most.
    pub(crate) max: u16,
}

impl FromStr for Between {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let ends = match text.split_once("..") {
            Some((min, max)) => number(min).zip(number(max.trim_start_matches('='))),
            None => number(text).map(|count| (count, count)),
        };
        let (min, max) = ends.ok_or_else(|| format!("{text:?} is no number of replicas; write 2, or 0..4"))?;
        Scale { min, max, ..Scale::default() }.check().map_err(|why| why.to_string())?;
        Ok(Self { min, max })
    }
}

/// A time in milliseconds, 1 at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub(crate) u64);

impl FromStr for Millis {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let ms = match text.strip_suffix("ms") {
            Some(ms) => number(ms),
            None => text.strip_suffix('s').and_then(number).and_then(|s| s.checked_mul(1_000)),
        };
        let wrong = || format!("{text:?} is no time; write for example 500ms or 2s");
        ms.filter(|ms| *ms > 0).map(Self).ok_or_else(wrong)
    }
}

/// Dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Prices {
    /// Of prompts.
    pub(crate) input: f64,
    /// Of remembered prompts.
    pub(crate) cached: f64,
    /// Of answers.
    pub(crate) output: f64,
}

impl FromStr for Prices {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} are no three prices; write dollars, for example 0.10,0.02,0.40");
        let parts: Vec<f64> =
            text.split(',').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        match parts.as_slice() {
            [input, cached, output] if parts.iter().all(|price| price.is_finite() && *price >= 0.0) => {
                Ok(Self { input: *input, cached: *cached, output: *output })
            }
            _ => Err(wrong()),
        }
    }
}

/// A file that `file:PATH` names.
pub(crate) fn file_of(model: &str) -> Option<PathBuf> {
    model.strip_prefix("file:").map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_replicas_and_prices_are_read_as_people_write_them() {
        assert_eq!("2".parse(), Ok(Between { min: 2, max: 2 }));
        assert_eq!("0..4".parse(), Ok(Between { min: 0, max: 4 }));
        for wrong in ["", "x", "3..1", "0", "0..0", "1..65", "-1"] {
            assert!(wrong.parse::<Between>().is_err(), "{wrong:?}");
        }
        assert_eq!("0.1, 0.02,0.4".parse(), Ok(Prices { input: 0.1, cached: 0.02, output: 0.4 }));
        for wrong in ["", "1", "1,2", "1,2,x", "1,2,-3", "1,2,inf"] {
            assert!(wrong.parse::<Prices>().is_err(), "{wrong:?}");
        }
        assert_eq!(("500ms".parse(), "2s".parse()), (Ok(Millis(500)), Ok(Millis(2_000))));
        for wrong in ["", "500", "0ms", "ms", "s", "-1s", "1m", "0.5s"] {
            assert!(wrong.parse::<Millis>().is_err(), "{wrong:?}");
        }
        assert_eq!(file_of("file:a/b.gguf"), Some("a/b.gguf".into()));
        assert_eq!(file_of("tiny"), None);
    }
}
