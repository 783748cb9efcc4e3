//! Messages of core/v1 beside pods and volumes.

use k8s_pb::api::core::v1;

use super::value::{messages, put};

messages! { v1 {
    AttachedVolume { name => "name", device_path => "devicePath" }
    Binding { metadata => "metadata", target => "target" }
    ClientIpConfig { timeout_seconds => "timeoutSeconds" }
    ConfigMap { metadata => "metadata", immutable => "immutable", data => "data", binary_data => "binaryData" }
    ConfigMapEnvSource { local_object_reference => "", optional => "optional" }
    ConfigMapKeySelector { local_object_reference => "", key => "key", optional => "optional" }
    ConfigMapNodeConfigSource {
        namespace => "namespace", name => "name", uid => "uid", resource_version => "resourceVersion", kubelet_config_key => "kubeletConfigKey",
    }
    DaemonEndpoint { port => "port" }
    EndpointAddress { ip => "ip", hostname => "hostname", node_name => "nodeName", target_ref => "targetRef" }
    EndpointPort { name => "name", port => "port", protocol => "protocol", app_protocol => "appProtocol" }
    EndpointSubset { addresses => "addresses", not_ready_addresses => "notReadyAddresses", ports => "ports" }
    Endpoints { metadata => "metadata", subsets => "subsets" }
    Event {
        metadata => "metadata", involved_object => "involvedObject", reason => "reason", message => "message", source => "source",
        first_timestamp => "firstTimestamp", last_timestamp => "lastTimestamp", count => "count", r#type => "type", event_time => "eventTime",
        series => "series", action => "action", related => "related", reporting_component => "reportingComponent",
        reporting_instance => "reportingInstance",
    }
    EventSeries { count => "count", last_observed_time => "lastObservedTime" }
    EventSource { component => "component", host => "host" }
    LoadBalancerIngress { ip => "ip", hostname => "hostname", ip_mode => "ipMode", ports => "ports" }
    LoadBalancerStatus { ingress => "ingress" }
    Namespace { metadata => "metadata", spec => "spec", status => "status" }
    NamespaceCondition {
        r#type => "type", status => "status", last_transition_time => "lastTransitionTime", reason => "reason", message => "message",
    }
    NamespaceSpec { finalizers => "finalizers" }
    NamespaceStatus { phase => "phase", conditions => "conditions" }
    Node { metadata => "metadata", spec => "spec", status => "status" }
    NodeAddress { r#type => "type", address => "address" }
    NodeAffinity {
        required_during_scheduling_ignored_during_execution => "requiredDuringSchedulingIgnoredDuringExecution",
        preferred_during_scheduling_ignored_during_execution => "preferredDuringSchedulingIgnoredDuringExecution",
    }
    NodeCondition {
        r#type => "type", status => "status", last_heartbeat_time => "lastHeartbeatTime", last_transition_time => "lastTransitionTime",
        reason => "reason", message => "message",
    }
    NodeConfigSource { config_map => "configMap" }
    NodeConfigStatus { assigned => "assigned", active => "active", last_known_good => "lastKnownGood", error => "error" }
    NodeDaemonEndpoints { kubelet_endpoint => "kubeletEndpoint" }
    NodeFeatures { supplemental_groups_policy => "supplementalGroupsPolicy" }
    NodeRuntimeHandler { name => "name", features => "features" }
    NodeRuntimeHandlerFeatures { recursive_read_only_mounts => "recursiveReadOnlyMounts", user_namespaces => "userNamespaces" }
    NodeSelector { node_selector_terms => "nodeSelectorTerms" }
    NodeSelectorRequirement { key => "key", operator => "operator", values => "values" }
    NodeSelectorTerm { match_expressions => "matchExpressions", match_fields => "matchFields" }
    NodeSpec {
        pod_cidr => "podCIDR", pod_cid_rs => "podCIDRs", provider_id => "providerID", unschedulable => "unschedulable", taints => "taints",
        config_source => "configSource", external_id => "externalID",
    }
    NodeStatus {
        capacity => "capacity", allocatable => "allocatable", phase => "phase", conditions => "conditions", addresses => "addresses",
        daemon_endpoints => "daemonEndpoints", node_info => "nodeInfo", images => "images", volumes_in_use => "volumesInUse",
        volumes_attached => "volumesAttached", config => "config", runtime_handlers => "runtimeHandlers", features => "features",
        declared_features => "declaredFeatures",
    }
    NodeSwapStatus { capacity => "capacity" }
    NodeSystemInfo {
        machine_id => "machineID", system_uuid => "systemUUID", boot_id => "bootID", kernel_version => "kernelVersion", os_image => "osImage",
        container_runtime_version => "containerRuntimeVersion", kubelet_version => "kubeletVersion", kube_proxy_version => "kubeProxyVersion",
        operating_system => "operatingSystem", architecture => "architecture", swap => "swap",
    }
    ReplicationController { metadata => "metadata", spec => "spec", status => "status" }
    ReplicationControllerCondition {
        r#type => "type", status => "status", last_transition_time => "lastTransitionTime", reason => "reason", message => "message",
    }
    ReplicationControllerSpec { replicas => "replicas", min_ready_seconds => "minReadySeconds", selector => "selector", template => "template" }
    ReplicationControllerStatus {
        replicas => "replicas", fully_labeled_replicas => "fullyLabeledReplicas", ready_replicas => "readyReplicas",
        available_replicas => "availableReplicas", observed_generation => "observedGeneration", conditions => "conditions",
    }
    Service { metadata => "metadata", spec => "spec", status => "status" }
    ServiceAccount {
        metadata => "metadata", secrets => "secrets", image_pull_secrets => "imagePullSecrets",
        automount_service_account_token => "automountServiceAccountToken",
    }
    ServicePort {
        name => "name", protocol => "protocol", app_protocol => "appProtocol", port => "port", target_port => "targetPort", node_port => "nodePort",
    }
    ServiceSpec {
        ports => "ports", selector => "selector", cluster_ip => "clusterIP", cluster_ips => "clusterIPs", r#type => "type",
        external_ips => "externalIPs", session_affinity => "sessionAffinity", load_balancer_ip => "loadBalancerIP",
        load_balancer_source_ranges => "loadBalancerSourceRanges", external_name => "externalName",
        external_traffic_policy => "externalTrafficPolicy", health_check_node_port => "healthCheckNodePort",
        publish_not_ready_addresses => "publishNotReadyAddresses", session_affinity_config => "sessionAffinityConfig", ip_families => "ipFamilies",
        ip_family_policy => "ipFamilyPolicy", allocate_load_balancer_node_ports => "allocateLoadBalancerNodePorts",
        load_balancer_class => "loadBalancerClass", internal_traffic_policy => "internalTrafficPolicy",
        traffic_distribution => "trafficDistribution",
    }
    ServiceStatus { load_balancer => "loadBalancer", conditions => "conditions" }
    SessionAffinityConfig { client_ip => "clientIP" }
} }
