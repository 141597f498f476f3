//! One transfer over HTTP: resumed, retried, checked, and moved into place when whole.
//!
//! Redirects are followed here and not by the HTTP library, for two reasons: the headers that name
//! commit and checksum come with the Hub's first answer, not with the storage host's; and the token
//! goes to the host it belongs to alone.

use crate::Error;
use crate::files::{create_parent, hash_into, hex, is_sha256, with_suffix};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::Body;
use ureq::http::{Response, Uri};

const REDIRECTS: usize = 10;

/// What a user sees of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// A bar when standard error is a terminal, otherwise one line at the start.
    #[default]
    Bar,
    Quiet,
}

impl Progress {
    /// The line at the start.
    pub(crate) fn announce(self, line: fmt::Arguments<'_>) {
        if self == Progress::Bar {
            eprintln!("{line}");
        }
    }
}

/// How often and after what waits a failed request is tried again: after a cut connection, a 5xx, a 429.
#[derive(Clone)]
pub struct Retry {
    /// Attempts in a row that bring nothing new before giving up; at least one is made.
    pub attempts: u32,
    /// The first wait; it doubles each time.
    pub backoff: Duration,
    /// No wait is longer: a backoff is cut to it, a longer `Retry-After` is an error at once.
    pub max_wait: Duration,
    /// How to wait; `std::thread::sleep` but in tests.
    pub sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 5,
            backoff: Duration::from_secs(1),
            // The Hub counts requests over five minutes.
            max_wait: Duration::from_secs(300),
            sleep: Arc::new(std::thread::sleep),
        }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("attempts", &self.attempts)
            .field("backoff", &self.backoff)
            .field("max_wait", &self.max_wait)
            .finish_non_exhaustive()
    }
}

/// What a server says of a file before it is fetched.
pub(crate) struct Meta {
    /// `x-repo-commit` of the Hub.
    pub commit: Option<String>,
    /// Identifies the content; checked to be safe as a file name.
    pub etag: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// The Hub's tag of a large file is its checksum.
    pub sha256: Option<String>,
}

/// A request for one file.
pub(crate) struct Transfer<'a> {
    /// The source, for messages.
    pub wanted: String,
    pub url: String,
    /// Where a person can look at the repository.
    pub page: String,
    /// Sent to the host of `url` alone.
    pub token: Option<&'a str>,
    pub retry: &'a Retry,
    pub progress: Progress,
}

/// Why one attempt failed.
enum Failure {
    /// Worth another, after the wait that the server asks for.
    Again(Error, Option<Duration>),
    Stop(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Stop(error)
    }
}

