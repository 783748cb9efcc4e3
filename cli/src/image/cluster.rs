//! The cluster's own registry, through the API: with the kubeconfig's trust and identity.

use coracle_registry::client::{Answer, BoxError, Payload, Transport, Unsent};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use kube::client::Body;

use crate::client::Client;

/// Sends requests to the API.
pub struct Cluster(pub Client);

impl Transport for Cluster {
    async fn send(&self, request: Request<Payload>) -> Result<Response<Answer>, Unsent> {
        let (mut parts, payload) = request.into_parts();
        // The API is where the kubeconfig says, whatever name it has for itself.
        if let Some(path) = parts.uri.path_and_query() {
            parts.uri = Uri::from(path.clone());
        }
        let request = Request::from_parts(parts, Body::from(payload.into_bytes()));
        let response = self.0.send(request).await;
        let response = response.map_err(|e| Unsent::Broken(e.message))?;
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}
