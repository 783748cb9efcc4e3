//! Lists: tags, repositories, referrers. Each is sorted, and pages with an exclusive `last`.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use serde::Serialize;

use crate::digest::Digest;
use crate::error::{Code, Error};
use crate::manifest::{self, Descriptor};
use crate::manifests::{Reference, Referrer};
use crate::meta::Row;
use crate::name::Name;
use crate::registry::{PAGE_ROWS, Registry};
use crate::rows::{self, REFERRERS, REPOSITORIES, TAGS};
use crate::through::is_mirror;

/// Referrers in one answer. An index of a thousand descriptors is some 300 KB; the next page is one link away.
const REFERRERS_PAGE_MAX: usize = 1_000;

/// Bytes of referrers in one answer, roughly, but at least one: annotations may be as long as a manifest. Clients expect
/// to read indexes of 4 MiB.
const REFERRERS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One page and whether more follow.
pub(crate) struct Page<T> {
    pub items: Vec<T>,
    pub more: bool,
}

/// A referrer as an index shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Registry {
    /// Tags of a repository; without `n` all of them, because common clients never ask for a second page.
    pub(crate) async fn tags(
        &self,
        name: &Name,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<String>, Error> {
        if self.meta.get(REPOSITORIES, name.as_str()).await?.is_none() {
            return Err(Error::new(
                Code::NameUnknown,
                format!("there is no repository {name}"),
            ));
        }
        let prefix = rows::tag_prefix(name);
        let after = last.map(|last| format!("{prefix}{last}"));
        let rows = self.take(TAGS, &prefix, after, n).await?;
        let items = rows.items.into_iter().map(|(key, _)| key);
        Ok(Page {
            items: items.map(|key| key[prefix.len()..].to_owned()).collect(),
            more: rows.more,
        })
    }

    /// Repositories with at least one manifest pushed.
    pub(crate) async fn catalog(
        &self,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<String>, Error> {
        let after = last.map(str::to_owned);
        let rows = self.take(REPOSITORIES, "", after, n).await?;
        Ok(Page {
            items: rows.items.into_iter().map(|(key, _)| key).collect(),
            more: rows.more,
        })
    }

    /// Up to `n` rows and whether there are more; `n` = 0 is an empty page with nothing after it.
    async fn take(
        &self,
        table: &'static str,
        prefix: &str,
        mut after: Option<String>,
        n: Option<usize>,
    ) -> Result<Page<(String, Row)>, Error> {
        let want = n.unwrap_or(usize::MAX);
        let mut items: Vec<(String, Row)> = Vec::new();
        if want == 0 {
            return Ok(Page { items, more: false });
        }
        loop {
            // One more than wanted tells whether a next page exists.
            let limit = (want - items.len()).saturating_add(1).min(PAGE_ROWS);
            let page = self
                .meta
                .list(table, prefix, after.as_deref(), limit)
                .await?;
            let end = page.len() < limit;
            items.extend(page);
            if items.len() > want {
                items.truncate(want);
                return Ok(Page { items, more: true });
            }
            if end {
                return Ok(Page { items, more: false });
            }
            after = items.last().map(|(key, _)| key.clone());
        }
    }

    /// Who refers to a manifest: the recorded ones, and those of an index under the fallback tag `sha256-<hex>` that
    /// clients write where referrers are not supported. Sorted by digest. Never "unknown": nobody refers to what is not
    /// there.
    pub(crate) async fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        artifact_type: Option<&str>,
        n: Option<usize>,
        last: Option<&str>,
    ) -> Result<Page<Shown>, Error> {
        let want = n.unwrap_or(REFERRERS_PAGE_MAX).min(REFERRERS_PAGE_MAX);
        let mut items: Vec<Shown> = Vec::new();
        if want == 0 {
            return Ok(Page { items, more: false });
        }
        let mut listed = self.fallback(name, subject).await?;
        if let Some(last) = last {
            listed = listed.split_off(last);
            listed.remove(last);
        }
        let prefix = rows::referrer_prefix(name, subject);
        let mut after = last.map(|last| format!("{prefix}{last}"));
        let mut bytes = 0;
        loop {
            let rows = self
                .meta
                .list(REFERRERS, &prefix, after.as_deref(), PAGE_ROWS)
                .await?;
            let end = rows.len() < PAGE_ROWS;
            after = rows.last().map(|(key, _)| key.clone());
            let until = after.as_deref().filter(|_| !end);
            let later = split_after(&mut listed, until.map(|key| &key[prefix.len()..]));
            let mut candidates: BTreeMap<String, Candidate> = listed
                .into_iter()
                .map(|(digest, descriptor)| (digest, Candidate::Listed(descriptor)))
                .collect();
            listed = later;
            for (key, row) in &rows {
                let digest = key[prefix.len()..].to_owned();
                candidates.insert(digest, Candidate::Recorded(rows::decode(row)?));
            }
            for (digest, candidate) in candidates {
                let shown = self.shown(name, subject, digest, candidate).await?;
                let Some(shown) = shown.filter(|shown| is_wanted(shown, artifact_type)) else {
                    continue;
                };
                bytes += weight(&shown);
                let full = items.len() == want || bytes > REFERRERS_BYTES_MAX;
                if full && !items.is_empty() {
                    return Ok(Page { items, more: true });
                }
                items.push(shown);
            }
            if end {
                return Ok(Page { items, more: false });
            }
        }
    }

    /// A candidate as a list shows it, `None` if it does not belong there or went meanwhile.
    async fn shown(
        &self,
        name: &Name,
        subject: &Digest,
        digest: String,
        candidate: Candidate,
    ) -> Result<Option<Shown>, Error> {
        match candidate {
            Candidate::Recorded(row) => {
                let mut annotations = row.annotations;
                if row.annotations_in_manifest {
                    let Some((_, bytes)) = self.manifest_bytes(name, &digest).await? else {
                        return Ok(None);
                    };
                    annotations = manifest::view(&bytes)?.annotations;
                }
                Ok(Some(Shown {
                    media_type: row.media_type,
                    digest,
                    size: row.size,
                    artifact_type: row.artifact_type,
                    annotations,
                }))
            }
            Candidate::Listed(descriptor) => {
                let Some((media_type, bytes)) = self.manifest_bytes(name, &digest).await? else {
                    // A mirror has it when it is asked for; only then could it be judged.
                    let shown = is_mirror(name).then(|| from_fallback(descriptor));
                    return Ok(shown);
                };
                Ok(judge(subject, digest, &media_type, &bytes))
            }
        }
    }

    /// Descriptors in the index under the fallback tag; none if there is no such tag or it is not an index.
    async fn fallback(
        &self,
        name: &Name,
        subject: &Digest,
    ) -> Result<BTreeMap<String, Descriptor>, Error> {
        let Some((_, bytes)) = self.manifest_bytes(name, &fallback_tag(subject)).await? else {
            return Ok(BTreeMap::new());
        };
        let listed = manifest::view(&bytes).ok().and_then(|view| view.manifests);
        Ok(listed
            .unwrap_or_default()
            .into_iter()
            .filter(|descriptor| descriptor.digest.parse::<Digest>().is_ok())
            .map(|descriptor| (descriptor.digest.clone(), descriptor))
            .collect())
    }

    /// A whole manifest and its type, if it is there; its length is bounded by what was accepted.
    async fn manifest_bytes(
        &self,
        name: &Name,
        reference: &str,
    ) -> Result<Option<(String, Vec<u8>)>, Error> {
        let found = match self.manifest(name, &Reference::parse(reference)?).await {
            Ok(found) => found,
            Err(error) if error.code == Code::ManifestUnknown => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        let mut pieces = (found.opened.body)(0..found.opened.size);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                Error::internal(format!("manifest {reference} cannot be read: {error}"))
            })?;
            all.extend_from_slice(&piece);
        }
        Ok(Some((found.media_type, all)))
    }
}

