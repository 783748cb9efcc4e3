//! What every cluster has from its first moment: the four namespaces, furnished, and the Service `kubernetes`.

use coracle_api::{Ids, Key, Kind, Timestamp, canonical, claims, kinds, meta};
use coracle_state::{Command, Expect, View};
use serde_json::{Value, json};

use crate::namespace::BUILT_IN;

/// Address of the Service `kubernetes`: the first of the service range 10.43.0.0/16.
pub const API_CLUSTER_IP: &str = "10.43.0.1";

/// Commands that make or mend what is missing; none if nothing is. Proposed by a new leader before its first plan.
/// `ca_pem` is the CA bundle for `kube-root-ca.crt`, `api_port` the port the API listens on.
pub fn bootstrap(
    view: &View,
    now: Timestamp,
    ids: &mut Ids,
    ca_pem: &str,
    api_port: u16,
) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut create = |table: &str, object: Value| {
        if let Some(kind) = kinds::by_table(table)
            && view.get(table, &meta::key(&object)).is_none()
        {
            commands.push(put(kind, object, Expect::Absent, now, ids));
        }
    };
    for name in BUILT_IN {
        let labels = json!({"kubernetes.io/metadata.name": name});
        create(
            "namespaces",
            json!({"metadata": {"name": name, "labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        );
        create(
            "serviceaccounts",
            json!({"metadata": {"name": "default", "namespace": name}}),
        );
        if !ca_pem.is_empty() {
            let note = "Contains a CA bundle that can be used to verify the API server.";
            let metadata = json!({"name": "kube-root-ca.crt", "namespace": name, "annotations": {"kubernetes.io/description": note}});
            create(
                "configmaps",
                json!({"metadata": metadata, "data": {"ca.crt": ca_pem}}),
            );
        }
    }
    let ports = json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api_port}]);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let spec = json!({"clusterIP": API_CLUSTER_IP, "clusterIPs": [API_CLUSTER_IP], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": ports, "sessionAffinity": "None", "type": "ClusterIP"});
    let service = json!({"metadata": {"name": "kubernetes", "namespace": "default", "labels": labels}, "spec": spec, "status": {"loadBalancer": {}}});
    create("services", service);
    // The port may have changed since the last start.
    if let (Some(kind), Some(old)) = (
        kinds::by_table("services"),
        view.get("services", &Key::new("default", "kubernetes")),
    ) {
        let mut service = old.value();
        if service["spec"]["ports"] != ports {
            service["spec"]["ports"] = ports;
            commands.push(put(kind, service, Expect::Revision(old.revision), now, ids));
        }
    }
    commands
}

fn put(kind: &Kind, mut object: Value, expect: Expect, now: Timestamp, ids: &mut Ids) -> Command {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
    let metadata = meta::metadata(&mut object);
    metadata.entry("uid").or_insert_with(|| json!(ids.uid()));
    metadata
        .entry("creationTimestamp")
        .or_insert_with(|| json!(meta::time_text(now)));
    let held = claims::of(kind, &object);
    Command::put(
        kind.table,
        meta::key(&object),
        expect,
        canonical::encode(&object),
        held,
    )
}
