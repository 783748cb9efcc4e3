//! The API by its own client library, for tests that need thousands of calls.

use http::Request;
use serde_json::Value;

use super::Cluster;

/// A client with a runtime of its own.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Api {
    /// The administrator's client.
    #[track_caller]
    pub fn of(cluster: &Cluster) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let file = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let client = runtime.block_on(async {
            let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default())
                .await
                .unwrap();
            // A test wants to see the first answer, whatever it is.
            config.default_retry = false;
            kube::Client::try_from(config).unwrap()
        });
        Self { runtime, client }
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Value, kube::Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(body)
            .unwrap();
        self.runtime.block_on(self.client.request(request))
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Value, kube::Error> {
        self.call("GET", path, "application/json", Vec::new())
    }

    /// POST.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value, kube::Error> {
        self.call(
            "POST",
            path,
            "application/json",
            object.to_string().into_bytes(),
        )
    }

    /// Server-side apply into a collection.
    pub fn apply(&self, collection: &str, object: &Value) -> Result<Value, kube::Error> {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.call(
            "PATCH",
            &format!("{collection}/{name}?fieldManager=e2e&force=true"),
            "application/apply-patch+yaml",
            object.to_string().into_bytes(),
        )
    }
}
