//! HTTP requests: redirects, repeated attempts, and a token that stays with its host.

use std::io::Read;
use std::time::Duration;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::address::{join, origin};

/// The most redirects of one request.
const REDIRECTS: usize = 10;

/// The most attempts of one request.
pub const ATTEMPTS: u32 = 5;

/// The most attempts of a request that nobody answers.
const UNANSWERED: u32 = 3;

/// The longest that a server may ask to wait before the next attempt.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection on which nothing arrives for as long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Sends requests.
pub struct Client {
    agent: Agent,
    /// A token, and the origin that it is for.
    token: Option<(String, String)>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub struct Trouble {
    /// The address that was asked last.
    pub url: String,
    /// The reason.
    pub message: String,
}

impl Trouble {
    fn new(url: &str, message: impl ToString) -> Self {
        Self {
            url: url.to_owned(),
            message: message.to_string(),
        }
    }
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Everywhere.
    All,
    /// Stay on the host that was asked: its answer is the one of interest, even if it leads elsewhere.
    SameOrigin,
}

/// An answer of a server.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The address that gave it, after redirects.
    pub url: String,
    response: ureq::http::Response<Body>,
}

impl Answer {
    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body.
    pub fn body(self) -> impl Read {
        self.response.into_body().into_reader()
    }
}

impl Client {
    /// A client without a token. Certificates are those of Mozilla's list, or of the file that
    /// `SSL_CERT_FILE` names; proxies are those of `HTTPS_PROXY` and its like.
    ///
    /// # Errors
    /// If the file of certificates cannot be read, or has none.
    pub fn new() -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
            let pem = fs_err::read(path).map_err(|e| format!("SSL_CERT_FILE: {e}"))?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err("SSL_CERT_FILE: expected certificates in PEM, got none".to_owned());
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(concat!("peft-runner/", env!("CARGO_PKG_VERSION")))
            // A compressed body would have another length than the file.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(SILENCE / 2))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .build()
            .new_agent();
        Ok(Self { agent, token: None })
    }

    /// Sends a token to the host of `endpoint`, and to no other.
    pub fn with_token(mut self, token: Option<String>, endpoint: &str) -> Self {
        self.token = token.map(|token| (token, origin(endpoint)));
        self
    }

    /// Whether there is a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for the headers of a file.
    ///
    /// # Errors
    /// No answer, or too many redirects; an answer that refuses is returned.
    pub fn head(&self, url: &str, follow: Follow) -> Result<Answer, Trouble> {
        self.send(url, follow, |url| {
            self.authorised(self.agent.head(url), url).call()
        })
    }

    /// Asks for a file from byte `from` on.
    ///
    /// # Errors
    /// No answer, or too many redirects; an answer that refuses is returned.
    pub fn get(&self, url: &str, from: u64) -> Result<Answer, Trouble> {
        self.send(url, Follow::All, |url| {
            let mut request = self.authorised(self.agent.get(url), url);
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            request.call()
        })
    }

    fn authorised<B>(
        &self,
        request: ureq::RequestBuilder<B>,
        url: &str,
    ) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some((token, home)) if *home == origin(url) => {
                request.header("Authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    /// Sends a request, again and again while the answer is a transient one, along all redirects.
    fn send(
        &self,
        url: &str,
        follow: Follow,
        once: impl Fn(&str) -> Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<Answer, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let response = repeated(&url, || once(&url))?;
            let answer = Answer {
                status: response.status().as_u16(),
                url: url.clone(),
                response,
            };
            let location = match answer.status {
                301 | 302 | 303 | 307 | 308 => answer.header("Location"),
                _ => None,
            };
            let Some(next) = location.map(|location| join(&url, location)) else {
                return Ok(answer);
            };
            if follow == Follow::SameOrigin && origin(&next) != origin(&url) {
                return Ok(answer);
            }
            if url.starts_with("https:") && !next.starts_with("https:") {
                let message = format!("a redirect to {next}, which is not encrypted");
                return Err(Trouble::new(&url, message));
            }
            url = next;
        }
        Err(Trouble::new(
            &url,
            format!("more than {REDIRECTS} redirects"),
        ))
    }
}

/// Tries a request several times, for as long as the reason may pass.
fn repeated(
    url: &str,
    once: impl Fn() -> Result<ureq::http::Response<Body>, ureq::Error>,
) -> Result<ureq::http::Response<Body>, Trouble> {
    for attempt in 1.. {
        // Who answers may recover; where nobody does, there is most likely no connection.
        let mut most = ATTEMPTS;
        let (reason, asked) = match once() {
            Ok(response) if !passes(response.status().as_u16()) => return Ok(response),
            Ok(response) => {
                let asked = response.headers().get("Retry-After");
                let asked = asked.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                (format!("HTTP {}", response.status()), asked)
            }
            Err(
                error @ (ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed),
            ) => {
                most = UNANSWERED;
                (error.to_string(), None)
            }
            Err(error) => return Err(Trouble::new(url, error)),
        };
        let wait = asked.map_or(pause(attempt), Duration::from_secs);
        if wait > PATIENCE {
            let message = format!("{reason}; the server asks to come back in {wait:?}");
            return Err(Trouble::new(url, message));
        }
        if attempt >= most {
            return Err(Trouble::new(url, format!("{reason}, {most} times")));
        }
        eprintln!("{url}: {reason}; trying again in {wait:?}");
        std::thread::sleep(wait);
    }
    unreachable!("the last attempt returns")
}

/// The pause after an attempt: 1 s, then twice as long each time.
pub fn pause(attempt: u32) -> Duration {
    Duration::from_secs(1 << (attempt - 1).min(4))
}

/// Whether the server says that it may answer later.
fn passes(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504)
}
