//! Messages of core/v1 that are volume sources and projections.

use k8s_pb::api::core::v1;

use super::value::{messages, put};

messages! { v1 {
    AwsElasticBlockStoreVolumeSource { volume_id => "volumeID", fs_type => "fsType", partition => "partition", read_only => "readOnly" }
    AzureDiskVolumeSource {
        disk_name => "diskName", disk_uri => "diskURI", caching_mode => "cachingMode", fs_type => "fsType", read_only => "readOnly", kind => "kind",
    }
    AzureFileVolumeSource { secret_name => "secretName", share_name => "shareName", read_only => "readOnly" }
    CSIVolumeSource {
        driver => "driver", read_only => "readOnly", fs_type => "fsType", volume_attributes => "volumeAttributes",
        node_publish_secret_ref => "nodePublishSecretRef",
    }
    CephFsVolumeSource {
        monitors => "monitors", path => "path", user => "user", secret_file => "secretFile", secret_ref => "secretRef", read_only => "readOnly",
    }
    CinderVolumeSource { volume_id => "volumeID", fs_type => "fsType", read_only => "readOnly", secret_ref => "secretRef" }
    ClusterTrustBundleProjection {
        name => "name", signer_name => "signerName", label_selector => "labelSelector", optional => "optional", path => "path",
    }
    ConfigMapProjection { local_object_reference => "", items => "items", optional => "optional" }
    ConfigMapVolumeSource { local_object_reference => "", items => "items", default_mode => "defaultMode", optional => "optional" }
    DownwardAPIProjection { items => "items" }
    DownwardAPIVolumeSource { items => "items", default_mode => "defaultMode" }
    EmptyDirVolumeSource { medium => "medium", size_limit => "sizeLimit" }
    EphemeralVolumeSource { volume_claim_template => "volumeClaimTemplate" }
    FcVolumeSource { target_ww_ns => "targetWWNs", lun => "lun", fs_type => "fsType", read_only => "readOnly", wwids => "wwids" }
    FlexVolumeSource { driver => "driver", fs_type => "fsType", secret_ref => "secretRef", read_only => "readOnly", options => "options" }
    FlockerVolumeSource { dataset_name => "datasetName", dataset_uuid => "datasetUUID" }
    GcePersistentDiskVolumeSource { pd_name => "pdName", fs_type => "fsType", partition => "partition", read_only => "readOnly" }
    GitRepoVolumeSource { repository => "repository", revision => "revision", directory => "directory" }
    GlusterfsVolumeSource { endpoints => "endpoints", path => "path", read_only => "readOnly" }
    HostPathVolumeSource { path => "path", r#type => "type" }
    ImageVolumeSource { reference => "reference", pull_policy => "pullPolicy" }
    IscsiVolumeSource {
        target_portal => "targetPortal", iqn => "iqn", lun => "lun", iscsi_interface => "iscsiInterface", fs_type => "fsType",
        read_only => "readOnly", portals => "portals", chap_auth_discovery => "chapAuthDiscovery", chap_auth_session => "chapAuthSession",
        secret_ref => "secretRef", initiator_name => "initiatorName",
    }
    NfsVolumeSource { server => "server", path => "path", read_only => "readOnly" }
    PersistentVolumeClaimVolumeSource { claim_name => "claimName", read_only => "readOnly" }
    PhotonPersistentDiskVolumeSource { pd_id => "pdID", fs_type => "fsType" }
    PodCertificateProjection {
        signer_name => "signerName", key_type => "keyType", max_expiration_seconds => "maxExpirationSeconds",
        credential_bundle_path => "credentialBundlePath", key_path => "keyPath", certificate_chain_path => "certificateChainPath",
        user_annotations => "userAnnotations",
    }
    PortworxVolumeSource { volume_id => "volumeID", fs_type => "fsType", read_only => "readOnly" }
    ProjectedVolumeSource { sources => "sources", default_mode => "defaultMode" }
    QuobyteVolumeSource { registry => "registry", volume => "volume", read_only => "readOnly", user => "user", group => "group", tenant => "tenant" }
    RbdVolumeSource {
        monitors => "monitors", image => "image", fs_type => "fsType", pool => "pool", user => "user", keyring => "keyring",
        secret_ref => "secretRef", read_only => "readOnly",
    }
    ScaleIoVolumeSource {
        gateway => "gateway", system => "system", secret_ref => "secretRef", ssl_enabled => "sslEnabled", protection_domain => "protectionDomain",
        storage_pool => "storagePool", storage_mode => "storageMode", volume_name => "volumeName", fs_type => "fsType", read_only => "readOnly",
    }
    SecretProjection { local_object_reference => "", items => "items", optional => "optional" }
    SecretVolumeSource { secret_name => "secretName", items => "items", default_mode => "defaultMode", optional => "optional" }
    ServiceAccountTokenProjection { audience => "audience", expiration_seconds => "expirationSeconds", path => "path" }
    StorageOsVolumeSource {
        volume_name => "volumeName", volume_namespace => "volumeNamespace", fs_type => "fsType", read_only => "readOnly", secret_ref => "secretRef",
    }
    VolumeProjection {
        secret => "secret", downward_api => "downwardAPI", config_map => "configMap", service_account_token => "serviceAccountToken",
        cluster_trust_bundle => "clusterTrustBundle", pod_certificate => "podCertificate",
    }
    VolumeSource {
        host_path => "hostPath", empty_dir => "emptyDir", gce_persistent_disk => "gcePersistentDisk",
        aws_elastic_block_store => "awsElasticBlockStore", git_repo => "gitRepo", secret => "secret", nfs => "nfs", iscsi => "iscsi",
        glusterfs => "glusterfs", persistent_volume_claim => "persistentVolumeClaim", rbd => "rbd", flex_volume => "flexVolume", cinder => "cinder",
        cephfs => "cephfs", flocker => "flocker", downward_api => "downwardAPI", fc => "fc", azure_file => "azureFile", config_map => "configMap",
        vsphere_volume => "vsphereVolume", quobyte => "quobyte", azure_disk => "azureDisk", photon_persistent_disk => "photonPersistentDisk",
        projected => "projected", portworx_volume => "portworxVolume", scale_io => "scaleIO", storageos => "storageos", csi => "csi",
        ephemeral => "ephemeral", image => "image",
    }
    VsphereVirtualDiskVolumeSource {
        volume_path => "volumePath", fs_type => "fsType", storage_policy_name => "storagePolicyName", storage_policy_id => "storagePolicyID",
    }
} }
