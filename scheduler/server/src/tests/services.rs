//! Addresses and node ports of Services.

use coracle_state::{Claim, Command, Expect, Key};
use serde_json::json;

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut s = json!({"metadata": {"name": name}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
    for (k, v) in spec.as_object().unwrap() {
        s["spec"][k] = v.clone();
    }
    s
}

#[tokio::test]
async fn a_service_gets_an_address_and_keeps_it() {
    let s = Server::new().await;
    let made = s
        .post(SERVICES)
        .body(&service("a", json!({})))
        .send()
        .await
        .expect(201);
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_string();
    assert!(
        ip.starts_with("10.43.") && made["spec"]["clusterIPs"] == json!([ip]),
        "{made}"
    );
    // A PUT without the address keeps it; another address is refused.
    let kept = s
        .put(&format!("{SERVICES}/a"))
        .body(&service("a", json!({"sessionAffinity": "None"})))
        .send()
        .await
        .expect(200);
    assert_eq!(kept["spec"]["clusterIP"], ip);
    s.put(&format!("{SERVICES}/a"))
        .body(&service("a", json!({"clusterIP": "10.43.9.9"})))
        .send()
        .await
        .refused(422, "Invalid");
    let status = s
        .post(SERVICES)
        .body(&service("b", json!({"clusterIP": ip})))
        .send()
        .await
        .refused(422, "Invalid");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("already allocated"),
        "{status}"
    );
    s.post(SERVICES)
        .body(&service("b", json!({"clusterIP": "192.168.0.1"})))
        .send()
        .await
        .refused(422, "Invalid");
    s.delete(&format!("{SERVICES}/a")).send().await.expect(200);
    s.post(SERVICES)
        .body(&service("b", json!({"clusterIP": ip})))
        .send()
        .await
        .expect(201);
    let headless = s
        .post(SERVICES)
        .body(&service("h", json!({"clusterIP": "None"})))
        .send()
        .await
        .expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn node_ports_are_chosen_claimed_and_given_back() {
    let s = Server::new().await;
    let made = s
        .post(SERVICES)
        .body(&service("a", json!({"type": "NodePort"})))
        .send()
        .await
        .expect(201);
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let status = s
        .post(SERVICES)
        .body(&service("b", taken.clone()))
        .send()
        .await
        .refused(422, "Invalid");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("already allocated"),
        "{status}"
    );
    s.post(SERVICES)
        .body(&service(
            "b",
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
        ))
        .send()
        .await
        .refused(422, "Invalid");
    let back = s
        .patch(
            &format!("{SERVICES}/a"),
            MERGE,
            &json!({"spec": {"type": "ClusterIP"}}),
        )
        .send()
        .await
        .expect(200);
    assert!(back["spec"]["ports"][0]["nodePort"].is_null());
    s.post(SERVICES)
        .body(&service("b", taken))
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn an_address_taken_meanwhile_is_chosen_again() {
    // Six addresses; between the look and the write a rival takes five of them.
    let s = Server::with_services(Range {
        base: std::net::Ipv4Addr::new(10, 9, 0, 0),
        prefix: 29,
    })
    .await;
    let rivals = (1..=5).map(|i| {
        let claims = vec![Claim::Unique {
            space: "clusterIP".into(),
            value: format!("10.9.0.{i}"),
        }];
        Command::put(
            "services",
            Key::new("default", format!("rival{i}")),
            Expect::Absent,
            Default::default(),
            claims,
        )
    });
    s.fake.rivals.lock().unwrap().extend(rivals);
    let made = s
        .post(SERVICES)
        .body(&service("a", json!({})))
        .send()
        .await
        .expect(201);
    assert_eq!(made["spec"]["clusterIP"], "10.9.0.6");
    let status = s
        .post(SERVICES)
        .body(&service("b", json!({})))
        .send()
        .await
        .refused(500, "InternalError");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("E_SERVICE_RANGE_FULL"),
        "{status}"
    );
}
