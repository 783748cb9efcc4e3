//! Answers, read with bounds.

use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{Answer, Client, Error, Failure, Transport};

/// Bytes of a refusal that are read; the rest of a longer one says no more.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Characters of a refusal that are shown if it is not in the protocol's form.
const REFUSAL_SHOWN_MAX: usize = 200;

impl<T: Transport> Client<T> {
    /// The next bytes of a body; `None` at its end.
    pub(super) async fn next(&self, body: &mut Answer) -> Result<Option<bytes::Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.options.stall, body.frame()).await;
            return match frame {
                Err(_) => Err(Failure::broken(format!(
                    "no byte came for {} s",
                    self.options.stall.as_secs()
                ))),
                Ok(None) => Ok(None),
                Ok(Some(Err(e))) => Err(Failure::broken(format!("the connection broke: {e}"))),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Ok(Some(data)),
                    Err(_trailers) => continue,
                },
            };
        }
    }

    /// A whole body of at most `max` bytes.
    pub(super) async fn whole(
        &self,
        response: Response<Answer>,
        what: &'static str,
        max: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = response.into_body();
        let mut all = Vec::new();
        while let Some(data) = self.next(&mut body).await? {
            if all.len() + data.len() > max {
                let limit = max as u64;
                return Err(Error::TooLarge { what, limit }.into());
            }
            all.extend_from_slice(&data);
        }
        Ok(all)
    }

    /// The refusal in an answer. What cannot be read of it is left out.
    pub(super) async fn refused(&self, response: Response<Answer>) -> Error {
        let status = response.status();
        let mut body = response.into_body();
        let mut all = Vec::new();
        while all.len() < REFUSAL_BYTES_MAX
            && let Ok(Some(data)) = self.next(&mut body).await
        {
            all.extend_from_slice(&data);
        }
        refusal(status, &all)
    }
}

/// What the registry says, by the protocol's form of errors, else as it is.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &said["errors"][0];
    let filled = |text: &Value| text.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let plain = || {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        // A page for browsers says nothing to a terminal.
        let page = text.is_empty() || text.starts_with('<') || text.starts_with('{');
        let shown = text.chars().filter(|c| !c.is_control());
        (!page).then(|| shown.take(REFUSAL_SHOWN_MAX).collect::<String>())
    };
    Error::Refused {
        status,
        code: filled(&first["code"]).unwrap_or_else(|| format!("HTTP{}", status.as_u16())),
        message: filled(&first["message"])
            .or_else(plain)
            .unwrap_or_else(|| format!("the registry answered {status}")),
        tries: 1,
    }
}

/// A header as text.
pub(super) fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_every_form() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such project"}]}"#,
                "NAME_UNKNOWN",
                "no such project",
            ),
            (
                r#"{"errors":[{"code":"DENIED","message":""}]}"#,
                "DENIED",
                "the registry answered 404 Not Found",
            ),
            ("page not found\n", "HTTP404", "page not found"),
            ("<html>", "HTTP404", "the registry answered 404 Not Found"),
            ("", "HTTP404", "the registry answered 404 Not Found"),
            (
                r#"{"errors":{}}"#,
                "HTTP404",
                "the registry answered 404 Not Found",
            ),
        ] {
            let error = refusal(StatusCode::NOT_FOUND, body.as_bytes());
            let Error::Refused { code: found, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(
                (found.as_str(), error.to_string().as_str()),
                (code, message)
            );
        }
    }
}
