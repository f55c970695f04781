//! A hub of models: what a repository has, and its files, byte for byte.
//!
//! A hub is named by whoever runs this program, never by a peer. It may send a reader elsewhere for the content of a file:
//! only to `https` at a public address, so that nobody is led into a network of one's own; a hub on this very machine may
//! send on to this machine. A token goes to the hub itself and to nobody else. No proxy stands between: where a name leads
//! to is looked at here.

mod away;
mod listing;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use muster_core::inference::{HubFile, HubRef, HubRefError, HubRepo};
use muster_core::units::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use self::away::{Public, is_public};
pub use self::listing::Found;

/// How long it may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often a reader is sent elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Bytes of what a hub says of a repository.
const LISTING_MAX: usize = 16 << 20;
/// The longest token.
pub const TOKEN_LEN_MAX: usize = 512;

/// Why something cannot be had from a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// No address of a hub.
    #[error("{url:?} is no address of a hub: write https://HOST, or http://127.0.0.1:PORT for one on this machine")]
    Address {
        /// What was given.
        url: String,
    },
    /// The HTTP client does not come up.
    #[error("the HTTP client does not start: {0}")]
    Client(String),
    /// No token that can be one.
    #[error("the token is none: it has 1 to {TOKEN_LEN_MAX} letters, digits and signs, and no spaces")]
    Token,
    /// Nobody answers.
    #[error("the hub cannot be reached: {0}")]
    Unreachable(&'static str),
    /// It hangs.
    #[error("the hub sent nothing for {0} s")]
    Silent(u64),
    /// It stopped in the middle.
    #[error("the hub broke off in the middle")]
    BrokeOff,
    /// Not there.
    #[error("the hub has no {0}; look whether its name and revision are written right, or whether it is private")]
    NotFound(String),
    /// It wants a token.
    #[error(
        "{0} is private or gated, or there is none of this name, and no token was given; keep yours with `muster model token set` and deploy it again"
    )]
    TokenWanted(String),
    /// The token does not do.
    #[error(
        "the hub refuses the token for {0}: it may not read it; accept the model's terms on its page with the token's account, or set another one with `muster model token set`"
    )]
    TokenRefused(String),
    /// Too many questions.
    #[error("the hub answers no more questions from here for a while (429)")]
    Busy,
    /// Something else.
    #[error("the hub answers {0}")]
    Status(u16),
    /// It sends readers where they do not go.
    #[error("the hub sends us to {0}, where no model is fetched from: {1}")]
    Elsewhere(String, &'static str),
    /// An answer that is none.
    #[error("what the hub says of {0} cannot be understood: {1}")]
    Answer(String, String),
    /// No file can be chosen.
    #[error(transparent)]
    Choice(#[from] HubRefError),
    /// It does not say what the file is.
    #[error(
        "the hub names no SHA-256 for {0}, so nobody could tell whether it arrived as it is; deploy it with file:PATH"
    )]
    NoHash(String),
    /// Another length than was said.
    #[error("the hub's file has {got}, announced were {said}; it is another one by now")]
    Length {
        /// As it is.
        got: Bytes,
        /// As it was said to be.
        said: Bytes,
    },
}

impl HubError {
    /// Whether the same may work a moment later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Silent(_) | Self::BrokeOff | Self::Busy => true,
            Self::Status(status) => *status >= 500 || *status == 408 || *status == 416,
            _ => false,
        }
    }
}

/// What opens private repositories. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as its owner pasted it.
    ///
    /// # Errors
    /// It cannot be one.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        if text.is_empty() || text.len() > TOKEN_LEN_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(HubError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text, for whoever seals or keeps it.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    fn header(&self) -> Result<HeaderValue, HubError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(|_| HubError::Token)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(kept)")
    }
}

/// A hub that can be asked. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Hub {
    base: Url,
    /// Whether the hub is on this machine.
    own: bool,
    home: Client,
    away: Client,
    silence: Duration,
}

