//! The tables' line format, read strictly: what is not understood is an error with its line, never skipped.
//!
//! ```text
//! # A comment. A case begins with its title; its steps run in order against a fresh registry.
//! == A part of a blob
//! limits blob=1000                                   bounds other than the defaults
//! let B = text hello                                 content by name, see `content`
//! + blob B in demo/a                                 pushed before the rows, not a row itself
//! ! restart                                          something that is no request, see `run::act`
//! > GET /v2/demo/a/blobs/$B | range: bytes=1-2       a request: method, target, headers, at most one body
//! < 206 [end-2] | content-range: bytes 1-2/5 | body = "el"
//! ```
//!
//! Fields are separated by ` | `. `$B` is the digest of `B` under the algorithm the case runs with; other attributes of
//! a name are listed at [`super::content::Names::expand`]. A row is one `<`: the status, what it is derived from
//! ([`REFERENCES`]) and its checks.

/// What a row may be derived from: an endpoint of the distribution specification, a section of it, or a document beside
/// it. `client` is a habit of a client in use, `ours` a promise of this registry that goes beyond the specification.
pub const REFERENCES: [&str; 35] = [
    "end-1",
    "end-2",
    "end-3",
    "end-4a",
    "end-4b",
    "end-4c",
    "end-5",
    "end-6",
    "end-7a",
    "end-7b",
    "end-8a",
    "end-8b",
    "end-9",
    "end-10",
    "end-11",
    "end-12a",
    "end-12b",
    "end-13",
    "end-14",
    "spec/names",
    "spec/digests",
    "spec/errors",
    "spec/warnings",
    "spec/push",
    "spec/pull",
    "spec/referrers-tag",
    "spec/enabling-referrers",
    "image-spec/manifest",
    "image-spec/index",
    "image-spec/descriptor",
    "rfc9110",
    "catalog",
    "wasm-pkg",
    "client",
    "ours",
];

/// Headers a check may name. A misspelt one would make `no HEADER` pass for ever.
const HEADERS: [&str; 21] = [
    "accept-ranges",
    "allow",
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "link",
    "location",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-namespace",
    "oci-subject",
    "oci-tag",
    "range",
    "retry-after",
    "transfer-encoding",
    "warning",
    "www-authenticate",
];

/// A table: one subject.
#[derive(Debug)]
pub struct Table {
    pub cases: Vec<Case>,
}

/// A story with its own registry.
#[derive(Debug)]
pub struct Case {
    pub line: usize,
    pub title: String,
    /// Bounds by name.
    pub limits: Vec<(String, u64)>,
    pub steps: Vec<(usize, Step)>,
}

#[derive(Debug)]
pub enum Step {
    /// `let NAME = WORDS`.
    Let { name: String, words: String },
    /// `+ blob NAME in REPOSITORY`.
    Blob { name: String, repository: String },
    /// `+ manifest NAME in REPOSITORY [as TAG]`.
    Manifest {
        name: String,
        repository: String,
        tag: Option<String>,
    },
    /// `+ session NAME in REPOSITORY`: the name becomes its location.
    Session { name: String, repository: String },
    /// `! WORDS`.
    Act(String),
    /// A request and its answer.
    Row(Row),
}

#[derive(Debug)]
pub struct Row {
    pub request: Request,
    pub status: u16,
    pub reference: String,
    pub checks: Vec<Check>,
}

#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Text>,
}

/// A body: what a name stands for, or these words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Of(String),
    Words(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// `header: value`.
    Header(String, String),
    /// `header ~ pattern`, where `*` is any text.
    Like(String, String),
    /// `no header`.
    Without(String),
    /// `all header: a, b`: these values and no others, in any order.
    All(String, Vec<String>),
    /// `code CODE`: the only error in the body.
    Code(String),
    /// `body empty`.
    Empty,
    /// `body = @NAME` or `body = "words"`.
    Body(Text),
    /// `json POINTER = VALUE`, `json POINTER absent`.
    Json(String, Option<String>),
    /// `digests DIGEST ...`: the `manifests` of an index, in any order.
    Digests(Vec<String>),
    /// `entry DIGEST POINTER = VALUE` or `absent`, in the `manifests` of an index.
    Entry(String, String, Option<String>),
    /// `save NAME = header`.
    Save(String, String),
}

