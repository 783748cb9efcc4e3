//! Messages of meta/v1 and of the other API groups.

use k8s_pb::api::apps::v1 as apps;
use k8s_pb::api::authentication::v1 as authentication;
use k8s_pb::api::authorization::v1 as authorization;
use k8s_pb::api::autoscaling::v1 as autoscaling;
use k8s_pb::api::coordination::v1 as coordination;
use k8s_pb::api::discovery::v1 as discovery;
use k8s_pb::api::networking::v1 as networking;
use k8s_pb::api::policy::v1 as policy;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;

use super::value::{messages, put};

messages! { meta {
    Condition {
        r#type => "type", status => "status", observed_generation => "observedGeneration", last_transition_time => "lastTransitionTime",
        reason => "reason", message => "message",
    }
    DeleteOptions {
        grace_period_seconds => "gracePeriodSeconds", preconditions => "preconditions", orphan_dependents => "orphanDependents",
        propagation_policy => "propagationPolicy", dry_run => "dryRun",
        ignore_store_read_error_with_cluster_breaking_potential => "ignoreStoreReadErrorWithClusterBreakingPotential",
    }
    FieldSelectorRequirement { key => "key", operator => "operator", values => "values" }
    LabelSelector { match_labels => "matchLabels", match_expressions => "matchExpressions" }
    LabelSelectorRequirement { key => "key", operator => "operator", values => "values" }
    ManagedFieldsEntry {
        manager => "manager", operation => "operation", api_version => "apiVersion", time => "time", fields_type => "fieldsType",
        fields_v1 => "fieldsV1", subresource => "subresource",
    }
    ObjectMeta {
        name => "name", generate_name => "generateName", namespace => "namespace", self_link => "selfLink", uid => "uid",
        resource_version => "resourceVersion", generation => "generation", creation_timestamp => "creationTimestamp",
        deletion_timestamp => "deletionTimestamp", deletion_grace_period_seconds => "deletionGracePeriodSeconds", labels => "labels",
        annotations => "annotations", owner_references => "ownerReferences", finalizers => "finalizers", managed_fields => "managedFields",
    }
    OwnerReference {
        api_version => "apiVersion", kind => "kind", name => "name", uid => "uid", controller => "controller",
        block_owner_deletion => "blockOwnerDeletion",
    }
    Preconditions { uid => "uid", resource_version => "resourceVersion" }
} }