/// Who may be a referrer.
enum Candidate {
    /// Its push said so.
    Recorded(Referrer),
    /// An index under the fallback tag says so.
    Listed(Descriptor),
}

/// The tag that the specification gives a digest: at most 32 characters of the algorithm and 64 of the rest.
fn fallback_tag(subject: &Digest) -> String {
    let hex: String = subject.hex().chars().take(64).collect();
    format!("{}-{hex}", subject.algorithm().name())
}

/// Leaves what sorts before or at `until` and gives back the rest without it; `None` leaves everything.
fn split_after(
    listed: &mut BTreeMap<String, Descriptor>,
    until: Option<&str>,
) -> BTreeMap<String, Descriptor> {
    let Some(until) = until else {
        return BTreeMap::new();
    };
    let mut later = listed.split_off(until);
    if let Some((digest, descriptor)) = later.remove_entry(until) {
        listed.insert(digest, descriptor);
    }
    later
}

fn is_wanted(shown: &Shown, artifact_type: Option<&str>) -> bool {
    artifact_type.is_none_or(|want| shown.artifact_type.as_deref() == Some(want))
}

/// Roughly the bytes of an entry; what is not text in it is shorter than 128.
fn weight(shown: &Shown) -> usize {
    let annotations = shown.annotations.iter().flatten();
    let annotations: usize = annotations
        .map(|(key, value)| key.len() + value.len() + 6)
        .sum();
    128 + shown.media_type.len()
        + shown.digest.len()
        + shown.artifact_type.as_ref().map_or(0, String::len)
        + annotations
}