impl Table {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.cases.iter().map(Case::rows).sum()
    }

    /// Reads a table.
    pub fn parse(text: &str) -> Result<Table, String> {
        let mut cases: Vec<Case> = Vec::new();
        let mut asked: Option<(usize, Request)> = None;
        for (at, raw) in text.lines().enumerate() {
            let line = at + 1;
            let words = raw.trim();
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| format!("line {line}: {what}: {words}");
            if asked.is_some() && !words.starts_with("< ") {
                return Err(wrong("an answer must follow its request"));
            }
            if let Some(title) = words.strip_prefix("== ") {
                cases.push(Case {
                    line,
                    title: title.trim().to_owned(),
                    limits: Vec::new(),
                    steps: Vec::new(),
                });
                continue;
            }
            let case = cases.last_mut().ok_or_else(|| wrong("no case yet"))?;
            if let Some(rest) = words.strip_prefix("> ") {
                let request = request(rest).map_err(|what| wrong(&what))?;
                asked = Some((line, request));
            } else if let Some(rest) = words.strip_prefix("< ") {
                let (from, request) = asked.take().ok_or_else(|| wrong("no request before it"))?;
                let row = row(request, rest).map_err(|what| wrong(&what))?;
                case.steps.push((from, Step::Row(row)));
            } else if let Some(rest) = words.strip_prefix("limits ") {
                case.limits = limits(rest).map_err(|what| wrong(&what))?;
            } else {
                let step = step(words).map_err(|what| wrong(&what))?;
                case.steps.push((line, step));
            }
        }
        if asked.is_some() {
            return Err("the last request has no answer".to_owned());
        }
        if cases.is_empty() {
            return Err("the table has no case".to_owned());
        }
        match cases.iter().find(|case| case.rows() == 0) {
            Some(case) => Err(format!("line {}: a case without a row", case.line)),
            None => Ok(Table { cases }),
        }
    }
}

impl Case {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        let rows = self.steps.iter();
        rows.filter(|(_, step)| matches!(step, Step::Row(_)))
            .count()
    }
}

/// A name: upper-case letters and digits, a letter first.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a name"))
    }
}

fn limits(text: &str) -> Result<Vec<(String, u64)>, String> {
    text.split_whitespace()
        .map(|pair| -> Result<(String, u64), String> {
            let (key, value) = pair.split_once('=').ok_or("a limit is KEY=NUMBER")?;
            let value = value.parse().map_err(|_| "a limit is KEY=NUMBER")?;
            Ok((key.to_owned(), value))
        })
        .collect()
}

fn step(text: &str) -> Result<Step, String> {
    if let Some(rest) = text.strip_prefix("let ") {
        let (left, words) = rest.split_once('=').ok_or("let NAME = CONTENT")?;
        return Ok(Step::Let {
            name: name(left.trim())?,
            words: words.trim().to_owned(),
        });
    }
    if let Some(rest) = text.strip_prefix("! ") {
        return Ok(Step::Act(rest.trim().to_owned()));
    }
    let given = text.strip_prefix("+ ").ok_or("not a step")?;
    let words: Vec<&str> = given.split_whitespace().collect();
    match words.as_slice() {
        ["blob", what, "in", repository] => Ok(Step::Blob {
            name: name(what)?,
            repository: (*repository).to_owned(),
        }),
        ["session", what, "in", repository] => Ok(Step::Session {
            name: name(what)?,
            repository: (*repository).to_owned(),
        }),
        ["manifest", what, "in", repository] => Ok(Step::Manifest {
            name: name(what)?,
            repository: (*repository).to_owned(),
            tag: None,
        }),
        ["manifest", what, "in", repository, "as", tag] => Ok(Step::Manifest {
            name: name(what)?,
            repository: (*repository).to_owned(),
            tag: Some((*tag).to_owned()),
        }),
        _ => Err("not a thing that can be given".to_owned()),
    }
}

fn fields(text: &str) -> impl Iterator<Item = &str> {
    text.split(" | ").map(str::trim)
}

/// `@NAME` or `"words"`.
fn text(field: &str) -> Result<Text, String> {
    if let Some(of) = field.strip_prefix('@') {
        return Ok(Text::Of(name(of)?));
    }
    let words = field.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let words = words.ok_or("a body is @NAME or \"words\"")?;
    Ok(Text::Words(words.to_owned()))
}