impl Transfer<'_> {
    /// Asks for size, tag and commit, without the content.
    pub fn probe(&self) -> Result<Meta, Error> {
        let agent = agent();
        let mut tries = 0;
        loop {
            match self.probe_once(&agent) {
                Ok(meta) => return Ok(meta),
                Err(failure) => self.wait(failure, &mut tries)?,
            }
        }
    }

    fn probe_once(&self, agent: &ureq::Agent) -> Result<Meta, Failure> {
        let (mut commit, mut linked, mut size) = (None, None, None);
        let mut url = self.url.clone();
        for _ in 0..REDIRECTS {
            let answer = self.ask(agent, true, &url, 0)?;
            commit = commit.or_else(|| header(&answer, "x-repo-commit"));
            linked = linked.or_else(|| header(&answer, "x-linked-etag"));
            size = size.or_else(|| number(&answer, "x-linked-size"));
            let next = self.redirect(&url, &answer)?;
            // Storage hosts need not be asked: their links are signed for one method.
            let told = commit.is_some() && linked.is_some() && size.is_some();
            if let Some(next) = next
                && (!told || same_origin(&next, &self.url))
            {
                url = next;
                continue;
            }
            let sha256 = linked
                .as_deref()
                .map(bare_tag)
                .filter(|t| is_sha256(t))
                .map(str::to_ascii_lowercase);
            let tag = linked.or_else(|| header(&answer, "etag"));
            return Ok(Meta {
                commit,
                etag: tag.map(|t| self.safe_tag(bare_tag(&t))).transpose()?,
                size: size.or_else(|| number(&answer, "content-length")),
                sha256,
            });
        }
        Err(self.odd("it redirects without end").into())
    }

    /// Fetches the content into `target`, by way of a part file beside it that a later call resumes.
    /// Checks size and checksum (`expected`: 64 lower-case digits) before `target` appears; returns the checksum.
    pub fn download(
        &self,
        target: &Path,
        meta: &Meta,
        expected: Option<&str>,
    ) -> Result<String, Error> {
        create_parent(target)?;
        // The tag in the name keeps a part from being continued with other content.
        let name = format!(".{}.sharelora-part", meta.etag.as_deref().unwrap_or("0"));
        let mut part = Part::open(with_suffix(target, &name))?;
        if meta.etag.is_none() {
            part.restart()?;
        }
        let mut inherited = part.len > 0;
        let sum = loop {
            self.fill(&mut part, meta.size)?;
            let sum = hex(&part.hasher.clone().finalize());
            let Some(right) = [expected, meta.sha256.as_deref()]
                .into_iter()
                .flatten()
                .find(|s| *s != sum)
            else {
                break sum;
            };
            if inherited {
                // What an earlier run left may be damaged: once from the start.
                inherited = false;
                part.restart()?;
                continue;
            }
            fs::remove_file(&part.path).map_err(Error::io("remove", &part.path))?;
            return Err(Error::Checksum {
                wanted: self.wanted.clone(),
                path: target.to_owned(),
                expected: right.to_owned(),
                actual: sum,
                next: "the download was removed; run again, and if it comes out the same the file has changed at its source",
            });
        };
        part.file
            .sync_all()
            .map_err(|e| Error::write(&self.wanted, &part.path, None, e))?;
        fs::rename(&part.path, target).map_err(Error::io("rename to", target))?;
        Ok(sum)
    }

    /// Brings the part to `size` bytes, in as many attempts as it takes.
    fn fill(&self, part: &mut Part, size: Option<u64>) -> Result<(), Error> {
        if size.is_some_and(|size| part.len > size) {
            part.restart()?;
        }
        let bar = self.bar(size, part.len);
        let agent = agent();
        let (mut tries, mut best) = (0, part.len);
        // An empty file still has to be asked for: its absence is an error too.
        while part.len == 0 || size.is_none_or(|size| part.len < size) {
            match self.fill_once(&agent, part, size, &bar) {
                Ok(()) => break,
                Err(failure) => {
                    if part.len > best {
                        (tries, best) = (0, part.len);
                    }
                    self.wait(failure, &mut tries)?;
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn fill_once(
        &self,
        agent: &ureq::Agent,
        part: &mut Part,
        size: Option<u64>,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut answer = self.open(agent, part.len)?;
        if part.len > 0 && !continues(&answer, part.len) {
            part.restart()?;
            if answer.status() != 200 {
                return Err(Failure::Again(
                    self.odd("it sent another range than the one asked for"),
                    None,
                ));
            }
        }
        bar.set_position(part.len);
        let told = number(&answer, "content-length").map(|n| n + part.len);
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::Again(self.failed(&e), None)),
            };
            part.append(&buffer[..n]).map_err(|e| {
                let needed = size.map(|size| size.saturating_sub(part.len));
                Error::write(&self.wanted, &part.path, needed, e)
            })?;
            bar.inc(n as u64);
            if size.is_some_and(|size| part.len > size) {
                break;
            }
        }
        match size.or(told) {
            Some(size) if part.len < size => {
                let reason = format!("the connection was cut at byte {} of {size}", part.len);
                Err(Failure::Again(self.failed(&reason), None))
            }
            Some(size) if part.len > size => {
                let reason = format!("it sent {} bytes or more of a file of {size}", part.len);
                part.restart()?;
                Err(Failure::Again(self.odd(&reason), None))
            }
            _ => Ok(()),
        }
    }

    /// The answer that carries the content from byte `from` on.
    fn open(&self, agent: &ureq::Agent, from: u64) -> Result<Response<Body>, Failure> {
        let mut url = self.url.clone();
        for _ in 0..REDIRECTS {
            let answer = self.ask(agent, false, &url, from)?;
            match self.redirect(&url, &answer)? {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(self.odd("it redirects without end").into())
    }

    /// One request; a refusal becomes an error.
    fn ask(
        &self,
        agent: &ureq::Agent,
        head: bool,
        url: &str,
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        let mut request = if head {
            agent.head(url)
        } else {
            agent.get(url)
        };
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token
            && same_origin(url, &self.url)
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.call().map_err(|error| match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Failure::Again(self.failed(&error), None),
            other => Failure::Stop(self.failed(&other)),
        })?;
        match answer.status().as_u16() {
            200 | 206 | 301 | 302 | 303 | 307 | 308 => Ok(answer),
            // Only a resumed request has a range: the part is longer than the file is now.
            416 if from > 0 => Ok(answer),
            status => Err(self.refused(status, &answer)),
        }
    }

    fn refused(&self, status: u16, answer: &Response<Body>) -> Failure {
        let detail = header(answer, "x-error-message").map_or(String::new(), |m| format!(" ({m})"));
        let asked = number(answer, "retry-after").map(Duration::from_secs);
        let wanted = self.wanted.clone();
        match status {
            401 | 403 => Failure::Stop(Error::Denied {
                wanted,
                status,
                page: self.page.clone(),
                detail,
            }),
            404 => Failure::Stop(Error::NotFound {
                wanted,
                url: self.url.clone(),
                detail,
            }),
            429 => {
                let error = Error::RateLimited {
                    wanted,
                    host: origin(&self.url).map_or(self.url.clone(), |(_, host, _)| host),
                    wait: asked.map_or("some minutes".into(), |t| format!("{} s", t.as_secs())),
                };
                Failure::Again(error, asked)
            }
            408 | 500..=599 => Failure::Again(self.failed(&format!("status {status}")), asked),
            _ => Failure::Stop(self.odd(&format!("status {status}{detail}"))),
        }
    }

    /// Waits before the next attempt, or returns the error when there is none to be made.
    fn wait(&self, failure: Failure, tries: &mut u32) -> Result<(), Error> {
        let (error, asked) = match failure {
            Failure::Stop(error) => return Err(error),
            Failure::Again(error, asked) => (error, asked),
        };
        let retry = self.retry;
        *tries += 1;
        if *tries >= retry.attempts || asked.is_some_and(|t| t > retry.max_wait) {
            return Err(error);
        }
        let doubled = 2u32.saturating_pow(*tries - 1);
        let wait =
            asked.unwrap_or_else(|| retry.backoff.saturating_mul(doubled).min(retry.max_wait));
        tracing::warn!(%error, ?wait, "trying again");
        (retry.sleep)(wait);
        Ok(())
    }

    /// Where an answer redirects to.
    fn redirect(&self, url: &str, answer: &Response<Body>) -> Result<Option<String>, Error> {
        if !answer.status().is_redirection() {
            return Ok(None);
        }
        header(answer, "location")
            .and_then(|to| join(url, &to))
            .map(Some)
            .ok_or_else(|| self.odd("it redirects to nowhere"))
    }

    fn safe_tag(&self, tag: &str) -> Result<String, Error> {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if !tag.is_empty() && tag.len() <= 128 && tag.chars().all(safe) {
            Ok(tag.to_owned())
        } else {
            Err(self.odd(&format!("its etag is `{tag}`")))
        }
    }

    fn bar(&self, size: Option<u64>, done: u64) -> ProgressBar {
        if self.progress == Progress::Bar && io::stderr().is_terminal() {
            let template =
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = match size {
                Some(size) => ProgressBar::new(size).with_style(style),
                None => ProgressBar::new_spinner(),
            };
            return bar.with_message(self.wanted.clone()).with_position(done);
        }
        let size = size.map_or("size unknown".to_owned(), |n| BinaryBytes(n).to_string());
        self.progress
            .announce(format_args!("downloading {} ({size})", self.wanted));
        ProgressBar::hidden()
    }

    fn failed(&self, reason: &dyn fmt::Display) -> Error {
        Error::Transfer {
            wanted: self.wanted.clone(),
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }

    pub fn odd(&self, reason: &str) -> Error {
        Error::Protocol {
            wanted: self.wanted.clone(),
            url: self.url.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// What has arrived so far, and its running checksum.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
}

impl Part {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let open = || -> io::Result<(File, Sha256, u64)> {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let mut hasher = Sha256::new();
            let len = file.metadata()?.len();
            let len = hash_into(&mut (&mut file).take(len), &mut hasher)?;
            Ok((file, hasher, len))
        };
        let (file, hasher, len) = open().map_err(Error::io("open", &path))?;
        Ok(Part {
            path,
            file,
            hasher,
            len,
        })
    }

    fn restart(&mut self) -> Result<(), Error> {
        if self.len > 0 {
            self.file
                .set_len(0)
                .and_then(|()| self.file.rewind())
                .map_err(Error::io("truncate", &self.path))?;
        }
        (self.hasher, self.len) = (Sha256::new(), 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Sizes and ranges are those of the file, not of a compressed form of it.
        .accept_encoding("identity")
        .user_agent(concat!("sharelora/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .build()
        .into()
}

/// Whether an answer carries the content from byte `from` on: `content-range: bytes FROM-...`.
fn continues(answer: &Response<Body>, from: u64) -> bool {
    let start = header(answer, "content-range").and_then(|range| {
        let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
        start.trim().parse::<u64>().ok()
    });
    answer.status() == 206 && start == Some(from)
}

fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

fn number(answer: &Response<Body>, name: &str) -> Option<u64> {
    header(answer, name)?.trim().parse().ok()
}

/// `W/"tag"` without its marks.
fn bare_tag(tag: &str) -> &str {
    tag.trim().trim_start_matches("W/").trim_matches('"')
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri
        .port_u16()
        .unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn same_origin(a: &str, b: &str) -> bool {
    origin(a).is_some_and(|a| Some(a) == origin(b))
}

/// A redirect's target, which may be relative to the address it came from.
fn join(base: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    let (scheme, host) = (base.scheme_str()?, base.authority()?);
    if let Some(to) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{to}"));
    }
    if to.starts_with('/') {
        return Some(format!("{scheme}://{host}{to}"));
    }
    let (folder, _) = base.path().rsplit_once('/')?;
    Some(format!("{scheme}://{host}{folder}/{to}"))
}

/// Percent-encodes what may not stand in the path of a URL; `/` stays.
pub(crate) fn url_path(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