messages! { apps {
    Deployment { metadata => "metadata", spec => "spec", status => "status" }
    DeploymentCondition {
        r#type => "type", status => "status", last_update_time => "lastUpdateTime", last_transition_time => "lastTransitionTime", reason => "reason",
        message => "message",
    }
    DeploymentSpec {
        replicas => "replicas", selector => "selector", template => "template", strategy => "strategy", min_ready_seconds => "minReadySeconds",
        revision_history_limit => "revisionHistoryLimit", paused => "paused", progress_deadline_seconds => "progressDeadlineSeconds",
    }
    DeploymentStatus {
        observed_generation => "observedGeneration", replicas => "replicas", updated_replicas => "updatedReplicas",
        ready_replicas => "readyReplicas", available_replicas => "availableReplicas", unavailable_replicas => "unavailableReplicas",
        terminating_replicas => "terminatingReplicas", conditions => "conditions", collision_count => "collisionCount",
    }
    DeploymentStrategy { r#type => "type", rolling_update => "rollingUpdate" }
    ReplicaSet { metadata => "metadata", spec => "spec", status => "status" }
    ReplicaSetCondition {
        r#type => "type", status => "status", last_transition_time => "lastTransitionTime", reason => "reason", message => "message",
    }
    ReplicaSetSpec { replicas => "replicas", min_ready_seconds => "minReadySeconds", selector => "selector", template => "template" }
    ReplicaSetStatus {
        replicas => "replicas", fully_labeled_replicas => "fullyLabeledReplicas", ready_replicas => "readyReplicas",
        available_replicas => "availableReplicas", terminating_replicas => "terminatingReplicas", observed_generation => "observedGeneration",
        conditions => "conditions",
    }
    RollingUpdateDeployment { max_unavailable => "maxUnavailable", max_surge => "maxSurge" }
} }

messages! { networking {
    HttpIngressPath { path => "path", path_type => "pathType", backend => "backend" }
    HttpIngressRuleValue { paths => "paths" }
    Ingress { metadata => "metadata", spec => "spec", status => "status" }
    IngressBackend { service => "service", resource => "resource" }
    IngressLoadBalancerIngress { ip => "ip", hostname => "hostname", ports => "ports" }
    IngressLoadBalancerStatus { ingress => "ingress" }
    IngressPortStatus { port => "port", protocol => "protocol", error => "error" }
    IngressRule { host => "host", ingress_rule_value => "" }
    IngressRuleValue { http => "http" }
    IngressServiceBackend { name => "name", port => "port" }
    IngressSpec { ingress_class_name => "ingressClassName", default_backend => "defaultBackend", tls => "tls", rules => "rules" }
    IngressStatus { load_balancer => "loadBalancer" }
    IngressTls { hosts => "hosts", secret_name => "secretName" }
    ServiceBackendPort { name => "name", number => "number" }
} }

messages! { coordination {
    Lease { metadata => "metadata", spec => "spec" }
    LeaseSpec {
        holder_identity => "holderIdentity", lease_duration_seconds => "leaseDurationSeconds", acquire_time => "acquireTime",
        renew_time => "renewTime", lease_transitions => "leaseTransitions", strategy => "strategy", preferred_holder => "preferredHolder",
    }
} }

messages! { discovery {
    Endpoint {
        addresses => "addresses", conditions => "conditions", hostname => "hostname", target_ref => "targetRef",
        deprecated_topology => "deprecatedTopology", node_name => "nodeName", zone => "zone", hints => "hints",
    }
    EndpointConditions { ready => "ready", serving => "serving", terminating => "terminating" }
    EndpointHints { for_zones => "forZones", for_nodes => "forNodes" }
    EndpointPort { name => "name", protocol => "protocol", port => "port", app_protocol => "appProtocol" }
    EndpointSlice { metadata => "metadata", address_type => "addressType", endpoints => "endpoints", ports => "ports" }
    ForNode { name => "name" }
    ForZone { name => "name" }
} }

messages! { policy {
    Eviction { metadata => "metadata", delete_options => "deleteOptions" }
} }

messages! { autoscaling {
    Scale { metadata => "metadata", spec => "spec", status => "status" }
    ScaleSpec { replicas => "replicas" }
    ScaleStatus { replicas => "replicas", selector => "selector" }
} }

messages! { authorization {
    FieldSelectorAttributes { raw_selector => "rawSelector", requirements => "requirements" }
    LabelSelectorAttributes { raw_selector => "rawSelector", requirements => "requirements" }
    NonResourceAttributes { path => "path", verb => "verb" }
    ResourceAttributes {
        namespace => "namespace", verb => "verb", group => "group", version => "version", resource => "resource", subresource => "subresource",
        name => "name", field_selector => "fieldSelector", label_selector => "labelSelector",
    }
    SelfSubjectAccessReview { metadata => "metadata", spec => "spec", status => "status" }
    SelfSubjectAccessReviewSpec { resource_attributes => "resourceAttributes", non_resource_attributes => "nonResourceAttributes" }
    SubjectAccessReviewStatus { allowed => "allowed", denied => "denied", reason => "reason", evaluation_error => "evaluationError" }
} }

messages! { authentication {
    SelfSubjectReview { metadata => "metadata", status => "status" }
    SelfSubjectReviewStatus { user_info => "userInfo" }
    UserInfo { username => "username", uid => "uid", groups => "groups", extra => "extra" }
} }