fn request(line: &str) -> Result<Request, String> {
    let mut fields = fields(line);
    let first = fields.next().unwrap_or_default();
    let (method, target) = first.split_once(' ').ok_or("METHOD TARGET")?;
    let target = target.trim();
    if !method.bytes().all(|b| b.is_ascii_uppercase()) || target.contains(' ') {
        return Err("METHOD TARGET".to_owned());
    }
    if !target.starts_with(['/', '$']) {
        return Err("a target begins with / or a name".to_owned());
    }
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        ..Request::default()
    };
    for field in fields {
        if let Some(rest) = field.strip_prefix("body ") {
            if request.body.is_some() {
                return Err("two bodies".to_owned());
            }
            request.body = Some(text(rest.trim())?);
        } else {
            let (key, value) = field.split_once(':').ok_or("header: value")?;
            let key = key.trim();
            if key.is_empty() || key.contains(' ') {
                return Err("header: value".to_owned());
            }
            let header = (key.to_owned(), value.trim().to_owned());
            request.headers.push(header);
        }
    }
    Ok(request)
}

fn row(request: Request, line: &str) -> Result<Row, String> {
    let mut fields = fields(line);
    let first = fields.next().unwrap_or_default();
    let (status, reference) = first.split_once(' ').ok_or("STATUS [REFERENCE]")?;
    let status: u16 = status.parse().map_err(|_| "STATUS [REFERENCE]")?;
    let reference = reference.trim().strip_prefix('[');
    let reference = reference.and_then(|text| text.strip_suffix(']'));
    let reference = reference.ok_or("STATUS [REFERENCE]")?;
    if !(200..600).contains(&status) {
        return Err(format!("{status} is not a status"));
    }
    if !REFERENCES.contains(&reference) {
        return Err(format!("{reference:?} is not a reference"));
    }
    let checks = fields.map(check).collect::<Result<Vec<Check>, String>>()?;
    if checks.iter().any(|check| matches!(check, Check::Code(_))) && status < 400 {
        return Err("a code in an answer that is no error".to_owned());
    }
    Ok(Row {
        request,
        status,
        reference: reference.to_owned(),
        checks,
    })
}

fn header(text: &str) -> Result<String, String> {
    let text = text.trim();
    if HEADERS.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a header that is checked"))
    }
}

/// `= VALUE` or `absent`.
fn value(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    match text.strip_prefix("= ") {
        Some(value) => Ok(Some(value.trim().to_owned())),
        None if text == "absent" => Ok(None),
        None => Err("= VALUE or absent".to_owned()),
    }
}

fn check(field: &str) -> Result<Check, String> {
    let (word, rest) = field.split_once(' ').unwrap_or((field, ""));
    let rest = rest.trim();
    match word {
        "no" => Ok(Check::Without(header(rest)?)),
        "all" => {
            let (key, values) = rest.split_once(':').ok_or("all header: a, b")?;
            let values = values.split(',').map(|v| v.trim().to_owned()).collect();
            Ok(Check::All(header(key)?, values))
        }
        "code" if !rest.is_empty() => Ok(Check::Code(rest.to_owned())),
        "body" if rest == "empty" => Ok(Check::Empty),
        "body" => {
            let rest = rest.strip_prefix("= ").ok_or("body = TEXT")?;
            Ok(Check::Body(text(rest.trim())?))
        }
        "json" => {
            let (pointer, rest) = rest.split_once(' ').ok_or("json POINTER = VALUE")?;
            if !pointer.starts_with('/') {
                return Err("a pointer begins with /".to_owned());
            }
            Ok(Check::Json(pointer.to_owned(), value(rest)?))
        }
        "digests" => Ok(Check::Digests(
            rest.split_whitespace().map(str::to_owned).collect(),
        )),
        "entry" => {
            let (digest, rest) = rest.split_once(' ').ok_or("entry DIGEST POINTER = VALUE")?;
            let (pointer, rest) = rest.split_once(' ').ok_or("entry DIGEST POINTER = VALUE")?;
            Ok(Check::Entry(
                digest.to_owned(),
                pointer.to_owned(),
                value(rest)?,
            ))
        }
        "save" => {
            let (left, right) = rest.split_once('=').ok_or("save NAME = header")?;
            Ok(Check::Save(name(left.trim())?, header(right)?))
        }
        _ => match (field.split_once(": "), field.split_once(" ~ ")) {
            (Some((key, value)), None) => Ok(Check::Header(header(key)?, value.trim().to_owned())),
            (_, Some((key, value))) => Ok(Check::Like(header(key)?, value.trim().to_owned())),
            (None, None) => Err("not a check".to_owned()),
        },
    }
}
