//! Messages of core/v1 that make up a Pod: field name in the generated struct, name in JSON ("" = inlined).

use k8s_pb::api::core::v1;

use super::value::{messages, put};

messages! { v1 {
    Affinity { node_affinity => "nodeAffinity", pod_affinity => "podAffinity", pod_anti_affinity => "podAntiAffinity" }
    AppArmorProfile { r#type => "type", localhost_profile => "localhostProfile" }
    Capabilities { add => "add", drop => "drop" }
    Container {
        name => "name", image => "image", command => "command", args => "args", working_dir => "workingDir", ports => "ports", env_from => "envFrom",
        env => "env", resources => "resources", resize_policy => "resizePolicy", restart_policy => "restartPolicy",
        restart_policy_rules => "restartPolicyRules", volume_mounts => "volumeMounts", volume_devices => "volumeDevices",
        liveness_probe => "livenessProbe", readiness_probe => "readinessProbe", startup_probe => "startupProbe", lifecycle => "lifecycle",
        termination_message_path => "terminationMessagePath", termination_message_policy => "terminationMessagePolicy",
        image_pull_policy => "imagePullPolicy", security_context => "securityContext", stdin => "stdin", stdin_once => "stdinOnce", tty => "tty",
    }
    ContainerExtendedResourceRequest { container_name => "containerName", resource_name => "resourceName", request_name => "requestName" }
    ContainerImage { names => "names", size_bytes => "sizeBytes" }
    ContainerPort { name => "name", host_port => "hostPort", container_port => "containerPort", protocol => "protocol", host_ip => "hostIP" }
    ContainerResizePolicy { resource_name => "resourceName", restart_policy => "restartPolicy" }
    ContainerRestartRule { action => "action", exit_codes => "exitCodes" }
    ContainerRestartRuleOnExitCodes { operator => "operator", values => "values" }
    ContainerState { waiting => "waiting", running => "running", terminated => "terminated" }
    ContainerStateRunning { started_at => "startedAt" }
    ContainerStateTerminated {
        exit_code => "exitCode", signal => "signal", reason => "reason", message => "message", started_at => "startedAt",
        finished_at => "finishedAt", container_id => "containerID",
    }
    ContainerStateWaiting { reason => "reason", message => "message" }
    ContainerStatus {
        name => "name", state => "state", last_state => "lastState", ready => "ready", restart_count => "restartCount", image => "image",
        image_id => "imageID", container_id => "containerID", started => "started", allocated_resources => "allocatedResources",
        resources => "resources", volume_mounts => "volumeMounts", user => "user", allocated_resources_status => "allocatedResourcesStatus",
        stop_signal => "stopSignal",
    }
    ContainerUser { linux => "linux" }
    DownwardAPIVolumeFile { path => "path", field_ref => "fieldRef", resource_field_ref => "resourceFieldRef", mode => "mode" }
    EnvFromSource { prefix => "prefix", config_map_ref => "configMapRef", secret_ref => "secretRef" }
    EnvVar { name => "name", value => "value", value_from => "valueFrom" }
    EnvVarSource {
        field_ref => "fieldRef", resource_field_ref => "resourceFieldRef", config_map_key_ref => "configMapKeyRef", secret_key_ref => "secretKeyRef",
        file_key_ref => "fileKeyRef",
    }
    EphemeralContainer { ephemeral_container_common => "", target_container_name => "targetContainerName" }
    EphemeralContainerCommon {
        name => "name", image => "image", command => "command", args => "args", working_dir => "workingDir", ports => "ports", env_from => "envFrom",
        env => "env", resources => "resources", resize_policy => "resizePolicy", restart_policy => "restartPolicy",
        restart_policy_rules => "restartPolicyRules", volume_mounts => "volumeMounts", volume_devices => "volumeDevices",
        liveness_probe => "livenessProbe", readiness_probe => "readinessProbe", startup_probe => "startupProbe", lifecycle => "lifecycle",
        termination_message_path => "terminationMessagePath", termination_message_policy => "terminationMessagePolicy",
        image_pull_policy => "imagePullPolicy", security_context => "securityContext", stdin => "stdin", stdin_once => "stdinOnce", tty => "tty",
    }
    ExecAction { command => "command" }
    FileKeySelector { volume_name => "volumeName", path => "path", key => "key", optional => "optional" }
    GrpcAction { port => "port", service => "service" }
    HostAlias { ip => "ip", hostnames => "hostnames" }
    HostIp { ip => "ip" }
    HttpGetAction { path => "path", port => "port", host => "host", scheme => "scheme", http_headers => "httpHeaders" }
    HttpHeader { name => "name", value => "value" }
    KeyToPath { key => "key", path => "path", mode => "mode" }
    Lifecycle { post_start => "postStart", pre_stop => "preStop", stop_signal => "stopSignal" }
    LifecycleHandler { exec => "exec", http_get => "httpGet", tcp_socket => "tcpSocket", sleep => "sleep" }
    LinuxContainerUser { uid => "uid", gid => "gid", supplemental_groups => "supplementalGroups" }
    LocalObjectReference { name => "name" }
    ObjectFieldSelector { api_version => "apiVersion", field_path => "fieldPath" }
    ObjectReference {
        kind => "kind", namespace => "namespace", name => "name", uid => "uid", api_version => "apiVersion", resource_version => "resourceVersion",
        field_path => "fieldPath",
    }
    PersistentVolumeClaimSpec {
        access_modes => "accessModes", selector => "selector", resources => "resources", volume_name => "volumeName",
        storage_class_name => "storageClassName", volume_mode => "volumeMode", data_source => "dataSource", data_source_ref => "dataSourceRef",
        volume_attributes_class_name => "volumeAttributesClassName",
    }
    PersistentVolumeClaimTemplate { metadata => "metadata", spec => "spec" }
    Pod { metadata => "metadata", spec => "spec", status => "status" }
    PodAffinity {
        required_during_scheduling_ignored_during_execution => "requiredDuringSchedulingIgnoredDuringExecution",
        preferred_during_scheduling_ignored_during_execution => "preferredDuringSchedulingIgnoredDuringExecution",
    }
    PodAffinityTerm {
        label_selector => "labelSelector", namespaces => "namespaces", topology_key => "topologyKey", namespace_selector => "namespaceSelector",
        match_label_keys => "matchLabelKeys", mismatch_label_keys => "mismatchLabelKeys",
    }
    PodAntiAffinity {
        required_during_scheduling_ignored_during_execution => "requiredDuringSchedulingIgnoredDuringExecution",
        preferred_during_scheduling_ignored_during_execution => "preferredDuringSchedulingIgnoredDuringExecution",
    }
    PodCondition {
        r#type => "type", observed_generation => "observedGeneration", status => "status", last_probe_time => "lastProbeTime",
        last_transition_time => "lastTransitionTime", reason => "reason", message => "message",
    }
    PodDnsConfig { nameservers => "nameservers", searches => "searches", options => "options" }
    PodDnsConfigOption { name => "name", value => "value" }
    PodExtendedResourceClaimStatus { request_mappings => "requestMappings", resource_claim_name => "resourceClaimName" }
    PodIp { ip => "ip" }
    PodOs { name => "name" }
    PodReadinessGate { condition_type => "conditionType" }
    PodResourceClaim { name => "name", resource_claim_name => "resourceClaimName", resource_claim_template_name => "resourceClaimTemplateName" }
    PodResourceClaimStatus { name => "name", resource_claim_name => "resourceClaimName" }
    PodSchedulingGate { name => "name" }
    PodSecurityContext {
        se_linux_options => "seLinuxOptions", windows_options => "windowsOptions", run_as_user => "runAsUser", run_as_group => "runAsGroup",
        run_as_non_root => "runAsNonRoot", supplemental_groups => "supplementalGroups", supplemental_groups_policy => "supplementalGroupsPolicy",
        fs_group => "fsGroup", sysctls => "sysctls", fs_group_change_policy => "fsGroupChangePolicy", seccomp_profile => "seccompProfile",
        app_armor_profile => "appArmorProfile", se_linux_change_policy => "seLinuxChangePolicy",
    }
    PodSpec {
        volumes => "volumes", init_containers => "initContainers", containers => "containers", ephemeral_containers => "ephemeralContainers",
        restart_policy => "restartPolicy", termination_grace_period_seconds => "terminationGracePeriodSeconds",
        active_deadline_seconds => "activeDeadlineSeconds", dns_policy => "dnsPolicy", node_selector => "nodeSelector",
        service_account_name => "serviceAccountName", service_account => "serviceAccount",
        automount_service_account_token => "automountServiceAccountToken", node_name => "nodeName", host_network => "hostNetwork",
        host_pid => "hostPID", host_ipc => "hostIPC", share_process_namespace => "shareProcessNamespace", security_context => "securityContext",
        image_pull_secrets => "imagePullSecrets", hostname => "hostname", subdomain => "subdomain", affinity => "affinity",
        scheduler_name => "schedulerName", tolerations => "tolerations", host_aliases => "hostAliases", priority_class_name => "priorityClassName",
        priority => "priority", dns_config => "dnsConfig", readiness_gates => "readinessGates", runtime_class_name => "runtimeClassName",
        enable_service_links => "enableServiceLinks", preemption_policy => "preemptionPolicy", overhead => "overhead",
        topology_spread_constraints => "topologySpreadConstraints", set_hostname_as_fqdn => "setHostnameAsFQDN", os => "os",
        host_users => "hostUsers", scheduling_gates => "schedulingGates", resource_claims => "resourceClaims", resources => "resources",
        hostname_override => "hostnameOverride", workload_ref => "workloadRef",
    }
    PodStatus {
        observed_generation => "observedGeneration", phase => "phase", conditions => "conditions", message => "message", reason => "reason",
        nominated_node_name => "nominatedNodeName", host_ip => "hostIP", host_ips => "hostIPs", pod_ip => "podIP", pod_ips => "podIPs",
        start_time => "startTime", init_container_statuses => "initContainerStatuses", container_statuses => "containerStatuses",
        qos_class => "qosClass", ephemeral_container_statuses => "ephemeralContainerStatuses", resize => "resize",
        resource_claim_statuses => "resourceClaimStatuses", extended_resource_claim_status => "extendedResourceClaimStatus",
        allocated_resources => "allocatedResources", resources => "resources",
    }
    PodTemplateSpec { metadata => "metadata", spec => "spec" }
    PortStatus { port => "port", protocol => "protocol", error => "error" }
    PreferredSchedulingTerm { weight => "weight", preference => "preference" }
    Probe {
        handler => "", initial_delay_seconds => "initialDelaySeconds", timeout_seconds => "timeoutSeconds", period_seconds => "periodSeconds",
        success_threshold => "successThreshold", failure_threshold => "failureThreshold",
        termination_grace_period_seconds => "terminationGracePeriodSeconds",
    }
    ProbeHandler { exec => "exec", http_get => "httpGet", tcp_socket => "tcpSocket", grpc => "grpc" }
    ResourceClaim { name => "name", request => "request" }
    ResourceFieldSelector { container_name => "containerName", resource => "resource", divisor => "divisor" }
    ResourceHealth { resource_id => "resourceID", health => "health" }
    ResourceRequirements { limits => "limits", requests => "requests", claims => "claims" }
    ResourceStatus { name => "name", resources => "resources" }
    SeLinuxOptions { user => "user", role => "role", r#type => "type", level => "level" }
    SeccompProfile { r#type => "type", localhost_profile => "localhostProfile" }
    Secret { metadata => "metadata", immutable => "immutable", data => "data", string_data => "stringData", r#type => "type" }
    SecretEnvSource { local_object_reference => "", optional => "optional" }
    SecretKeySelector { local_object_reference => "", key => "key", optional => "optional" }
    SecurityContext {
        capabilities => "capabilities", privileged => "privileged", se_linux_options => "seLinuxOptions", windows_options => "windowsOptions",
        run_as_user => "runAsUser", run_as_group => "runAsGroup", run_as_non_root => "runAsNonRoot",
        read_only_root_filesystem => "readOnlyRootFilesystem", allow_privilege_escalation => "allowPrivilegeEscalation", proc_mount => "procMount",
        seccomp_profile => "seccompProfile", app_armor_profile => "appArmorProfile",
    }
    SleepAction { seconds => "seconds" }
    Sysctl { name => "name", value => "value" }
    Taint { key => "key", value => "value", effect => "effect", time_added => "timeAdded" }
    TcpSocketAction { port => "port", host => "host" }
    Toleration { key => "key", operator => "operator", value => "value", effect => "effect", toleration_seconds => "tolerationSeconds" }
    TopologySpreadConstraint {
        max_skew => "maxSkew", topology_key => "topologyKey", when_unsatisfiable => "whenUnsatisfiable", label_selector => "labelSelector",
        min_domains => "minDomains", node_affinity_policy => "nodeAffinityPolicy", node_taints_policy => "nodeTaintsPolicy",
        match_label_keys => "matchLabelKeys",
    }
    TypedLocalObjectReference { api_group => "apiGroup", kind => "kind", name => "name" }
    TypedObjectReference { api_group => "apiGroup", kind => "kind", name => "name", namespace => "namespace" }
    Volume { name => "name", volume_source => "" }
    VolumeDevice { name => "name", device_path => "devicePath" }
    VolumeMount {
        name => "name", read_only => "readOnly", recursive_read_only => "recursiveReadOnly", mount_path => "mountPath", sub_path => "subPath",
        mount_propagation => "mountPropagation", sub_path_expr => "subPathExpr",
    }
    VolumeMountStatus { name => "name", mount_path => "mountPath", read_only => "readOnly", recursive_read_only => "recursiveReadOnly" }
    VolumeResourceRequirements { limits => "limits", requests => "requests" }
    WeightedPodAffinityTerm { weight => "weight", pod_affinity_term => "podAffinityTerm" }
    WindowsSecurityContextOptions {
        gmsa_credential_spec_name => "gmsaCredentialSpecName", gmsa_credential_spec => "gmsaCredentialSpec", run_as_user_name => "runAsUserName",
        host_process => "hostProcess",
    }
    WorkloadReference { name => "name", pod_group => "podGroup", pod_group_replica_key => "podGroupReplicaKey" }
} }