/// A manifest that only an index calls a referrer, as its own push would record it; `None` if it is about something
/// else. A fallback tag is cut and may be anybody's, so its word alone is not enough.
fn judge(subject: &Digest, digest: String, media_type: &str, bytes: &[u8]) -> Option<Shown> {
    let facts = manifest::inspect(bytes, Some(media_type)).ok()?;
    if facts.subject.as_ref() != Some(subject) {
        return None;
    }
    Some(Shown {
        media_type: facts.media_type,
        digest,
        size: bytes.len() as u64,
        artifact_type: facts.artifact_type,
        annotations: facts.annotations,
    })
}

fn from_fallback(descriptor: Descriptor) -> Shown {
    Shown {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        artifact_type: descriptor.artifact_type,
        annotations: descriptor.annotations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::manifest::OCI_MANIFEST;
    use serde_json::json;

    #[test]
    fn fallback_tags_are_tags() {
        let short = Algorithm::Sha256.digest(b"x");
        let long = Algorithm::Sha512.digest(b"x");
        assert_eq!(fallback_tag(&short), format!("sha256-{}", short.hex()));
        assert_eq!(fallback_tag(&long), format!("sha512-{}", &long.hex()[..64]));
        for digest in [short, long] {
            fallback_tag(&digest).parse::<crate::name::Tag>().unwrap();
        }
    }

    #[test]
    fn what_is_listed_is_split_where_a_page_of_rows_ends() {
        let descriptor = |digest: &str| {
            let value = json!({ "digest": digest });
            serde_json::from_value::<Descriptor>(value).unwrap()
        };
        let all = || BTreeMap::from(["a", "b", "c"].map(|d| (d.to_owned(), descriptor(d))));
        for (until, left, rest) in [
            (None, "abc", ""),
            (Some("b"), "ab", "c"),
            (Some("bb"), "ab", "c"),
            (Some("0"), "", "abc"),
            (Some("z"), "abc", ""),
        ] {
            let mut listed = all();
            let later = split_after(&mut listed, until);
            let keys = |map: BTreeMap<String, Descriptor>| map.into_keys().collect::<String>();
            assert_eq!((keys(listed).as_str(), keys(later).as_str()), (left, rest));
        }
    }

    #[test]
    fn an_index_is_not_believed() {
        let subject = Algorithm::Sha256.digest(b"s");
        let about = |digest: &Digest| {
            let to = |digest: &Digest| json!({ "mediaType": "a/b", "digest": digest.to_string(), "size": 1 });
            json!({ "schemaVersion": 2, "config": to(&subject), "layers": [], "subject": to(digest) }).to_string()
        };
        let judged = |text: &str| judge(&subject, "d".to_owned(), OCI_MANIFEST, text.as_bytes());
        let shown = judged(&about(&subject)).unwrap();
        assert_eq!(shown.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(shown.media_type, OCI_MANIFEST);
        assert!(judged(&about(&Algorithm::Sha256.digest(b"t"))).is_none());
        assert!(judged("{}").is_none());
        assert!(weight(&shown) > 128);
    }
}
