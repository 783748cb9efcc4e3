//! What a user reads when a push or a pull fails.

use coracle_registry::client::Error;
use coracle_registry::wasm::Unsupported;
use http::StatusCode;

use super::Image;
use crate::error::{self, CliError};

/// A coded error with what to do.
pub fn coded(e: &Error, image: &Image) -> CliError {
    let name = image.shown();
    let registry = image.host.as_deref().unwrap_or("the cluster's registry");
    let said = format!("{name}: {e}");
    match (e, &image.host) {
        (Error::Refused { status, code, .. }, host) => {
            let login = match host {
                Some(host) => format!("log in with `docker login {host}`"),
                None => "use a kubeconfig whose user may do that".into(),
            };
            let fix = match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => login,
                StatusCode::NOT_FOUND => {
                    "check the name and the tag; `coracle push FILE NAME:TAG` makes an image".into()
                }
                StatusCode::PAYLOAD_TOO_LARGE | StatusCode::INSUFFICIENT_STORAGE => {
                    format!("make the file smaller, or let {registry} take more")
                }
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    format!("try again when {registry} has recovered; what is there is not sent again")
                }
                _ => format!("{registry} does not accept this; check the name"),
            };
            CliError::new(code.clone(), said).fix(fix)
        }
        (Error::Unreachable { .. }, None) => CliError::new("E_UNREACHABLE", said)
            .fix("is it running? `coracle up` starts one; --kubeconfig names another"),
        (Error::Unreachable { .. }, Some(_)) => CliError::new("E_REGISTRY", said)
            .fix("check the registry's address and the network; the next try goes on where this one ended"),
        (Error::Denied(_), host) => CliError::new("E_REGISTRY_LOGIN", said).fix(format!(
            "log in with `docker login {}`",
            host.as_deref().unwrap_or_default()
        )),
        (Error::Corrupt { .. }, _) => CliError::new("E_DIGEST", said).fix("push the image again"),
        (Error::TooLarge { .. }, _) => {
            CliError::new("E_IMAGE_TOO_LARGE", said).fix("push the .wasm file itself with `coracle push`")
        }
        (Error::Protocol(_), _) => CliError::new("E_REGISTRY", said)
            .fix(format!("check that {registry} is an OCI registry")),
        (Error::File { path, source }, _) => error::file(path, source),
    }
}

/// An image that cannot run.
pub fn unsupported(e: &Unsupported, image: &Image) -> CliError {
    CliError::new(
        "E_IMAGE_UNSUPPORTED",
        format!("{} {}", image.shown(), e.what),
    )
    .fix(e.fix.clone())
}

/// An error with its causes.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}
