//! The kubeconfig of the administrator.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::identity::NodeIdentity;

/// A kubeconfig with everything embedded, for the API at `url`.
pub fn kubeconfig(url: &str, admin: &NodeIdentity) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: coracle\n  \
           cluster:\n    \
             server: {url}\n    \
             certificate-authority-data: {}\n\
         users:\n\
         - name: coracle-admin\n  \
           user:\n    \
             client-certificate-data: {}\n    \
             client-key-data: {}\n\
         contexts:\n\
         - name: coracle\n  \
           context:\n    \
             cluster: coracle\n    \
             user: coracle-admin\n\
         current-context: coracle\n",
        data(&admin.ca),
        data(&admin.certificate),
        data(&admin.key),
    )
}