impl Hub {
    /// A hub at an address; nothing is sent yet. One that sends nothing for `silence` is given up.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(address: &str, silence: Duration) -> Result<Self, HubError> {
        let wrong = || HubError::Address { url: address.to_owned() };
        let mut base = Url::parse(address.trim()).map_err(|_| wrong())?;
        let own = is_own(&base);
        let plain = base.username().is_empty() && base.password().is_none();
        if !(base.scheme() == "https" || base.scheme() == "http" && own) || !base.has_host() || !plain {
            return Err(wrong());
        }
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been faster; then one is there.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = || {
            Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_MAX.min(silence))
                .read_timeout(silence)
                .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        };
        let built = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| HubError::Client(e.to_string()));
        let home = built(client())?;
        let away = built(client().dns_resolver(Public))?;
        Ok(Self { base, own, home, away, silence })
    }

    /// What a name on the hub stands for: one file with its hash and length, at a commit.
    ///
    /// # Errors
    /// It is not there, may not be read, or it is not clear which file is meant.
    pub async fn look(&self, wanted: &HubRef, token: Option<&Token>) -> Result<Found, HubError> {
        let repo = &wanted.repo;
        let mut url = self.url(&["api", "models", repo.owner(), repo.name(), "revision", repo.revision()], &[])?;
        url.set_query(Some("blobs=true"));
        let response = self.get(url, repo, token, None).await?;
        let body = self.all(response, repo).await?;
        listing::found(&body, wanted, token.is_some())
    }

    /// Opens a file from a byte on.
    ///
    /// # Errors
    /// It is not there, may not be read, or has another length than `bytes`.
    pub async fn open(
        &self,
        file: &HubFile,
        bytes: Bytes,
        from: u64,
        token: Option<&Token>,
    ) -> Result<Content, HubError> {
        let repo = &file.repo;
        let path: Vec<&str> = file.file().split('/').collect();
        let url = self.url(&[repo.owner(), repo.name(), "resolve", repo.revision()], &path)?;
        let response = self.get(url, repo, token, Some(from)).await?;
        let (at, total) = placed(&response);
        if let Some(got) = total
            && got != bytes.0
        {
            return Err(HubError::Length { got: Bytes(got), said: bytes });
        }
        // One that knows no parts sends all of it; one that sends another part is of no use.
        if at != 0 && at != from {
            return Err(HubError::Answer(file.to_string(), format!("asked for byte {from}, it begins at {at}")));
        }
        Ok(Content { response, at, silence: self.silence })
    }

    fn url(&self, parts: &[&str], more: &[&str]) -> Result<Url, HubError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            // Each part is escaped, slashes in it as well.
            Ok(mut path) => {
                path.pop_if_empty().extend(parts).extend(more);
            }
            Err(()) => return Err(HubError::Address { url: self.base.to_string() }),
        }
        Ok(url)
    }

    /// One answer, wherever it comes from.
    async fn get(
        &self,
        mut url: Url,
        repo: &HubRepo,
        token: Option<&Token>,
        from: Option<u64>,
    ) -> Result<Response, HubError> {
        for _ in 0..=REDIRECTS_MAX {
            let home = url.origin() == self.base.origin();
            // A hub on this machine may send on to this machine; everybody else only to public addresses.
            let near = home || (self.own && is_own(&url));
            let mut request = if near { &self.home } else { &self.away }.get(url.clone());
            if let Some(token) = token.filter(|_| home) {
                request = request.header(AUTHORIZATION, token.header()?);
            }
            if let Some(from) = from.filter(|from| *from > 0) {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let sent = tokio::time::timeout(self.silence, request.send()).await;
            let response = match sent {
                Err(_) => return Err(HubError::Silent(self.silence.as_secs())),
                Ok(Err(error)) => return Err(self.failed(&error)),
                Ok(Ok(response)) => response,
            };
            let status = response.status();
            if !status.is_redirection() {
                return refused(status, repo, token).map_or(Ok(response), Err);
            }
            let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| url.join(to).ok());
            let next = next.ok_or_else(|| HubError::Elsewhere("nowhere".to_owned(), "it names no address"))?;
            self.may_go(&next)?;
            url = next;
        }
        Err(HubError::Elsewhere("one address after another".to_owned(), "they do not end"))
    }

    /// Whether a reader that is sent elsewhere goes there.
    fn may_go(&self, next: &Url) -> Result<(), HubError> {
        if next.origin() == self.base.origin() || (self.own && is_own(next)) {
            return Ok(());
        }
        let shown = next.host_str().unwrap_or("nowhere").to_owned();
        if next.scheme() != "https" {
            return Err(HubError::Elsewhere(shown, "only https is followed"));
        }
        // A name is looked at when it is resolved.
        if next.has_host() && ip_of(next).is_none_or(is_public) {
            Ok(())
        } else {
            Err(HubError::Elsewhere(shown, "it is an address of a private network"))
        }
    }

    fn failed(&self, error: &reqwest::Error) -> HubError {
        if error.is_timeout() && !error.is_connect() {
            return HubError::Silent(self.silence.as_secs());
        }
        HubError::Unreachable(away::words(error))
    }

    async fn all(&self, mut response: Response, repo: &HubRepo) -> Result<Vec<u8>, HubError> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| broke(&error, self.silence))? {
            if body.len().saturating_add(piece.len()) > LISTING_MAX {
                return Err(HubError::Answer(repo.to_string(), format!("it is longer than {LISTING_MAX} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// The content of a file as it comes.
#[derive(Debug)]
pub struct Content {
    response: Response,
    /// The byte that it begins at: 0 where the hub cannot go on in the middle.
    pub at: u64,
    silence: Duration,
}

impl Content {
    /// The next piece; `None` at the end, which may come too early.
    ///
    /// # Errors
    /// The hub broke off, or hangs.
    pub async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, HubError> {
        self.response.chunk().await.map_err(|error| broke(&error, self.silence))
    }
}

fn broke(error: &reqwest::Error, silence: Duration) -> HubError {
    if error.is_timeout() { HubError::Silent(silence.as_secs()) } else { HubError::BrokeOff }
}

/// Where an answer begins, and how long the whole is, as far as the hub says.
fn placed(response: &Response) -> (u64, Option<u64>) {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let parts = range.and_then(|range| {
        let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()))
    });
    match parts {
        Some(parts) if response.status() == StatusCode::PARTIAL_CONTENT => parts,
        _ => (0, response.content_length()),
    }
}

fn refused(status: StatusCode, repo: &HubRepo, token: Option<&Token>) -> Option<HubError> {
    let named = || repo.to_string();
    match status.as_u16() {
        200 | 206 => None,
        401 | 403 if token.is_some() => Some(HubError::TokenRefused(named())),
        401 | 403 => Some(HubError::TokenWanted(named())),
        404 => Some(HubError::NotFound(named())),
        429 => Some(HubError::Busy),
        other => Some(HubError::Status(other)),
    }
}

/// Whether an address is this very machine's.
fn is_own(url: &Url) -> bool {
    url.host_str() == Some("localhost") || ip_of(url).is_some_and(|ip| ip.is_loopback())
}

/// The address that stands in place of a name.
fn ip_of(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_are_reached_safely_or_not_at_all() {
        let hub = |address: &str| Hub::new(address, Duration::from_secs(1));
        for wrong in
            ["", "hub", "ftp://x", "http://example.org", "https://u:p@example.org", "file:///etc", "http://10.0.0.1"]
        {
            assert!(matches!(hub(wrong), Err(HubError::Address { .. })), "{wrong:?}");
        }
        let (public, own) = (hub("https://hub.example").unwrap(), hub("http://127.0.0.1:9/x").unwrap());
        let goes = |hub: &Hub, to: &str| hub.may_go(&Url::parse(to).unwrap()).is_ok();
        for good in ["https://hub.example/x", "https://cdn.example/x", "https://93.184.216.34/x"] {
            assert!(goes(&public, good) && goes(&own, good), "{good}");
        }
        for bad in [
            "http://cdn.example/x",
            "https://127.0.0.1/x",
            "https://10.1.2.3/",
            "https://169.254.169.254/latest",
            "https://192.168.1.1/",
            "https://[::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://0.0.0.0/",
            "https://100.64.0.1/",
            "https://[fe80::1]/",
            "https://2130706433/",
            "ftp://cdn.example/",
        ] {
            assert!(!goes(&public, bad), "{bad}");
        }
        assert!(goes(&own, "http://127.0.0.1:10/y") && !goes(&own, "http://10.0.0.1/y"));
        let url = own.url(&["a", "b", "resolve", "refs/pr/1"], &["x y", "..z.gguf"]).unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:9/x/a/b/resolve/refs%2Fpr%2F1/x%20y/..z.gguf");
    }

    #[test]
    fn tokens_are_not_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!((token.secret(), format!("{token:?}").as_str()), ("hf_secret", "Token(kept)"));
        assert!(format!("{:?}", token.header().unwrap()).contains("Sensitive"));
        for wrong in ["", " ", "a b", "ä", &"x".repeat(TOKEN_LEN_MAX + 1)] {
            assert_eq!(Token::new(wrong), Err(HubError::Token));
        }
    }
}
